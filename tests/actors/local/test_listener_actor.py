"""ListenerActor on real sockets: accepting, leaving callers waiting, refusing them, its address."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import settle
from tests.support.fakes import Recorder, start_watched
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.addresses import TcpAddress, UnixAddress
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import kill
from tunnelfleet.actors.local import applications
from tunnelfleet.actors.local.applications import ListenerActor
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.messages import (
    Accepted,
    ListenerBound,
    SetAccepting,
    SocketsExhausted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.actors import Log
    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.kernel import Dispatcher

FREE = TcpAddress("127.0.0.1", 0)
PATIENT = Limits(offline_grace_seconds=60.0)


class Port:
    """A ListenerActor, what its tunnel was told, and callers."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        address: Address,
        limits: Limits,
        bound: dict[str, Address] | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.bound: dict[str, Address] = {} if bound is None else bound
        self.tunnel = Recorder.start(dispatcher=dispatcher)
        self.told: Log = self.tunnel.ask(lambda actor: actor.log)
        self.connector = Connector(1)
        self.ref, self.ended = start_watched(
            dispatcher,
            lambda: ListenerActor.start(
                "SSH", address, self.tunnel, limits, self.bound, self.connector
            ),
        )
        self.callers: list[socket.socket] = []
        settle(dispatcher)

    @property
    def address(self) -> Address:
        (bound,) = [m for m in self.told.items if isinstance(m, ListenerBound)]
        return bound.address

    def accepting(self, accepting: bool) -> None:
        self.ref.tell(SetAccepting(accepting))
        settle(self.dispatcher)

    def call(self) -> socket.socket:
        """A local application connects."""
        address = self.address
        family = socket.AF_UNIX
        target: Any = str(address)
        if isinstance(address, TcpAddress):
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            target = (address.host, address.port)
        caller = socket.socket(family)
        self.callers.append(caller)
        caller.settimeout(WAIT_SECONDS)
        caller.connect(target)
        return caller

    def accepted(self, count: int = 1) -> list[socket.socket]:
        """Wait for callers to be handed over."""
        items = self.told.wait_for(
            lambda items: sum(isinstance(m, Accepted) for m in items) >= count
        )
        return [m.sock for m in items if isinstance(m, Accepted)]

    def failure(self) -> str:
        """Wait for its end; return the reason."""
        (terminated,) = self.ended.wait(1)
        assert terminated.reason.is_failure
        return str(terminated.reason)

    def close(self) -> None:
        if self.ref.is_alive():
            self.ref.stop()
        self.connector.close()
        for sock in self.callers + [m.sock for m in self.told.items if isinstance(m, Accepted)]:
            sock.close()


@pytest.fixture
def port(dispatcher: Dispatcher) -> Iterator[Callable[..., Port]]:
    made: list[Port] = []

    def make(address: Address = FREE, limits: Limits = PATIENT, bound: Any = None) -> Port:
        made.append(Port(dispatcher, address, limits, bound))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_host_name_is_looked_up_elsewhere_and_listened_on(port: Callable[..., Port]) -> None:
    listener = port(TcpAddress("localhost", 0))
    listener.told.wait_for(lambda items: any(isinstance(m, ListenerBound) for m in items))
    listener.accepting(True)
    listener.call()
    assert len(listener.accepted()) == 1


def test_an_unknown_host_name_is_told(port: Callable[..., Port]) -> None:
    listener = port(TcpAddress("no-such-host.invalid", 0))
    assert "cannot look up 'no-such-host.invalid'" in listener.failure()


def is_refused(listener: Port) -> bool:
    """Whether a caller is thrown out: with a reset, or over a Unix socket with an end."""
    try:
        caller = listener.call()
        return caller.recv(1) == b"" and caller.family == socket.AF_UNIX
    except ConnectionResetError:
        return True


def test_a_caller_is_handed_over(port: Callable[..., Port]) -> None:
    listener = port()
    listener.accepting(True)
    caller = listener.call()
    (sock,) = listener.accepted()
    caller.sendall(b"hello")
    assert sock.recv(5) == b"hello"
    assert listener.told.items[-1].service_id == "SSH"


def test_the_free_port_that_it_took_is_told(port: Callable[..., Port]) -> None:
    address = port().address
    assert isinstance(address, TcpAddress)
    assert address.host == "127.0.0.1"
    assert address.port > 0


def test_many_callers_are_all_handed_over(port: Callable[..., Port]) -> None:
    listener = port()
    listener.accepting(True)
    for _ in range(100):
        listener.call()
    assert len(set(map(id, listener.accepted(100)))) == 100


def test_callers_wait_until_the_tunnel_takes_them(port: Callable[..., Port]) -> None:
    listener = port()
    listener.call()
    listener.call()
    settle(listener.dispatcher)
    assert not any(isinstance(m, Accepted) for m in listener.told.items)
    listener.accepting(True)
    listener.accepted(2)


def test_after_a_pause_callers_wait_again(port: Callable[..., Port]) -> None:
    listener = port()
    listener.accepting(True)
    listener.accepting(False)
    caller = listener.call()
    settle(listener.dispatcher)
    assert not any(isinstance(m, Accepted) for m in listener.told.items)
    caller.setblocking(False)
    with pytest.raises(BlockingIOError):
        caller.recv(1)
    listener.accepting(True)
    listener.accepted()


def test_nobody_waits_longer_than_the_grace_time(port: Callable[..., Port]) -> None:
    listener = port(limits=Limits(offline_grace_seconds=0.1))
    assert is_refused(listener), "who waited"
    assert is_refused(listener), "and who comes later"
    listener.accepting(True)
    caller = listener.call()
    (sock,) = listener.accepted()
    sock.send(b"x")
    assert caller.recv(1) == b"x"


def test_the_grace_time_starts_anew_with_each_pause(port: Callable[..., Port]) -> None:
    listener = port(limits=Limits(offline_grace_seconds=0.3))
    for _ in range(3):
        listener.accepting(True)
        listener.accepting(False)
    first = listener.call()
    listener.accepting(True)
    listener.accepted()
    listener.accepting(False)
    assert is_refused(listener)
    first.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.recv(1)


def test_the_timer_of_a_pause_that_is_over_refuses_nobody(
    port: Callable[..., Port], dispatcher: Dispatcher
) -> None:
    listener = port(limits=Limits(offline_grace_seconds=0.1))
    listener.accepting(True)
    recorder = Recorder.start(dispatcher=dispatcher)
    recorder.ask(lambda actor: actor.schedule(0.2, "over"))
    recorder.ask(lambda actor: actor.log).wait(1)
    listener.call()
    listener.accepted()


def test_without_a_descriptor_left_accepting_rests_and_goes_on(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applications, "EXHAUSTED_PAUSE_SECONDS", 0.1)
    listener = port()
    attempts = []

    class Exhausted:
        """A listening socket in a process without a free descriptor: for three calls."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def accept(self) -> Any:
            attempts.append(1)
            if len(attempts) <= 3:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return self.sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

    actor = listener.ref.cell.actor
    actor._sockets = [Exhausted(actor._sockets[0])]
    listener.accepting(True)
    listener.call()
    listener.accepted()
    assert 4 <= len(attempts) <= 6, "it does not spin"


def test_a_caller_that_is_gone_already_does_not_hurt(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = port()
    actor = listener.ref.cell.actor
    (real,) = actor._sockets
    failures = iter([OSError(errno.ECONNABORTED, "aborted")])

    class Flaky:
        def accept(self) -> Any:
            for failure in failures:
                raise failure
            return real.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    actor._sockets = [Flaky()]
    listener.accepting(True)
    listener.call()
    listener.accepted()


# -- addresses


def test_a_port_that_is_taken_ends_it_and_says_so(port: Callable[..., Port]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = TcpAddress("127.0.0.1", other.getsockname()[1])
        reason = port(address).failure()
    assert str(address) in reason
    assert "in use" in reason


def test_a_host_that_is_not_ours_ends_it(port: Callable[..., Port]) -> None:
    assert "203.0.113.1" in port(TcpAddress("203.0.113.1", 0)).failure()


def test_it_listens_on_ipv6(port: Callable[..., Port]) -> None:
    listener = port(TcpAddress("::1", 0))
    listener.accepting(True)
    listener.call()
    listener.accepted()
    assert str(listener.address).startswith("[::1]:")


def test_a_restart_keeps_the_free_port(port: Callable[..., Port]) -> None:
    bound: dict[str, Address] = {}
    first = port(bound=bound)
    first.accepting(True)
    first.call()
    first.accepted()
    address = first.address
    first.ref.stop()
    second = port(bound=bound)
    assert second.address == address
    second.accepting(True)
    second.call()
    second.accepted()


def test_its_end_frees_the_port(port: Callable[..., Port]) -> None:
    listener = port()
    address = listener.address
    assert isinstance(address, TcpAddress)
    listener.ref.stop()
    with pytest.raises(ConnectionRefusedError):
        listener.call()


def test_a_killed_one_frees_the_port_too(port: Callable[..., Port]) -> None:
    listener = port()
    assert isinstance(listener.address, TcpAddress)
    kill(listener.ref)
    listener.ended.wait(1)
    with pytest.raises(ConnectionRefusedError):
        listener.call()


def test_a_unix_socket_is_listened_on_and_removed(
    port: Callable[..., Port], tmp_path: Path
) -> None:
    path = tmp_path / "app.sock"
    listener = port(UnixAddress(str(path)))
    listener.accepting(True)
    listener.call()
    listener.accepted()
    listener.ref.stop()
    assert not path.exists()


def test_a_unix_caller_is_refused_after_the_grace_time(
    port: Callable[..., Port], tmp_path: Path
) -> None:
    listener = port(UnixAddress(str(tmp_path / "app.sock")), Limits(offline_grace_seconds=0.05))
    assert is_refused(listener)


def test_a_stale_unix_socket_is_taken_over(port: Callable[..., Port], tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(path))
        former.listen()
    assert path.exists(), "its process is gone, the file is not"
    listener = port(UnixAddress(str(path)))
    listener.accepting(True)
    listener.call()
    listener.accepted()


def test_a_unix_socket_in_use_is_left_alone(port: Callable[..., Port], tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert str(path) in port(UnixAddress(str(path))).failure()
        assert path.exists()


def test_a_file_in_the_way_is_left_alone(port: Callable[..., Port], tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    path.write_text("precious")
    assert str(path) in port(UnixAddress(str(path))).failure()
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_ends_it(port: Callable[..., Port], tmp_path: Path) -> None:
    assert "No such file" in port(UnixAddress(str(tmp_path / "none" / "app.sock"))).failure()


# -- names


def resolves_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have every name stand for these addresses."""

    def look_up(_host: str, port: int, **_named: Any) -> list[Any]:
        return [
            (
                socket.AF_INET6 if ":" in host else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (host, port, 0, 0) if ":" in host else (host, port),
            )
            for host in hosts
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def bound(listener: Port) -> ListenerBound:
    items = listener.told.wait_for(lambda items: any(isinstance(m, ListenerBound) for m in items))
    found = [m for m in items if isinstance(m, ListenerBound)][-1]
    assert isinstance(found, ListenerBound)
    return found


def connect_to(listener: Port, host: str, number: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    caller = socket.socket(family)
    listener.callers.append(caller)
    caller.connect((host, number))


def test_localhost_is_listened_on_in_both_families_at_one_port(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: pytest.fail("asked"))
    listener = port(TcpAddress("localhost", 0))
    told = bound(listener)
    assert isinstance(told.address, TcpAddress)
    number = told.address.port
    assert told[2:] == (TcpAddress("127.0.0.1", number), (TcpAddress("::1", number),))
    listener.accepting(True)
    for host in ("127.0.0.1", "::1"):
        connect_to(listener, host, number)
    listener.accepted(2)


@pytest.mark.parametrize("hosts", [("::1", "127.0.0.4", "127.0.0.5"), ("127.0.0.4", "::1")])
def test_a_name_is_listened_on_at_each_of_its_addresses(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...]
) -> None:
    resolves_to(monkeypatch, *hosts)
    listener = port(TcpAddress("many.example", 0))
    told = bound(listener)
    addresses = [told.address, *told.others]
    assert {address.host for address in addresses if isinstance(address, TcpAddress)} == set(hosts)
    assert len({address.port for address in addresses if isinstance(address, TcpAddress)}) == 1
    listener.accepting(True)
    for address in addresses:
        assert isinstance(address, TcpAddress)
        connect_to(listener, address.host, address.port)
    listener.accepted(len(hosts))


def test_a_restart_keeps_all_addresses_of_a_name(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "127.0.0.4", "127.0.0.5")
    kept: dict[str, Address] = {}
    first = port(TcpAddress("many.example", 0), bound=kept)
    before = bound(first)
    first.ref.stop()
    second = port(TcpAddress("many.example", 0), bound=kept)
    assert bound(second)[2:] == before[2:]


def test_an_address_of_a_name_that_is_elsewhere_is_left_out(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "203.0.113.1", "127.0.0.4")
    told = bound(port(TcpAddress("many.example", 0)))
    assert isinstance(told.address, TcpAddress)
    assert (told.address.host, told.others) == ("127.0.0.4", ())


def test_a_name_that_is_elsewhere_ends_it(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "203.0.113.1", "203.0.113.2")
    assert "assign" in port(TcpAddress("elsewhere.example", 0)).failure()


def test_a_port_that_is_taken_at_one_address_ends_it_and_frees_the_other(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "127.0.0.4", "127.0.0.5")
    with socket.create_server(("127.0.0.5", 0)) as other:
        number = other.getsockname()[1]
        assert "in use" in port(TcpAddress("many.example", number)).failure()
    socket.create_server(("127.0.0.4", number)).close()


def test_a_free_port_is_one_that_is_free_at_all_addresses(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "127.0.0.4", "127.0.0.5")
    real, failures = applications._listen_once, iter([errno.EADDRINUSE] * 3)

    def taken_at_first(*args: Any) -> Any:
        for code in failures:
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(applications, "_listen_once", taken_at_first)
    assert len(bound(port(TcpAddress("many.example", 0))).others) == 1


def test_its_end_gives_up_the_look_up(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: answer.wait(60) and [])
    try:
        listener = port(TcpAddress("slow.example", 0))
        listener.ref.stop()
        listener.close()
        assert not answer.is_set(), "nobody has waited for it"
    finally:
        answer.set()


def test_without_a_descriptor_accepting_is_told_and_logged_once(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(applications, "EXHAUSTED_PAUSE_SECONDS", 0.01)
    listener = port()

    class Exhausted:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def accept(self) -> Any:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

    actor = listener.ref.cell.actor
    actor._sockets = [Exhausted(actor._sockets[0])]
    listener.accepting(True)
    listener.call()
    listener.told.wait_for(lambda items: items.count(SocketsExhausted("accept")) >= 5)
    assert len(caplog.records) == 1
    assert "Too many open files in system" in caplog.text


def test_without_a_descriptor_to_listen_on_it_ends_and_tells(
    port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted(*_args: Any, **_named: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(applications, "_listen", exhausted)
        listener = port()
        assert "Too many open files" in listener.failure()
    assert SocketsExhausted("listen") in listener.told.items
    assert "Unhandled" not in caplog.text
