"""What a gateway makes of another one that calls; the test plays the one that calls, over TLS."""

from __future__ import annotations

import socket
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.actors import Probe
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.net.name_lookup import NameLookups
from tunnelfleet.actors.net.socket_io import ExhaustionLog
from tunnelfleet.runtime.gateway.config.fleet_tls import FleetTls, read_fleet_tls
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.forward import guest as guests
from tunnelfleet.runtime.gateway.forward.carriage import ForwardCounters
from tunnelfleet.runtime.gateway.forward.frames import (
    Ask,
    ForwardAnswer,
    FrameKind,
    GatewayFrame,
    GatewayFrameReader,
    Question,
    encode_frame,
)
from tunnelfleet.runtime.gateway.forward.guest import GuestActor, GuestParts, loopback_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.forwarding import Authority
    from tunnelfleet.actors.kernel import Dispatcher

QUESTION = Question(ask=Ask.TUNNELS)


class Call:
    """A call of gateway `two`, taken by a guest. A context manager."""

    def __init__(self, dispatcher: Dispatcher, tls: FleetTls, lookups: Any) -> None:
        self.counters = ForwardCounters()
        self.listener = Probe.start(dispatcher=dispatcher)
        self.told: Future[bytes] = Future()
        self.asked: list[dict[str, list[str]]] = []
        self.is_full = False
        self._reader = GatewayFrameReader()
        parts = GuestParts(
            tls=lambda: tls.server,
            call_tls=lambda: tls.client,
            # No question that is asked here gets as far as the doors.
            hall=SimpleNamespace(),  # type: ignore[arg-type]
            tell=self.tell,
            lookups=lookups,
            counters=self.counters,
        )
        plain, theirs = loopback_pair()
        plain.settimeout(WAIT_SECONDS)
        self.ref = GuestActor.start(theirs, "peer", self.listener, parts, dispatcher=dispatcher)
        self.sock = tls.client.wrap_socket(plain)

    def tell(self, filters: dict[str, list[str]]) -> Future[bytes]:
        """What the gateway has: `told`, when the test says it."""
        self.asked.append(filters)
        if self.is_full:
            raise RuntimeError("too many lists")
        return self.told

    def ask(self, question: Question = QUESTION) -> None:
        """Ask the gateway."""
        self.sock.sendall(encode_frame(FrameKind.HELLO, question.encode()))

    def hear_all(self) -> list[GatewayFrame]:
        """All that comes until the guest has ended the link."""
        found: list[GatewayFrame] = []
        while data := self.sock.recv(65_536):
            found += self._reader.feed(data)
        return found

    def wait_over(self) -> None:
        """The guest has ended, and counts no more."""
        eventually(lambda: not self.ref.is_alive() and self.counters.open == 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.sock.close()
        self.wait_over()


@pytest.fixture
def call(dispatcher: Dispatcher, authority: Authority) -> Iterator[Call]:
    files = authority.keys("two")
    cert, key, ca = (Path(files[f"fleet_{each}"]) for each in ("cert", "key", "ca"))
    lookups = SimpleNamespace(names=NameLookups(), exhaustion=ExhaustionLog())
    with Call(dispatcher, read_fleet_tls(cert, key, ca, "two")[0], lookups) as made:
        yield made
    lookups.names.close()


def test_the_time_for_the_handshake_is_nothing_to_the_list(call: Call) -> None:
    """A long list, or one that waits for another, takes longer than a handshake."""
    call.ask(Question(ask=Ask.TUNNELS, filters={"state": ["connected"]}))
    eventually(lambda: call.asked == [{"state": ["connected"]}])
    call.ref.tell(guests._GuestLate(guests._GuestStep.SHAKING))
    call.told.set_result(b"[]")
    assert call.hear_all() == [(FrameKind.DATA, b"[]"), (FrameKind.END, b"")]
    assert call.counters.failures["late"] == 0


def test_a_list_that_does_not_come_is_given_up(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "TELL_SECONDS", 0.05)
    call.ask()
    call.wait_over()
    assert call.asked == [{}]
    # That nobody is there any more hurts nobody.
    call.told.set_result(b"[]")


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (OSError("the state is away"), "its tunnels cannot be listed: the state is away"),
        (ValueError("line\x1b[2J\nbreak"), "its tunnels cannot be listed: line [2J break"),
    ],
    ids=["a failure", "with characters that must not be shown"],
)
def test_a_list_that_fails_is_told_as_a_cut(call: Call, trouble: Exception, says: str) -> None:
    call.ask()
    call.told.set_exception(trouble)
    assert call.hear_all() == [(FrameKind.CUT, says.encode())]


def test_who_asks_when_too_many_do_is_told(call: Call) -> None:
    call.is_full = True
    call.ask()
    assert call.hear_all() == [(FrameKind.CUT, b"too many lists")]
    assert call.counters.failures["busy"] == 1


def test_one_that_leaves_before_it_is_told_costs_nothing(call: Call) -> None:
    call.ask()
    eventually(lambda: call.asked == [{}])
    call.sock.close()
    call.wait_over()
    call.told.set_result(b"[]")
    assert call.counters.failures["handshake"] == 0


def test_where_no_socket_is_left_the_asker_is_refused(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(guests, "loopback_pair", fail)
    call.ask(Question(ask=Ask.CONNECT, target="press-4"))
    answer = ForwardAnswer(Denial.BUSY, "no socket is left for it: Too many open files")
    assert call.hear_all() == [(FrameKind.DATA, answer.encode()), (FrameKind.END, b"")]
    assert call.counters.taken == 0


def test_a_stranger_that_hits_the_loopback_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects to the port before this process does is sent away."""
    strangers: list[socket.socket] = []
    real = socket.socket.listen

    def listen(listener: socket.socket, *backlog: int) -> None:
        real(listener, *backlog)
        strangers.append(socket.create_connection(listener.getsockname(), WAIT_SECONDS))

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "listen", listen)
        one, other = loopback_pair()
    (stranger,) = strangers
    with one, other, stranger:
        assert one.getsockname() == other.getpeername()
        stranger.settimeout(WAIT_SECONDS)
        assert stranger.recv(1) == b""
