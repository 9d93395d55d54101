"""Dialling: the next address beside one that does not answer, families in turn, losers closed."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log, settle
from tests.support.scripted_server import black_hole
from tests.support.sockets import free_port, port_of
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.addresses import TcpAddress, UnixAddress
from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.net.dial import MAX_ADDRESSES, Dial, DialFailed, DialStep, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.transport.connector import Connector

V4, V6 = socket.AF_INET, socket.AF_INET6
LONG = 3_600.0


class Dialler(DispatchedActor):
    """Dials once, and logs the outcome."""

    def __init__(self, connector: Connector, address: Any, log: Log, **named: Any) -> None:
        super().__init__()
        self.prepare = named.pop("prepare", False)
        self.dial = Dial(
            self,
            connector,
            address,
            tunnel="t",
            on_open=log.add,
            on_failed=log.add,
            **({"next_address_after_seconds": LONG} | named),
        )

    def on_start(self) -> None:
        if self.prepare:
            self.dial.prepare(self.dial.start)
        else:
            self.dial.start()

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, DialStep):
            return message.run()
        return message(self.dial)

    def on_stop(self) -> None:
        self.dial.cancel()


class GivesUp(Dialler):
    """Gives up in the turn in which it began."""

    def on_start(self) -> None:
        self.dial.start()
        self.dial.cancel()


class DialBench:
    """Dials, and knows which sockets were made for it."""

    def __init__(self, dispatcher: Dispatcher, connector: Connector) -> None:
        self.dispatcher = dispatcher
        self.connector = connector
        self.log = Log()
        self.ref: ActorRef[Any] | None = None

    def dial(self, address: Any, **named: Any) -> DialBench:
        self.ref = Dialler.start(
            self.connector, address, self.log, dispatcher=self.dispatcher, **named
        )
        return self

    @property
    def outcome(self) -> socket.socket | DialFailed:
        (found,) = self.log.wait(1)
        return found

    def peer(self) -> tuple[str, int]:
        """What the connected socket is connected to; it is closed."""
        sock = self.outcome
        assert isinstance(sock, socket.socket), sock
        with sock:
            assert not sock.getblocking()
            host, port = sock.getpeername()[:2]
            return host, port

    def failure(self) -> DialFailed:
        failed = self.outcome
        assert isinstance(failed, DialFailed), failed
        return failed

    def close(self) -> None:
        if self.ref is not None:
            self.ref.stop()
        for item in self.log.items:
            if isinstance(item, socket.socket):
                item.close()


@pytest.fixture
def bench(dispatcher: Dispatcher, connector: Connector) -> Iterator[DialBench]:
    made = DialBench(dispatcher, connector)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(WAIT_SECONDS)
        yield made


@pytest.fixture
def hole() -> Iterator[int]:
    with black_hole() as port:
        yield port


def names(monkeypatch: pytest.MonkeyPatch, *addresses: Any) -> None:
    """Have every name stand for these addresses: (host, port) each."""
    found = [
        (V6 if ":" in host else V4, socket.SOCK_STREAM, 6, "", (host, port))
        for host, port in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: found)


# -- which address is tried when


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ([], []),
        ([V4], [0]),
        ([V6, V4], [0, 1]),
        ([V4, V6], [0, 1]),
        ([V6, V6, V6, V4], [0, 3, 1, 2]),
        ([V4, V4, V6, V6, V6], [0, 2, 1, 3, 4]),
    ],
)
def test_families_take_turns(families: list[Any], expected: list[int]) -> None:
    addresses = [(family, number) for number, family in enumerate(families)]
    assert [number for _family, number in interleave(addresses)] == expected


def test_a_black_hole_costs_the_delay_and_no_more(
    bench: DialBench, server: socket.socket, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, ("127.0.0.1", hole), ("127.0.0.1", port_of(server)))
    bench.dial(TcpAddress("two.example", 1), next_address_after_seconds=0.05)
    assert bench.peer() == ("127.0.0.1", port_of(server))


def test_nothing_else_is_tried_before_the_delay_is_over(
    bench: DialBench, server: socket.socket, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, ("127.0.0.1", hole), ("127.0.0.1", port_of(server)))
    bench.dial(TcpAddress("two.example", 1), next_address_after_seconds=LONG)
    server.setblocking(False)
    assert not select.select([server], [], [], 0.2)[0]
    assert bench.log.items == []


def test_an_address_that_fails_is_followed_by_the_next_at_once(
    bench: DialBench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [("127.0.0.1", free_port()) for _ in range(3)]
    names(monkeypatch, *refused, ("127.0.0.1", port_of(server)))
    bench.dial(TcpAddress("many.example", 1))
    assert bench.peer() == ("127.0.0.1", port_of(server))


def test_the_losers_are_closed(
    bench: DialBench, server: socket.socket, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []

    class Kept(socket.socket):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("tunnelfleet.actors.net.dial.socket.socket", Kept)
    names(monkeypatch, ("127.0.0.1", hole), ("127.0.0.2", hole), ("127.0.0.1", port_of(server)))
    bench.dial(TcpAddress("three.example", 1), next_address_after_seconds=0.01)
    winner = bench.outcome
    settle(bench.dispatcher)
    assert [sock for sock in made if sock.fileno() >= 0] == [winner]
    assert len(bench.dispatcher.readiness) == 0


def test_a_name_with_hundreds_of_addresses_is_not_tried_out(
    bench: DialBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    def refuse(_self: Any, target: Any) -> int:
        tried.append(target)
        return errno.ECONNREFUSED

    names(monkeypatch, *[(f"127.0.1.{number}", 9) for number in range(200)])
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    bench.dial(TcpAddress("hundreds.example", 1))
    assert bench.failure().reason == "Connection refused"
    assert len(tried) == MAX_ADDRESSES


def test_the_last_failure_is_told(bench: DialBench) -> None:
    bench.dial(TcpAddress("127.0.0.1", free_port()))
    assert bench.failure() == DialFailed("Connection refused")


def test_localhost_is_connected_to_in_whatever_family_it_is(
    bench: DialBench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: Any, **_named: Any) -> Any:
        raise AssertionError("nobody is to be asked for localhost")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    bench.dial(TcpAddress("localhost", port_of(server)))
    assert bench.peer() == ("127.0.0.1", port_of(server))


def test_a_unix_socket_is_dialled(bench: DialBench, tmp_path: Any) -> None:
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        bench.dial(UnixAddress(path), local_bind="127.0.0.1")
        assert isinstance(bench.outcome, socket.socket)


def test_a_unix_socket_whose_application_is_behind_is_waited_for(
    bench: DialBench, tmp_path: Any
) -> None:
    """A connect that blocks waits there, and one that does not is refused with EAGAIN."""
    path = str(tmp_path / "app.sock")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(1)
        code, in_front = 0, -1
        while code == 0:
            before = stack.enter_context(socket.socket(socket.AF_UNIX))
            before.setblocking(False)
            code, in_front = before.connect_ex(path), in_front + 1
        assert code == errno.EAGAIN
        bench.dial(UnixAddress(path))
        assert bench.ref is not None
        assert bench.ref.ask(lambda dial: (dial.phase, len(dial._candidates))) == ("TCP connect", 1)
        assert bench.log.items == []
        for _ in range(in_front):
            stack.enter_context(listener.accept()[0])
        sock = bench.outcome
        assert isinstance(sock, socket.socket)
        sock.close()


# -- the source address


def test_the_source_address_may_be_a_name(
    bench: DialBench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (V6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (V4, socket.SOCK_STREAM, 6, "", ("127.0.0.3", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: found)
    bench.dial(TcpAddress("127.0.0.1", port_of(server)), local_bind="from.example")
    accepted, peer = server.accept()
    accepted.close()
    assert peer[0] == "127.0.0.3"


def test_a_source_of_another_family_is_told(bench: DialBench, server: socket.socket) -> None:
    bench.dial(TcpAddress("127.0.0.1", port_of(server)), local_bind="::1")
    assert bench.failure().reason == "Cannot assign requested address"


def test_a_slow_source_name_does_not_hold_up_the_dispatcher(
    bench: DialBench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def slow(_host: str, port: int, **_named: Any) -> list[Any]:
        assert answer.wait(WAIT_SECONDS)
        return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.3", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        bench.dial(TcpAddress("127.0.0.1", port_of(server)), local_bind="slow.example")
        settle(bench.dispatcher)
        assert bench.log.items == []
    finally:
        answer.set()
    bench.peer()


def test_what_was_prepared_is_not_looked_up_again(
    bench: DialBench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def look_up(host: str, _port: int, **_named: Any) -> list[Any]:
        asked.append(host)
        return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port_of(server)))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    bench.dial(TcpAddress("two.example", 1), local_bind="127.0.0.3", prepare=True)
    accepted, peer = server.accept()
    accepted.close()
    assert (peer[0], asked) == ("127.0.0.3", ["two.example"])


# -- giving up


@pytest.mark.parametrize("where", ["look-up", "connect", "between two addresses"])
def test_given_up_it_says_nothing_and_leaves_nothing(
    bench: DialBench,
    server: socket.socket,
    hole: int,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    answer = threading.Event()
    found = [
        (V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", hole)),
        (V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port_of(server))),
    ]

    def look_up(*_args: Any, **_named: Any) -> list[Any]:
        if where == "look-up":
            assert answer.wait(WAIT_SECONDS)
        return found[:1] if where == "connect" else found

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        bench.dial(TcpAddress("two.example", 1), next_address_after_seconds=0.02)
        assert bench.ref is not None
        if where != "look-up":
            bench.connector.names.look_up("another.example", 1, "t").outcome.result(WAIT_SECONDS)
            settle(bench.dispatcher)
        bench.ref.ask(Dial.cancel)
        answer.set()
        server.setblocking(False)
        select.select([server], [], [], 0.1)
        settle(bench.dispatcher)
    finally:
        answer.set()
    if bench.log.items:
        # The second address had been reached before.
        assert where == "between two addresses"
    dial = bench.ref.ask(lambda dial: (dial._pending, dial._lookup, dial._timer))
    assert dial == ({}, None, None)


def test_a_connection_that_is_given_up_is_not_one_that_ended_without_a_byte(
    bench: DialBench, server: socket.socket
) -> None:
    """The kernel connects at once, and the application there has the connection already."""
    address = TcpAddress("127.0.0.1", port_of(server))
    bench.ref = GivesUp.start(bench.connector, address, bench.log, dispatcher=bench.dispatcher)
    accepted, _ = server.accept()
    accepted.settimeout(WAIT_SECONDS)
    with accepted, pytest.raises(ConnectionResetError):
        accepted.recv(1)


@pytest.mark.parametrize("end", ["open", "failed", "given up", "looked up"])
def test_a_dial_that_is_over_keeps_nobody(
    bench: DialBench, server: socket.socket, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """An actor has its dial; if the dial had the actor, neither were freed by its count."""
    names(monkeypatch, ("127.0.0.1", port_of(server)))
    port = free_port() if end == "failed" else port_of(server)
    host = "two.example" if end == "looked up" else "127.0.0.1"
    bench.dial(TcpAddress(host, port), prepare=end == "looked up")
    assert bench.ref is not None
    bench.log.wait(1)
    if end == "given up":
        bench.ref.ask(Dial.cancel)
    kept = bench.ref.ask(lambda dial: (dial._on_open, dial._on_failed, dial._lookup))
    assert kept == (None, None, None)


# -- nothing left


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
@pytest.mark.parametrize("call", ["socket", "connect_ex", "add_writer"])
def test_without_a_descriptor_it_fails_as_expected(
    bench: DialBench,
    hole: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    call: str,
) -> None:
    def fail(*_args: Any) -> Any:
        raise OSError(code, os.strerror(code))

    target: Callable[..., Any] | Any = {
        "socket": ("tunnelfleet.actors.net.dial.socket.socket", fail),
        "connect_ex": ("socket.socket.connect_ex", lambda *_args: code),
        "add_writer": ("tunnelfleet.actors.kernel.DispatchedActor.add_writer", fail),
    }[call]
    with monkeypatch.context() as patched, contextlib.suppress(KeyError):
        patched.setattr(*target)
        bench.dial(TcpAddress("127.0.0.1", hole))
        failed = bench.failure()
    assert failed == DialFailed(os.strerror(code), is_exhausted=True)
    assert "Unhandled" not in caplog.text
    assert f"connecting to 127.0.0.1:{hole} failed: {os.strerror(code)}" in caplog.text
