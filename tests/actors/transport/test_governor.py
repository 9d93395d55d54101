"""ConnectGovernor: a rate, a concurrency, in order, and nobody's end holds a permit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.actors import Log, settle
from tests.support.fakes import Recorder
from tunnelfleet.actors.transport.governor import ConnectGovernor
from tunnelfleet.actors.tunnel.messages import PermitGranted, ReleasePermit, RequestPermit

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
        self.governor = ConnectGovernor.start(
            rate_per_second=rate,
            concurrency=concurrency,
            per_endpoint=per_endpoint,
            dispatcher=dispatcher,
        )
        self.refs: list[ActorRef[Requester]] = []

    def ask(self, count: int = 1, *, endpoint: str | None = None) -> None:
        """Ask for so many, each for a tunnel of its own, and one endpoint each unless given."""
        for _ in range(count):
            number = len(self.refs)
            ref = Requester.start(number, self.granted, dispatcher=self.dispatcher)
            self.refs.append(ref)
            where = endpoint or f"endpoint {number}"
            self.governor.tell(RequestPermit(ref, where, f"tunnel {number}"))
        settle(self.dispatcher)

    def release(self, number: int) -> None:
        self.governor.tell(ReleasePermit(self.refs[number]))
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
    crowd = Crowd(dispatcher, rate=20.0, concurrency=1_000)
    started = time.monotonic()
    crowd.ask(30)
    assert len(crowd.granted.items) < 25, "no more than a second's worth at once"
    assert crowd.granted.wait(30) == list(range(30))
    assert time.monotonic() - started >= (30 - 20) / 20.0 - 0.01


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
