"""Supervision against a world: actors that start, fail, stop late or not at all, and timers.

Whatever happens in whatever order: no child runs twice, one child's trouble under one_for_one stops
no other, a permanent child that is down comes back by a timer, and a supervisor that is asked to
end does so with no child left.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.examples import stateful_settings
from tunnelfleet.actors.kernel import KILLED, NORMAL, SHUTDOWN, Backoff, ChildSpec, ExitReason
from tunnelfleet.actors.kernel.children import AutoShutdown, ChildState, Restart, Strategy
from tunnelfleet.actors.kernel.supervision import Supervision
from tunnelfleet.actors.kernel.supervisor_messages import (
    AskToStop,
    CancelGroupTimers,
    CancelTimer,
    ExitNow,
    Force,
    GroupAfter,
    RestartAfter,
    StartNow,
    StopOnTurn,
)

BACKOFF = Backoff(min_seconds=1.0, max_seconds=8.0, stability_seconds=30.0)
FAILED = ExitReason.failed(RuntimeError("broken"))
IDS = ("a", "b", "c", "d")
children = st.lists(
    st.tuples(st.sampled_from(list(Restart)), st.booleans()), min_size=1, max_size=len(IDS)
)


class Ref:
    """Stands for an actor that runs."""


def _runs(model: Any) -> bool:
    return model.exited is None


class SupervisionModel(RuleBasedStateMachine):
    """Facts in any order that can happen; the actions are carried out on a world of sets."""

    @initialize(kinds=children, strategy=st.sampled_from(list(Strategy)), seed=st.integers(0, 99))
    def begin(self, kinds: list[tuple[Restart, bool]], strategy: Strategy, seed: int) -> None:
        specs = [
            ChildSpec(
                child_id,
                Ref,  # type: ignore[arg-type]
                restart=restart,
                backoff=BACKOFF,
                quarantine_after=3,
                independent=independent,
            )
            for child_id, (restart, independent) in zip(IDS, kinds, strict=False)
        ]
        self.strategy, self.now, self.starts_fail = strategy, 0.0, False
        self.live: dict[str, Any] = {}
        self.asked: set[str] = set()
        self.timers: dict[str, Any] = {}
        self.group_timers = 0
        self.turns = 0
        self.exited: ExitReason | None = None
        self.asked_to_end = False
        self.core = Supervision(
            specs,
            strategy=strategy,
            max_restarts=3,
            period_seconds=5.0,
            auto_shutdown=AutoShutdown.NEVER,
            rng=random.Random(seed),
        )
        self.do(self.core.begin())

    def do(self, actions: list[Any]) -> None:
        """Carry them out, and those that follow from them, in order, as the supervisor does."""
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            child = getattr(action, "child", None)
            name = "" if child is None else child.spec.id
            match action:
                case StartNow():
                    assert name not in self.live, "it runs twice"
                    assert self.exited is None
                    if self.starts_fail:
                        todo += self.core.start_failed(action, RuntimeError("no"), self.now)
                    else:
                        ref: Any = Ref()
                        self.live[name] = ref
                        todo += self.core.started(action, ref, self.now)
                case AskToStop() | Force():
                    assert name in self.live
                    self.asked.add(name)
                case RestartAfter(_, seconds):
                    assert 0.0 <= seconds <= BACKOFF.max_seconds
                    self.timers[name] = child
                case CancelTimer():
                    self.timers.pop(name, None)
                case GroupAfter():
                    self.group_timers += 1
                case CancelGroupTimers():
                    self.group_timers = 0
                case StopOnTurn():
                    self.turns += 1
                case ExitNow(reason):
                    self.exited = reason

    @precondition(_runs)
    @rule(data=st.data(), reason=st.sampled_from([FAILED, FAILED, NORMAL]))
    def one_ends_by_itself(self, data: st.DataObject, reason: ExitReason) -> None:
        own = sorted(set(self.live) - self.asked)
        if own:
            before = set(self.asked)
            self._end(data.draw(st.sampled_from(own)), reason)
            if self.strategy is Strategy.ONE_FOR_ONE and not self.asked_to_end:
                assert self.asked <= before, "another one was stopped"

    @precondition(_runs)
    @rule(data=st.data(), killed=st.booleans())
    def one_that_was_asked_ends(self, data: st.DataObject, killed: bool) -> None:
        if self.asked:
            name = data.draw(st.sampled_from(sorted(self.asked)))
            self._end(name, KILLED if killed else SHUTDOWN)

    def _end(self, name: str, reason: ExitReason) -> None:
        self.asked.discard(name)
        self.do(self.core.ended(self.live.pop(name), reason, self.now))

    @precondition(_runs)
    @rule(data=st.data(), seconds=st.floats(0.0, 40.0))
    def time_goes_by(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        if self.timers:
            self._restart(data.draw(st.sampled_from(sorted(self.timers))))
        elif self.group_timers:
            self.group_timers -= 1
            self.do(self.core.group_due())

    def _restart(self, name: str) -> None:
        self.do(self.core.restart_due(self.timers.pop(name)))

    @precondition(_runs)
    @rule()
    def its_turn_comes(self) -> None:
        if self.turns:
            self._turn()

    @precondition(_runs)
    @rule(fail=st.booleans())
    def starts_fail_from_now_on(self, fail: bool) -> None:
        self.starts_fail = fail

    @precondition(lambda self: _runs(self) and not self.asked_to_end)
    @rule(wanted=st.integers(0, 9))
    def it_is_asked_to_end(self, wanted: int) -> None:
        # Seldom: most of a run is its life.
        if wanted == 0:
            self.asked_to_end = True
            self.do(self.core.finish(SHUTDOWN))

    @precondition(lambda self: self.exited is not None)
    @rule()
    def it_has_ended(self) -> None:
        assert self.asked_to_end or self.exited == SHUTDOWN

    @invariant()
    def it_knows_who_runs(self) -> None:
        if not hasattr(self, "core"):
            return
        assert {child.spec.id for child in self.core.by_ref.values()} == set(self.live)
        if self.exited is not None:
            assert not self.live, "it has ended, and a child runs"

    @invariant()
    def a_permanent_child_comes_back(self) -> None:
        if not hasattr(self, "core") or self.exited is not None or self.asked_to_end:
            return
        rest = bool(self.asked or self.group_timers or self.turns)
        for name, child in self.core.children.items():
            if child.spec.restart is Restart.PERMANENT and name not in self.live:
                assert name in self.timers or rest, f"{child} is forgotten"
                assert child.state in (
                    ChildState.WAITING,
                    ChildState.QUARANTINED,
                    ChildState.STOPPED,
                )

    def teardown(self) -> None:
        """Asked to end, it does, whatever was going on."""
        if not hasattr(self, "core") or self.exited is not None:
            return
        self.starts_fail = False
        if not self.asked_to_end:
            self.asked_to_end = True
            self.do(self.core.finish(SHUTDOWN))
        for _ in range(100):
            if self.turns:
                self._turn()
            elif self.asked:
                self._end(min(self.asked), SHUTDOWN)
        assert self.exited == SHUTDOWN
        assert not self.live

    def _turn(self) -> None:
        self.turns -= 1
        self.do(self.core.stop_turn())


SupervisionModel.TestCase.settings = stateful_settings()
TestSupervision = SupervisionModel.TestCase
