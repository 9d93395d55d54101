"""The engine of placement over a store that a test holds: silent, away, wrong, and there again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway import Assigned
from tunnelfleet.runtime.gateway.placement.lease import LeaseTimes
from tunnelfleet.runtime.gateway.placement.leased import LeasedPlacement
from tunnelfleet.runtime.gateway.placement.shards import shard_of
from tunnelfleet.runtime.ray_fleet.book import Asker, Book

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.runtime.gateway.placement.lease import LeaseAnswer, LeaseRequest

SHARDS = 8
TIMES = LeaseTimes(0.5)
SLOW = LeaseTimes(600.0)


class HeldStore:
    """A book of leases that does as the test says; a `LeaseStore`."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.book = Book(SHARDS, TIMES.lease_seconds)
        self.book.declare(["gw"])
        self.trouble: Exception | None = None
        self.is_silent = False
        self.is_closed = False
        self.asked = threading.Event()
        self._was_cut = threading.Event()

    @property
    def descriptor(self) -> int | None:
        return None

    def do(self, request: LeaseRequest) -> LeaseAnswer:
        self.asked.set()
        if self.is_silent:
            assert self._was_cut.wait(WAIT_SECONDS)
            raise ConnectionError("it was cut")
        if self.trouble is not None:
            raise self.trouble
        return self.book.handle(Asker("gw", "run"), request, 0.0).answer

    def hear(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.is_closed = True

    def cut(self) -> None:
        self._was_cut.set()


class NotedConnects:
    """What the engine says of the connects of its gateway."""

    def __init__(self) -> None:
        self.suspended_because: str | None = None
        self.rate = 0.0

    def suspend_connects(self, reason: str) -> None:
        self.suspended_because = reason

    def resume_connects(self, valid_seconds: float | None = None) -> None:
        self.suspended_because = None

    def change_connect_rate(self, rate_per_second: float) -> None:
        self.rate = rate_per_second


class Stage:
    """The engine, and all around it."""

    def __init__(self, times: LeaseTimes = TIMES) -> None:
        self.store = HeldStore()
        self.connects = NotedConnects()
        self.told: list[Any] = []
        self.engine = LeasedPlacement(
            self.store,
            kind="held",
            name="gw",
            connects=self.connects,
            connect_rate=12.0,
            times=times,
            shards=SHARDS,
        )

    def start(self) -> None:
        """Begin."""
        self.engine.start(self.told.append)

    def wait_trouble(self, text: str) -> None:
        """Wait until this is what is wrong."""
        eventually(lambda: text in self.engine.trouble, text)

    def wait_joined(self) -> None:
        """Wait until all shards are this gateway's, and it may connect."""
        eventually(
            lambda: (
                self.engine.owner_names() == ("gw",) * SHARDS
                and not self.engine.trouble
                and self.connects.suspended_because is None
            ),
            "it has joined",
        )


@pytest.fixture
def stages() -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(times: LeaseTimes = TIMES) -> Stage:
        made.append(Stage(times))
        return made[-1]

    yield make
    for each in made:
        each.engine.stop()
        each.store.cut()
        each.engine.close()


def test_before_the_store_was_reached_nobody_has_anything(stages: Callable[..., Stage]) -> None:
    engine = stages().engine
    assert engine.members() == ()
    assert engine.owner("press-4") is None
    assert engine.owner_names() == (None,) * SHARDS
    assert engine.unowned() == frozenset(range(SHARDS))
    status = engine.status()
    assert (status["joined"], status["confirmed"], status["members"]) == (False, False, 0)
    assert status["trouble"]


def test_who_has_joined_has_its_shards_and_may_connect(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    engine = stage.engine
    owner = engine.owner("press-4")
    assert owner is not None
    assert (owner.name, owner.shards) == ("gw", SHARDS)
    eventually(lambda: engine.unowned() == frozenset())
    assert engine.status()["shards"] == SHARDS
    assert stage.connects.rate == 12.0
    assigned = [each for each in stage.told if isinstance(each, Assigned)]
    assert shard_of("press-4", SHARDS) in assigned[-1].shards
    # Whoever begins anew is told anew.
    told = len(stage.told)
    stage.start()
    eventually(lambda: len(stage.told) > told)


def test_a_store_that_is_away_is_told_and_what_runs_goes_on(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    stage.store.trouble = ConnectionError("nobody\x1b[31m there")
    stage.wait_trouble("the lease was last confirmed")
    trouble = stage.engine.trouble
    assert "what runs goes on: the store does not confirm the lease: nobody" in trouble
    assert trouble.isprintable()
    # What it may connect was allowed for the time of the lease, which is over.
    assert not stage.engine.is_confirmed
    assert stage.engine.owner_names() == ("gw",) * SHARDS
    stage.store.trouble = None
    stage.wait_joined()


def test_who_may_not_take_part_is_told_why(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.store.trouble = ConfigError("the fleet has 16 shards")
    stage.start()
    stage.wait_trouble("the fleet has 16 shards")
    assert stage.connects.suspended_because is not None


def test_a_store_that_says_nothing_is_cut_off(stages: Callable[..., Stage]) -> None:
    stage = stages(LeaseTimes(0.01))
    stage.store.is_silent = True
    stage.start()
    assert stage.store.asked.wait(WAIT_SECONDS)

    def is_told() -> bool:
        stage.engine.look()
        return "the store does not confirm the lease: it was cut" in stage.engine.trouble

    eventually(is_told, "it was cut off")


def test_a_request_that_is_not_late_is_not_cut_off(stages: Callable[..., Stage]) -> None:
    stage = stages(SLOW)
    stage.store.is_silent = True
    stage.start()
    assert stage.store.asked.wait(WAIT_SECONDS)
    stage.engine.look()
    assert not stage.store._was_cut.is_set()


def test_a_mistake_of_ours_stops_connects_and_nothing_else(
    stages: Callable[..., Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    stage.store.trouble = RuntimeError("a mistake")
    eventually(lambda: stage.store.is_closed, "its thread has ended")
    assert stage.connects.suspended_because == "the thread of the lease has failed"
    assert "the thread of the lease has failed" in caplog.text
    eventually(lambda: "start the gateway again" in stage.engine.trouble)
    assert stage.engine.owner_names() == ("gw",) * SHARDS


def test_who_has_left_says_so(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    stage.engine.leave()
    eventually(lambda: any(not isinstance(each, Assigned) for each in stage.told), "revoked")
    stage.engine.vacated(frozenset(range(SHARDS)))
    stage.wait_trouble("the gateway has left the fleet")


def test_whoever_does_not_end_is_cut_off(
    stages: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.placement.leased.GOODBYE_SECONDS", 0.05)
    stage = stages(SLOW)
    stage.store.is_silent = True
    stage.start()
    assert stage.store.asked.wait(WAIT_SECONDS)
    stage.engine.stop()
    stage.engine.close()
    assert stage.store._was_cut.is_set()
    eventually(lambda: stage.store.is_closed)
