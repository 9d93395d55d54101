"""What the tests of supervisors share: a clock and dice under the test's control, and a diary."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tests.support.actors import Log, Probe
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import (
    Backoff,
    ChildInfo,
    ChildSpec,
    ChildState,
    SupervisorActor,
    WhichChildren,
)

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher, ExitReason

LONG = Backoff(min_seconds=3600, max_seconds=3600, stability_seconds=10)
"""A delay that no test outlives."""


class Dice(random.Random):
    """Stands for a random number generator: takes the same share of every range."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.ranges: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return low + (high - low) * self.share


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Diary(SupervisorActor):
    """A supervisor that logs what its hooks are told."""

    def __init__(self, log: Log, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log = log

    def on_child_started(self, child_id: str, ref: ActorRef[Any]) -> None:
        self.log.add(("started", child_id))

    def on_child_ended(self, child_id: str, ref: ActorRef[Any], reason: ExitReason) -> None:
        self.log.add(("ended", child_id, str(reason)))

    def on_child_waiting(self, child_id: str, delay_seconds: float) -> None:
        self.log.add(("waiting", child_id, delay_seconds))

    def on_child_quarantined(self, child_id: str, reason: ExitReason) -> None:
        self.log.add(("quarantined", child_id, str(reason)))


def worker(
    name: str, log: Log | None = None, *, dispatcher: Dispatcher | None = None, **spec: Any
) -> ChildSpec:
    """Return the spec of a probe that logs its life."""
    return ChildSpec(
        name,
        lambda: Probe.start(log, name=name, hooks=log is not None, dispatcher=dispatcher),
        **spec,
    )


def children(ref: ActorRef[Any]) -> dict[str, ChildInfo]:
    """Return what a supervisor tells about its children, by id."""
    return {info.id: info for info in ref.ask(WhichChildren(), timeout=WAIT_SECONDS)}


def child(ref: ActorRef[Any], child_id: str) -> Any:
    """Return the ref of a running child, of whatever kind of actor."""
    found = children(ref)[child_id].ref
    assert found is not None
    return found


def wait_state(ref: ActorRef[Any], child_id: str, state: ChildState) -> ChildInfo:
    """Wait until a child is in a state."""
    eventually(lambda: children(ref)[child_id].state is state)
    return children(ref)[child_id]
