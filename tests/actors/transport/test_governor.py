"""ConnectGovernor: a rate, a concurrency, in order, and nobody's end holds a permit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.support.actors import Log, settle
from tests.support.fakes import Recorder
from tunnelfleet.actors.events import AttemptOutcome
from tunnelfleet.actors.kernel import kill
from tunnelfleet.actors.transport.connect_gate import BREAKER_FAILURES, EXPIRED, ConnectGate
from tunnelfleet.actors.transport.governor import ConnectGovernor
from tunnelfleet.actors.tunnel.messages import (
    GateChanged,
    PermitCalledBack,
    PermitGranted,
    ReleasePermit,
    RequestPermit,
)

if TYPE_CHECKING:
    import pytest
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher


class Requester(Recorder):
    """Logs its number when it gets a permit."""

    def __init__(self, number: int, log: Log) -> None:
        super().__init__(log)
        self.number = number

    def on_receive(self, message: object) -> object:
        if isinstance(message, PermitGranted):
            self.log.add(self.number)
            return None
        if isinstance(message, PermitCalledBack):
            self.log.add(message)
            self.exit()
            return None
        return super().on_receive(message)


class Crowd:
    """A governor, and requesters who are numbered in the order in which they ask."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        rate: float,
        concurrency: int,
        per_endpoint: int | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.granted = Log()
        self.clock = 0.0
        self.gate = ConnectGate(lambda: self.clock)
        self.settings: dict[str, Any] = {
            "rate_per_second": rate,
            "concurrency": concurrency,
            "per_endpoint": per_endpoint,
            "gate": self.gate,
        }
        self.start()
        self.refs: list[ActorRef[Requester]] = []

    def start(self) -> None:
        """Start the governor, perhaps again."""
        self.governor = ConnectGovernor.start(**self.settings, dispatcher=self.dispatcher)
        settle(self.dispatcher)

    def change_gate(self, reason: str = "", valid_seconds: float | None = None) -> None:
        """Suspend, or resume without a reason."""
        if reason:
            self.gate.suspend(reason)
        else:
            self.gate.resume(valid_seconds)
        self.governor.tell(GateChanged())
        settle(self.dispatcher)

    def ask(self, count: int = 1, *, endpoint: str | None = None) -> None:
        """Ask for so many, each for a tunnel of its own, and one endpoint each unless given."""
        first = len(self.refs)
        for number in range(first, first + count):
            started = Requester.start(number, self.granted, dispatcher=self.dispatcher)
            self.refs.append(started)
        # They have begun: a grant finds each of them in its turn.
        settle(self.dispatcher)
        for number, ref in enumerate(self.refs[first:], first):
            where = endpoint or f"endpoint {number}"
            self.governor.tell(RequestPermit(ref, where, f"tunnel {number}"))
        settle(self.dispatcher)

    def release(self, number: int, outcome: AttemptOutcome = AttemptOutcome.CONNECTED) -> None:
        self.governor.tell(ReleasePermit(self.refs[number], outcome))
        settle(self.dispatcher)

    def stop(self, number: int) -> None:
        self.refs[number].stop()
        settle(self.dispatcher)


def test_permits_are_granted_in_order_up_to_the_concurrency(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=3)
    crowd.ask(4)
    assert crowd.granted.items == [0, 1]
    crowd.release(1)
    assert crowd.granted.items == [0, 1, 2]
    crowd.release(0)
    assert crowd.granted.items == [0, 1, 2, 3]


def test_who_ends_with_a_permit_gives_it_back(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=1)
    crowd.ask(2)
    crowd.stop(0)
    assert crowd.granted.items == [0, 1]


def test_who_ends_while_waiting_is_forgotten(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=1)
    crowd.ask(3)
    crowd.stop(1)
    crowd.release(0)
    assert crowd.granted.items == [0, 2]


def test_who_has_ended_already_when_its_request_comes_takes_nothing(
    dispatcher: Dispatcher,
) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=1)
    dead = Requester.start(99, crowd.granted, dispatcher=dispatcher)
    dead.stop()
    crowd.governor.tell(RequestPermit(dead, "endpoint", "dead"))
    settle(dispatcher)
    crowd.ask()
    assert crowd.granted.items == [0]


def test_a_permit_is_given_back_once(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=1)
    crowd.ask(3)
    crowd.release(0)
    crowd.release(0)
    crowd.stop(0)
    assert crowd.granted.items == [0, 1]


def test_who_gave_it_back_may_ask_again(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=1)
    crowd.ask(1)
    crowd.release(0)
    crowd.governor.tell(RequestPermit(crowd.refs[0], "endpoint 0", "tunnel 0"))
    settle(dispatcher)
    assert crowd.granted.items == [0, 0]


def test_the_rate_is_kept_and_all_have_their_turn(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=2.0, concurrency=1_000)
    started = time.monotonic()
    crowd.ask(4)
    assert len(crowd.granted.items) == 2, "a second's worth at once"
    for number in range(2):
        crowd.release(number)
    assert crowd.granted.wait(4) == list(range(4))
    assert time.monotonic() - started >= 1.0


def test_a_rate_below_one_a_second_lets_the_first_go_at_once(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(dispatcher, rate=0.01, concurrency=10)
    crowd.ask(2)
    assert crowd.granted.items == [0]


def test_the_concurrency_holds_although_the_rate_allows_more(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=10_000.0, concurrency=4)
    crowd.ask(50)
    for number in range(47):
        assert len(crowd.granted.items) == number + 3
        crowd.release(number)
    assert crowd.granted.items == list(range(50))


def test_one_endpoint_never_has_all_permits(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=4)
    crowd.ask(40, endpoint="silent")
    assert len(crowd.granted.items) < 4
    crowd.ask(1, endpoint="another")
    assert crowd.granted.items[-1] == 40


def test_the_share_of_an_endpoint_may_be_given(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=10, per_endpoint=1)
    crowd.ask(5, endpoint="a")
    crowd.ask(5, endpoint="b")
    assert crowd.granted.items == [0, 5]


def test_endpoints_take_turns(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=1)
    crowd.ask(1, endpoint="a")
    crowd.ask(3, endpoint="a")
    crowd.ask(2, endpoint="b")
    for _ in range(5):
        crowd.release(crowd.granted.items[-1])
    assert crowd.granted.items == [0, 1, 4, 2, 5, 3]


def test_who_was_connected_does_not_wait_for_those_that_hang(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=4)
    crowd.ask(1, endpoint="good")
    crowd.release(0)
    for number in range(40):
        crowd.ask(1, endpoint=f"silent {number}")
    assert len(crowd.granted.items) == 1 + 3
    crowd.governor.tell(RequestPermit(crowd.refs[0], "good", "tunnel 0"))
    settle(dispatcher)
    assert crowd.granted.items[-1] == 0


def test_a_second_request_is_the_same_one(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=1)
    crowd.ask(2)
    crowd.governor.tell(RequestPermit(crowd.refs[1], "endpoint 1", "tunnel 1"))
    crowd.release(0)
    assert crowd.granted.items == [0, 1]
    crowd.release(1)
    assert crowd.granted.items == [0, 1]


def test_nobody_is_granted_anything_while_connects_are_suspended(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=4)
    crowd.change_gate("no lease")
    crowd.ask(3)
    assert crowd.granted.items == []
    assert crowd.gate.snapshot().suspended == "no lease"
    assert crowd.gate.snapshot().waiting == 3
    crowd.change_gate()
    assert crowd.granted.items == [0, 1, 2]
    assert crowd.gate.snapshot().suspended == ""


def test_a_suspension_calls_back_what_is_out(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=4)
    crowd.ask(2)
    crowd.change_gate("no lease")
    called_back = crowd.granted.items[2:]
    assert called_back == [PermitCalledBack("suspended", "connects are suspended: no lease")] * 2
    stats = crowd.gate.snapshot()
    assert (stats.under_way, stats.granted, stats.called_back) == (0, 2, {"suspended": 2})


def test_the_rate_can_be_changed_and_outlives_the_governor(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=64)
    crowd.gate.rate_per_second = 2.0
    crowd.change_gate()
    crowd.ask(5)
    assert crowd.granted.items == [0, 1]
    crowd.governor.stop()
    crowd.start()
    crowd.ask(5)
    # The new one rests for a second, and at its own rate it would not.
    assert len(crowd.granted.items) == 2


def test_a_gate_that_closes_before_a_message_says_so_is_obeyed(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=4)
    crowd.gate.suspend("at once")
    crowd.ask(1)
    assert crowd.granted.items == []


def test_leave_for_a_time_ends_by_itself(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=4)
    crowd.change_gate(valid_seconds=5.0)
    crowd.ask(1)
    crowd.clock = 4.9
    crowd.ask(1)
    assert crowd.granted.items == [0, 1]
    # As after a freeze: nobody has told the governor anything.
    crowd.clock = 5.0
    crowd.ask(1)
    assert 2 not in crowd.granted.items
    assert crowd.gate.snapshot().suspended == EXPIRED
    crowd.change_gate(valid_seconds=5.0)
    assert crowd.granted.items[-1] == 2


def test_the_end_of_the_time_is_noticed_although_nothing_happens(dispatcher: Dispatcher) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=4)
    crowd.ask(1)
    crowd.gate = ConnectGate()
    crowd.settings["gate"] = crowd.gate
    crowd.start()
    crowd.change_gate(valid_seconds=0.05)
    crowd.ask(1)
    assert crowd.granted.wait(3)[2:] == [
        PermitCalledBack("suspended", f"connects are suspended: {EXPIRED}")
    ]


def test_a_governor_that_was_started_again_keeps_to_suspension_and_rate(
    dispatcher: Dispatcher,
) -> None:
    crowd = Crowd(dispatcher, rate=3.0, concurrency=4, per_endpoint=4)
    for number in range(3):
        crowd.ask(1)
        crowd.release(number)
    crowd.change_gate("no lease")
    kill(crowd.governor)
    crowd.start()
    crowd.ask(1)
    assert crowd.granted.items == [0, 1, 2]
    crowd.change_gate()
    assert crowd.granted.items == [0, 1, 2], "the first governor has used up the second"
    assert crowd.granted.wait(4)[-1] == 3
    assert crowd.gate.snapshot().granted == 4


def test_an_endpoint_that_is_down_is_shown_and_holds_its_tunnels_back(
    dispatcher: Dispatcher,
) -> None:
    crowd = Crowd(dispatcher, rate=1_000.0, concurrency=10)
    for number in range(BREAKER_FAILURES):
        crowd.ask(1, endpoint="down")
        crowd.release(number, AttemptOutcome.FAILED)
    crowd.ask(3, endpoint="down")
    crowd.ask(1, endpoint="up")
    up = BREAKER_FAILURES + 3
    assert up in crowd.granted.items
    stats = crowd.gate.snapshot()
    assert stats.breaker_openings == 1
    assert [each.endpoint for each in stats.breakers] == ["down"]
    assert stats.held_back >= 2, "but for a probe"
    # The delay is short at first; the probe comes by the governor's own timer.
    items = crowd.granted.wait(BREAKER_FAILURES + 2)
    probe = next(number for number in items[BREAKER_FAILURES:] if number != up)
    crowd.release(probe)
    crowd.granted.wait(BREAKER_FAILURES + 4)
    assert crowd.gate.snapshot().breakers == ()
