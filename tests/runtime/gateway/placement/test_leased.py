"""The engine of placement over a store that a test holds: silent, away, wrong, and there again."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway import Assigned
from tunnelfleet.runtime.gateway.placement import Revoked
from tunnelfleet.runtime.gateway.placement.lease import LeaseTimes
from tunnelfleet.runtime.gateway.placement.leased import FAILED, LeasedPlacement
from tunnelfleet.runtime.gateway.placement.members import Owner
from tunnelfleet.runtime.gateway.placement.shards import shard_of
from tunnelfleet.runtime.gateway.store.tunnels import TUNNEL_CHANGED
from tunnelfleet.runtime.ray_fleet.book import Asker, Book

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.runtime.gateway.placement.lease import LeaseAnswer, LeaseRequest

SHARDS = 8
TIMES = LeaseTimes(0.5)
SLOW = LeaseTimes(600.0)
SELECT_DESCRIPTORS = 1_024
"""The first descriptor that select() does not take."""


class HeldStore:
    """A book of leases that does as the test says; a `LeaseStore`."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.book = Book(SHARDS, TIMES.lease_seconds)
        self.book.declare(["gw"])
        self.trouble: BaseException | None = None
        self.lost: frozenset[int] = frozenset()
        """Shards that its answers say are another gateway's."""
        self.requests = 0
        self.news: int | None = None
        """What becomes readable when there is something to hear."""
        self.heard = threading.Event()
        self.is_silent = False
        self.is_closed = False
        self.asked = threading.Event()
        self._was_cut = threading.Event()

    @property
    def descriptor(self) -> int | None:
        return self.news

    def do(self, request: LeaseRequest) -> LeaseAnswer:
        self.requests += 1
        self.asked.set()
        if self.is_silent:
            assert self._was_cut.wait(WAIT_SECONDS)
            raise ConnectionError("it was cut")
        if self.trouble is not None:
            raise self.trouble
        answer = self.book.handle(Asker("gw", "run"), request, 0.0).answer
        if answer.table is None:
            return answer
        owners = tuple(
            Owner("other", 9) if shard in self.lost else owner
            for shard, owner in enumerate(answer.table.owners)
        )
        return answer._replace(table=dataclasses.replace(answer.table, owners=owners))

    def hear(self) -> None:
        assert self.news is not None
        os.read(self.news, 1)
        self.heard.set()

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


class NotedTunnels:
    """What the engine tells of tunnels that were added at run time; a `FollowsTunnels`."""

    def __init__(self) -> None:
        self.changed: list[tuple[int, str]] = []

    def tunnels_are_at(self, version: int) -> None:
        pass

    def tunnel_changed(self, version: int, name: str) -> None:
        self.changed.append((version, name))

    def shards_assigned(self, shards: frozenset[int]) -> None:
        pass

    def shards_gone(self, shards: frozenset[int]) -> None:
        pass


class Stage:
    """The engine, and all around it."""

    def __init__(self, times: LeaseTimes = TIMES) -> None:
        self.store = HeldStore()
        self.connects = NotedConnects()
        self.tunnels = NotedTunnels()
        self.told: list[Any] = []
        self.on_tell: Callable[[Any], object] = lambda _message: None
        """Called with what the fleet is told, before it is taken."""
        self.engine = LeasedPlacement(
            self.store,
            kind="held",
            name="gw",
            connects=self.connects,
            connect_rate=12.0,
            times=times,
            shards=SHARDS,
            listener=self.tunnels,
        )

    def start(self) -> None:
        """Begin."""
        self.engine.start(self.hear)

    def hear(self, message: Any) -> None:
        """Stands for the fleet of this gateway."""
        self.on_tell(message)
        self.told.append(message)

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


def errors_of(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """The errors in the log that begin so, each with its traceback."""
    found = [each for each in caplog.records if each.getMessage().startswith(text)]
    assert all(each.exc_info is not None for each in found)
    return [each.getMessage() for each in found]


def make_a_mistake(_message: object) -> None:
    raise RuntimeError("a mistake")


def test_an_answer_that_cannot_be_used_is_asked_for_again(
    stages: Callable[..., Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    stage.store.trouble = ValueError("not enough\x1b[31m values")
    asked = stage.store.requests
    stage.wait_trouble("what runs goes on: the store's answer cannot be used (ValueError): not")
    assert stage.engine.trouble.isprintable()
    assert not stage.engine.is_confirmed
    assert stage.engine.owner_names() == ("gw",) * SHARDS
    eventually(lambda: stage.store.requests >= asked + 4, "it asks again and again")
    stage.store.trouble = None
    stage.wait_joined()
    eventually(lambda: "the lease is confirmed again" in caplog.text)
    assert len(errors_of(caplog, "the store's answer cannot be used")) == 1


def test_a_mistake_of_ours_is_told_at_once(stages: Callable[..., Stage]) -> None:
    """Although the lease holds for minutes. A stop ends the pause, which is one of seconds."""
    stage = stages(SLOW)
    stage.start()
    eventually(lambda: stage.engine.is_confirmed, "it has joined")
    stage.on_tell = make_a_mistake
    stage.start()
    stage.wait_trouble("the thread of the lease has failed (RuntimeError), and tries again: a")
    assert not stage.engine.is_confirmed
    assert not stage.engine.status()["confirmed"]
    assert stage.connects.suspended_because == FAILED


def test_after_a_mistake_of_ours_the_fleet_is_told_all_anew(
    stages: Callable[..., Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    mistakes: list[object] = []

    def fail_and_note(message: object) -> None:
        mistakes.append(message)
        make_a_mistake(message)

    stage.on_tell = fail_and_note
    told = len(stage.told)
    stage.start()
    eventually(lambda: len(mistakes) >= 3, "it tries again and again")
    assert stage.connects.suspended_because == FAILED
    stage.on_tell = lambda _message: None
    stage.wait_joined()
    first, second, *_ = stage.told[told:]
    assert first == Revoked(frozenset())
    assert isinstance(second, Assigned)
    assert second.shards == frozenset(range(SHARDS))
    assert len(errors_of(caplog, FAILED)) == 1


def test_after_a_mistake_nothing_connects_before_the_fleet_is_told_of_its_losses(
    stages: Callable[..., Stage],
) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    gates: list[str | None] = []

    def fail_once(message: object) -> None:
        if not gates:
            gates.append(None)
            # What it would be allowed for is not to be allowed yet.
            stage.engine.vacated(frozenset({0}))
            make_a_mistake(message)
        gates.append(stage.connects.suspended_because)

    stage.on_tell = fail_once
    stage.store.lost = frozenset({0})
    eventually(lambda: Revoked(frozenset({0})) in stage.told, "it was told of the loss")
    assert gates[1] == FAILED
    eventually(lambda: stage.connects.suspended_because is None, "the rest connects")


def test_a_mistake_while_it_is_stopped_ends_it(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.start()
    stage.wait_joined()
    stage.on_tell = make_a_mistake
    stage.engine.stop()
    eventually(lambda: stage.store.is_closed, "its thread has ended")
    assert stage.connects.suspended_because is not None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_told_at_once(
    stages: Callable[..., Stage], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it was that has ended it, and although the lease holds for minutes."""
    stage = stages(SLOW)
    stage.start()
    eventually(lambda: stage.engine.is_confirmed, "it has joined")
    stage.store.trouble = SystemExit()
    stage.engine.leave()
    eventually(lambda: stage.store.is_closed, "its thread has ended")
    assert "the thread of the lease has failed; start the gateway again" in stage.engine.trouble
    assert not stage.engine.is_confirmed
    assert stage.connects.suspended_because == FAILED
    assert "start the gateway again" in caplog.text


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.25), (2, 0.5), (3, 1.0), (4, 2.0), (5, 2.0), (1_000_000, 2.0)]
)
def test_whoever_has_failed_waits_longer_each_time(failures: int, seconds: float) -> None:
    assert LeaseTimes(10.0).retry_after(failures) == seconds


def test_a_descriptor_that_select_does_not_take_is_heard(stages: Callable[..., Stage]) -> None:
    read, write = os.pipe()
    with contextlib.ExitStack() as stack:
        for each in (read, write):
            stack.callback(os.close, each)
        high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, SELECT_DESCRIPTORS)
        stack.callback(os.close, high)
        stage = stages()
        stage.store.news = high
        stage.start()
        stage.wait_joined()
        os.write(write, b"\0")
        assert stage.store.heard.wait(WAIT_SECONDS)
        stage.wait_joined()
        stage.engine.stop()
        stage.engine.close()


def test_a_number_that_no_store_counts_is_not_taken(stages: Callable[..., Stage]) -> None:
    """Whoever may connect to the database may notify; int() takes no more than 4,300 digits."""
    stage = stages()
    stage.engine.on_notification(f"{TUNNEL_CHANGED} {'9' * 5_000} press-4")
    stage.engine.on_notification(f"{TUNNEL_CHANGED} 7 press-4")
    assert stage.tunnels.changed == [(7, "press-4")]


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
