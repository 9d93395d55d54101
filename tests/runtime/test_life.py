"""The lives of a runtime, with engines that do as they are told: which end ends what."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.actors.fakes import make_config
from tests.actors.kernel.helpers import DEADLINE_SECONDS, wait_until
from tunnelfleet.actors.callbacks import CallbackTotals
from tunnelfleet.actors.kernel import BlockingCallError, Dispatcher
from tunnelfleet.actors.kernel.watch import KILLED, NORMAL, SHUTDOWN, ExitKind, ExitReason
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.proto import Mode, TunnelError
from tunnelfleet.runtime import life
from tunnelfleet.runtime.life import NAMED_TUNNELS, RuntimeLife
from tunnelfleet.runtime.metrics import Ledger
from tunnelfleet.runtime.registry import TunnelBook
from tunnelfleet.runtime.waiting import Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAILED = ExitReason(ExitKind.FAILED, ZeroDivisionError())


class FakeEngine:
    """Stands for an Engine; writes down what is done to it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.number = len(rig.engines)
        self.is_running = False
        self.stop_error: Exception | None = None
        self.root_ends: ExitReason | None = None
        """With which reason, while it is asked to stop."""
        self.start_error: Exception | None = None
        self.on_ended: Callable[[ExitReason], None]
        rig.engines.append(self)

    def start(
        self,
        make_children: Callable[[Any], list[Any]],
        on_ended: Callable[[ExitReason], None],
        *,
        register: bool,
    ) -> Any:
        self._note(f"start {make_children(self)} register={register}")
        if self.start_error is not None:
            raise self.start_error
        self.on_ended = on_ended
        self.is_running = True
        return f"root {self.number}"

    def check_process(self) -> None:
        """Nobody has forked."""

    def stop(self, timeout_seconds: float) -> None:
        self._note(f"stop {timeout_seconds:g}")
        if self.root_ends is not None:
            self.on_ended(self.root_ends)
        if self.stop_error is not None:
            raise self.stop_error

    def end(self) -> None:
        self._note("end")
        self.is_running = False
        if self._rig.hold is not None:
            self._rig.holding.set()
            assert self._rig.hold.wait(DEADLINE_SECONDS)

    def _note(self, what: str) -> None:
        self._rig.log.append(f"{self.number} {what}")


class Rig:
    """A life, its book and its engines. Engine 0 is made at once and never started."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.engines: list[FakeEngine] = []
        self.hold: threading.Event | None = None
        """An end waits for it."""
        self.holding = threading.Event()
        self.ports: list[Port] = []
        self.book = TunnelBook(Services(), Ledger(), Changes())
        make: Any = lambda: FakeEngine(self)  # noqa: E731
        children: Any = lambda _engine: [each.name for each in self.book.tunnels()]  # noqa: E731
        self.life = RuntimeLife(make, children, self.book, CallbackTotals())

    @property
    def engine(self) -> FakeEngine:
        """The one that was made last."""
        return self.engines[-1]

    def open(self, name: str) -> None:
        port = Port()
        self.ports.append(port)
        self.book.add(make_config(Mode.SOURCE, name=name), Connector(1), port=port)  # type: ignore[arg-type]

    @property
    def finished(self) -> list[bool]:
        return [port.finished > 0 for port in self.ports]


class Port:
    """Stands for an ApiPort."""

    def __init__(self) -> None:
        self.finished = 0

    def finish(self, _error: Exception) -> None:
        self.finished += 1


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.life.threads.close(DEADLINE_SECONDS)


def settle() -> None:
    """Return when the threads that end a life by itself have done it."""
    for thread in threading.enumerate():
        if thread.name == "tunnelfleet-end":
            thread.join(DEADLINE_SECONDS)


def test_a_life_begins_with_an_engine_of_its_own(rig: Rig) -> None:
    assert rig.log == []
    assert rig.life.start() == "root 1"  # type: ignore[comparison-overlap]
    rig.life.stop(3.0)
    assert rig.life.start(register=False) == "root 2"  # type: ignore[comparison-overlap]
    assert rig.log == [
        "1 start [] register=True",
        "1 stop 3",
        "1 end",
        "2 start [] register=False",
    ]


def test_a_stop_without_a_start_and_a_second_one_are_harmless(rig: Rig) -> None:
    rig.life.stop(1.0)
    rig.life.start()
    for _ in range(2):
        rig.life.stop(1.0)
    assert not rig.engine.is_running
    assert rig.engine.number == 1


def test_a_second_start_is_an_error_and_changes_nothing(rig: Rig) -> None:
    rig.life.start()
    with pytest.raises(TunnelError, match="start it once"):
        rig.life.start()
    assert rig.engine.is_running
    assert rig.engine.number == 1


def test_after_a_start_that_failed_a_stop_cleans_up_and_a_start_may_succeed(rig: Rig) -> None:
    make = rig.life._make_engine

    def make_failing() -> Any:
        engine: Any = make()
        engine.start_error = OSError("no more threads")
        return engine

    rig.life._make_engine = make_failing
    with pytest.raises(OSError, match="no more threads"):
        rig.life.start()
    rig.life.stop(1.0)
    assert rig.log[-1] == "1 end"
    rig.life._make_engine = make
    rig.life.start()
    assert rig.engine.is_running


def test_it_can_be_started_as_soon_as_a_stop_has_returned(rig: Rig) -> None:
    # The root ends before, within and after the stop: each has its own end, and none is in the way.
    for root_ends in (None, NORMAL, KILLED) * 50:
        rig.life.start()
        rig.engine.root_ends = root_ends
        if root_ends is None:
            rig.engine.on_ended(FAILED)
        rig.life.stop(1.0)
        rig.engine.on_ended(FAILED)
    settle()
    assert sum(line.endswith(" end") for line in rig.log) == 150


def test_a_stop_waits_for_the_callback_that_ended_it_before(rig: Rig) -> None:
    rig.life.start()
    may_return, has_stopped = threading.Event(), threading.Event()

    def stop_in_a_callback(_event: object) -> None:
        rig.life.stop(1.0)
        has_stopped.set()
        assert may_return.wait(DEADLINE_SECONDS)

    rig.life.threads.lane("a", stop_in_a_callback, 1_000).put("an event")
    assert has_stopped.wait(DEADLINE_SECONDS)
    stopper = threading.Thread(target=rig.life.stop, args=(DEADLINE_SECONDS,))
    stopper.start()
    stopper.join(0.05)
    assert stopper.is_alive()
    may_return.set()
    stopper.join(DEADLINE_SECONDS)
    assert rig.life.threads.thread_count == 0
    assert rig.log.count("1 end") == 1


def test_a_stop_waits_for_an_end_elsewhere_no_longer_than_its_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That end goes on; it may be held up by a thread that nobody can interrupt."""
    monkeypatch.setattr(life, "MIN_CALLBACK_SECONDS", 0.05)
    rig.life.start()
    rig.hold = threading.Event()
    first = threading.Thread(target=rig.life.stop, args=(DEADLINE_SECONDS,))
    first.start()
    assert rig.holding.wait(DEADLINE_SECONDS)
    second = threading.Thread(target=rig.life.stop, args=(0.05,))
    second.start()
    second.join(DEADLINE_SECONDS)
    assert not second.is_alive()
    assert first.is_alive()
    assert "still under way" in caplog.text
    rig.hold.set()
    first.join(DEADLINE_SECONDS)
    assert rig.log.count("1 end") == 1


def test_while_it_ends_it_cannot_be_started(rig: Rig) -> None:
    rig.life.start()
    rig.hold = threading.Event()
    stopper = threading.Thread(target=rig.life.stop, args=(1.0,))
    stopper.start()
    assert rig.holding.wait(DEADLINE_SECONDS)
    with pytest.raises(TunnelError, match="still stopping"):
        rig.life.start()
    rig.hold.set()
    stopper.join(DEADLINE_SECONDS)
    rig.life.start()
    assert rig.engine.number == 2


@pytest.mark.parametrize(
    ("as_child", "reason", "is_final"),
    [
        (False, NORMAL, True),
        (False, SHUTDOWN, True),
        (False, KILLED, True),
        (False, FAILED, True),
        (True, NORMAL, True),
        (True, SHUTDOWN, True),
        (True, KILLED, False),
        (True, FAILED, False),
    ],
    ids=str,
)
def test_the_end_of_the_root_is_final_unless_a_host_starts_it_again(
    rig: Rig, as_child: bool, reason: ExitReason, is_final: bool
) -> None:
    start: Any = rig.life.start_as_child if as_child else rig.life.start
    start()
    rig.open("a")
    threads = rig.life.threads
    rig.hold = threading.Event()
    rig.engine.on_ended(reason)
    assert rig.finished == [is_final], "answered in the root's last turn, or not at all"
    rig.hold.set()
    settle()
    assert rig.log[-1] == "1 end"
    assert len(rig.book) == (0 if is_final else 1)
    assert threads.is_closed is is_final
    start()
    assert rig.log[-1].startswith("2 start []" if is_final else "2 start ['a']")
    assert (rig.life.threads is threads) is not is_final


def test_a_child_that_fails_while_its_user_stops_it_has_ended_for_good(rig: Rig) -> None:
    rig.life.start_as_child()
    rig.open("a")
    rig.engine.root_ends = FAILED
    rig.hold = threading.Event()
    stopper = threading.Thread(target=rig.life.stop, args=(1.0,))
    stopper.start()
    assert rig.holding.wait(DEADLINE_SECONDS)
    assert rig.finished == [True], "nobody waits for a life that does not come"
    rig.hold.set()
    stopper.join(DEADLINE_SECONDS)
    settle()
    assert len(rig.book) == 0
    assert rig.finished == [True]


def test_a_stop_between_two_lives_of_a_child_is_final(rig: Rig) -> None:
    rig.life.start_as_child()
    rig.open("a")
    rig.engine.on_ended(FAILED)
    settle()
    assert len(rig.book) == 1
    rig.life.stop(1.0)
    assert len(rig.book) == 0
    assert rig.finished == [True]


def test_a_late_end_of_one_life_does_not_end_the_next(rig: Rig) -> None:
    rig.life.start()
    first = rig.engine
    rig.life.stop(1.0)
    rig.life.start()
    rig.open("a")
    done = rig.log.copy()
    first.on_ended(KILLED)
    settle()
    assert rig.log == done
    assert rig.engine.is_running
    assert len(rig.book) == 1
    assert not rig.life.threads.is_closed


@pytest.mark.parametrize(
    ("stopped", "late", "said"),
    [
        pytest.param(0, 0, "0 of 0 tunnels (none)", id="no tunnel"),
        pytest.param(2, 0, "0 of 2 tunnels (none)", id="none is late"),
        pytest.param(1, 1, "1 of 2 tunnels (late-0)", id="one is late"),
        pytest.param(
            0,
            NAMED_TUNNELS + 1,
            "6 of 6 tunnels (late-0, late-1, late-2, late-3, late-4, ...)",
            id="many are",
        ),
    ],
)
def test_a_stop_that_is_late_ends_by_force_and_names_what_is(
    rig: Rig, caplog: pytest.LogCaptureFixture, stopped: int, late: int, said: str
) -> None:
    rig.life.start()
    rig.engine.stop_error = pykka.Timeout("late")
    for number in range(stopped):
        rig.open(f"stopped-{number}")
        rig.book.get(f"stopped-{number}").stats.enter(TunnelState.STOPPED)
    for number in range(late):
        rig.open(f"late-{number}")
    with caplog.at_level(logging.WARNING):
        rig.life.stop(0.25)
    [record] = caplog.records
    assert "after 0.25 s" in record.getMessage()
    assert said in record.getMessage()
    assert rig.log[-1] == "1 end"
    assert len(rig.book) == 0


def test_a_callback_does_not_wait_for_an_end_that_waits_for_callbacks(rig: Rig) -> None:
    rig.life.start()
    rig.hold = threading.Event()
    stopper = threading.Thread(target=rig.life.stop, args=(1.0,))
    stopper.start()
    assert rig.holding.wait(DEADLINE_SECONDS)
    returned = threading.Event()

    def stop_in_a_callback(_event: object) -> None:
        rig.life.stop(1.0)
        returned.set()

    rig.life.threads.lane("a", stop_in_a_callback, 1_000).put("an event")
    assert returned.wait(DEADLINE_SECONDS), "it waits for the end that waits for it"
    assert stopper.is_alive()
    rig.hold.set()
    stopper.join(DEADLINE_SECONDS)
    wait_until(lambda: rig.life.threads.thread_count == 0)
    assert rig.log.count("1 end") == 1


def test_the_callbacks_of_all_lives_are_counted_together(rig: Rig) -> None:
    totals = rig.life.threads.totals
    for number in range(1, 3):
        rig.life.start()
        rig.life.threads.lane("a", lambda _event: None, 1_000).put("an event")
        rig.life.stop(DEADLINE_SECONDS)
        assert totals.events == number


def test_an_actor_may_not_wait_for_the_end_and_ends_nothing(rig: Rig) -> None:
    rig.life.start()
    rig.open("a")
    done = rig.log.copy()
    refused: Future[BaseException | None] = Future()

    def stop() -> None:
        try:
            rig.life.stop(1.0)
        except BlockingCallError as error:
            refused.set_result(error)
        else:
            refused.set_result(None)

    with Dispatcher("host") as host:
        host.call_soon(stop)
        assert isinstance(refused.result(DEADLINE_SECONDS), BlockingCallError)
    assert rig.log == done
    assert rig.engine.is_running
    assert len(rig.book) == 1
    rig.life.stop(1.0)
