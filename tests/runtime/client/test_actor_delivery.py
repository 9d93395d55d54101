"""ActorDelivery: every event in order, no more unhandled than the window."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import Stopped
from tunnelfleet.runtime.client.options import MAX_UNHANDLED, ActorDelivery


class KeepingActor(pykka.ThreadingActor):
    def __init__(self, may_go_on: threading.Event, got: list[Any]) -> None:
        super().__init__()
        self._may_go_on, self._got = may_go_on, got

    def on_receive(self, message: Any) -> Any:
        self._may_go_on.wait(WAIT_SECONDS)
        self._got.append(message)
        if message.tunnel == "bad":
            raise ZeroDivisionError


def test_a_slow_actor_holds_back_and_loses_nothing() -> None:
    go, got = threading.Event(), []  # type: ignore[var-annotated]
    ref = KeepingActor.start(go, got)
    deliver = ActorDelivery(ref)
    sent: list[int] = []

    def send() -> None:
        for number in range(300):
            deliver(Stopped(str(number)))
            sent.append(number)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert len(sent) == MAX_UNHANDLED
    go.set()
    thread.join(WAIT_SECONDS)
    ref.stop()
    assert got == [Stopped(str(number)) for number in range(300)]


def test_what_the_actor_raises_is_raised_here() -> None:
    go, got = threading.Event(), []  # type: ignore[var-annotated]
    go.set()
    ref = KeepingActor.start(go, got)
    deliver = ActorDelivery(ref)
    deliver(Stopped("bad"))
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in range(MAX_UNHANDLED + 1):
            deliver(Stopped("good"))
    ref.stop()


def test_an_actor_that_has_ended_gets_nothing() -> None:
    go, got = threading.Event(), []  # type: ignore[var-annotated]
    ref = KeepingActor.start(go, got)
    ref.stop()
    ActorDelivery(ref)(Stopped("t"))
    assert got == []
