"""SocketActor between a real socket and recorders in the place of its stream and its tunnel."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log, settle
from tests.support.fakes import Recorder, start_watched
from tests.support.sockets import free_port
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.addresses import TcpAddress, UnixAddress
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import kill
from tunnelfleet.actors.local import socket_actor
from tunnelfleet.actors.local.socket_actor import CREDIT_BYTES, SocketActor
from tunnelfleet.actors.net.socket_io import undelivered_bytes
from tunnelfleet.actors.tunnel.messages import (
    TAKEN_UNTOLD_BYTES,
    Attach,
    BytesDelivered,
    BytesSent,
    ConnectionKey,
    Deliver,
    LocalDataRead,
    LocalReadEnded,
    RemoteEnded,
    SocketsExhausted,
    StopReadingLocal,
)
from tunnelfleet.proto import End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.transport.connector import Connector

KEY = ConnectionKey("SSH", 1, 7)
PATIENT = Limits(linger_seconds=30.0)
BRIEF = Limits(linger_seconds=0.05)
"""A time that a connection which is not over outlasts."""
ORDERLY = RemoteEnded(KEY, End.ORDERLY, "closed by the peer")
BOTH = RemoteEnded(KEY, End.BOTH, "closed by the peer")
CUT = RemoteEnded(KEY, End.CUT, "reset by the peer")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback, with small buffers."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


class Tunnel(Recorder):
    """Stands for TunnelActor; logs what is for the wire apart from the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.to_wire = Log()

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, LocalDataRead | LocalReadEnded):
            self.to_wire.add(message)
            return None
        return super().on_receive(message)


class Local:
    """A SocketActor, the application at its other end, and what its tunnel was told."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        connector: Connector,
        limits: Limits = PATIENT,
        **arguments: Any,
    ) -> None:
        self.dispatcher = dispatcher
        self.stream = Recorder.start(dispatcher=dispatcher)
        self.tunnel = Tunnel.start(dispatcher=dispatcher)
        self.to_wire: Log = self.tunnel.ask(lambda actor: actor.to_wire)
        self.to_tunnel: Log = self.tunnel.ask(lambda actor: actor.log)
        self.app: Any = None
        if "address" not in arguments and "sock" not in arguments:
            arguments["sock"], self.app = tcp_pair()
            self.app.settimeout(WAIT_SECONDS)
        self.ref, self.ended = start_watched(
            dispatcher,
            lambda: SocketActor.start(
                KEY, self.stream, self.tunnel, limits, connector, **arguments
            ),
        )

    def close(self) -> None:
        if self.app is not None:
            self.app.close()

    def tell(self, *messages: Any) -> None:
        for message in messages:
            self.ref.tell(message)
        settle(self.dispatcher)

    @property
    def read_bytes(self) -> bytes:
        return b"".join(m.data for m in self.to_wire.items if isinstance(m, LocalDataRead))

    @property
    def delivered_bytes(self) -> int:
        return sum(m.size_bytes for m in self.to_tunnel.items if isinstance(m, BytesDelivered))

    def read_end(self) -> LocalReadEnded:
        """Wait until the tunnel was told that no more bytes come."""
        items = self.to_wire.wait_for(
            lambda items: any(isinstance(m, LocalReadEnded) for m in items)
        )
        ends = [item for item in items if isinstance(item, LocalReadEnded)]
        assert len(ends) == 1
        assert items[-1] is ends[0], "nothing comes after the end"
        return ends[0]

    def broken_off(self) -> str:
        """Wait until the tunnel was told of an end in no good order; return the reason given."""
        end = self.read_end()
        assert not end.is_orderly
        return end.reason

    @property
    def ends_told(self) -> list[bool]:
        """Whether each of the ends that the tunnel was told of was in good order."""
        return [m.is_orderly for m in self.to_wire.items if isinstance(m, LocalReadEnded)]

    def wait_ended(self) -> None:
        """Wait until the actor has ended, by itself."""
        (terminated,) = self.ended.wait(1)
        assert not terminated.reason.is_failure, terminated

    def fill_application(self, chunk: bytes = b"x" * 65_536) -> int:
        """Deliver until the application's buffers are full; return the bytes delivered."""
        total = 0
        while self.delivered_bytes == total:
            self.tell(Deliver(KEY, chunk))
            total += len(chunk)
            assert total < 50_000_000, "nothing holds it up"
        return total


@pytest.fixture
def local(dispatcher: Dispatcher, connector: Connector) -> Iterator[Callable[..., Local]]:
    made: list[Local] = []

    def make(limits: Limits = PATIENT, **arguments: Any) -> Local:
        made.append(Local(dispatcher, connector, limits, **arguments))
        return made[-1]

    yield make
    for each in made:
        if each.ref.is_alive():
            each.ref.stop()
        each.close()


def read_all(sock: socket.socket, size: int | None = None) -> bytes:
    """Read to the end, or `size` bytes."""
    data = b""
    while size is None or len(data) < size:
        piece = sock.recv(65_536)
        if not piece:
            assert size is None, f"the end came after {len(data)} bytes"
            return data
        data += piece
    return data


def read_until_reset(sock: socket.socket) -> tuple[bytes, bool]:
    """Read to the end; say whether it was a reset, and not an ordinary end."""
    data = b""
    try:
        while piece := sock.recv(65_536):
            data += piece
    except ConnectionResetError:
        return data, True
    return data, False


def ends_with_reset(sock: socket.socket) -> bool:
    """Whether the connection ends with a reset, and not with an ordinary end."""
    return read_until_reset(sock)[1]


# -- from the application


@pytest.mark.parametrize(
    ("high_water_bytes", "credit_bytes"),
    [(1, 1), (7, 1), (20_000, 5_000), (262_144, CREDIT_BYTES)],
)
def test_it_says_where_credit_goes_and_how_little_may_wait(
    local: Callable[..., Local], high_water_bytes: int, credit_bytes: int
) -> None:
    app = local(Limits(send_high_water_bytes=high_water_bytes))
    assert app.to_tunnel.wait(1) == [Attach(KEY, app.ref, credit_bytes)]


@pytest.mark.parametrize("high_water_bytes", [1, 7, 20_000])
def test_it_reads_on_without_the_credit_that_may_wait(
    local: Callable[..., Local], high_water_bytes: int
) -> None:
    app = local(Limits(send_high_water_bytes=high_water_bytes, data_payload_bytes=5_000))
    (attached,) = app.to_tunnel.wait(1)
    app.app.sendall(b"x" * 60_000)
    eventually(lambda: len(app.read_bytes) >= high_water_bytes)
    settle(app.dispatcher)
    before = len(app.read_bytes)
    app.tell(BytesSent(before - (attached.credit_bytes - 1)))
    eventually(lambda: len(app.read_bytes) > before, "it reads on")


def test_what_the_application_sends_goes_to_the_stream(local: Callable[..., Local]) -> None:
    app = local()
    app.app.sendall(b"hello")
    assert app.to_wire.wait(1) == [LocalDataRead(KEY, b"hello")]


def test_all_bytes_before_the_end_are_told_before_the_end(local: Callable[..., Local]) -> None:
    app = local(Limits(send_high_water_bytes=10_000_000, linger_seconds=30.0))
    payload = bytes(index % 251 for index in range(1_000_000))
    app.app.sendall(payload)
    app.app.shutdown(socket.SHUT_WR)
    assert app.read_end() == LocalReadEnded(KEY, "closed by the local application", True)
    assert app.read_bytes == payload


def test_no_chunk_is_larger_than_a_payload(local: Callable[..., Local]) -> None:
    app = local(Limits(data_payload_bytes=1_000, send_high_water_bytes=1_000_000))
    app.app.sendall(b"x" * 10_000)
    eventually(lambda: len(app.read_bytes) == 10_000)
    assert max(len(m.data) for m in app.to_wire.items) <= 1_000


def test_it_reads_no_more_than_it_has_credit_for(local: Callable[..., Local]) -> None:
    app = local(Limits(send_high_water_bytes=20_000, data_payload_bytes=5_000))
    app.app.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 20_000_000:
            sent += app.app.send(b"x" * 65_536)
    assert sent < 20_000_000, "the application is held up"
    eventually(lambda: len(app.read_bytes) >= 20_000)
    settle(app.dispatcher)
    assert len(app.read_bytes) == 20_000
    app.tell(BytesSent(9_999))
    assert len(app.read_bytes) == 20_000, "it starts again at half, not at every byte"
    app.tell(BytesSent(1))
    eventually(lambda: len(app.read_bytes) == 30_000)
    app.tell(BytesSent(20_000))
    eventually(lambda: len(app.read_bytes) == 50_000)


def test_an_application_that_aborts_ends_the_connection(local: Callable[..., Local]) -> None:
    app = local()
    app.app.sendall(b"last words")
    eventually(lambda: app.read_bytes == b"last words")
    reset(app.app)
    assert "reset" in app.broken_off(), "the far application must not take it for all there is"
    app.wait_ended()


@pytest.mark.parametrize("turn_bytes", [10_000, 1_000_000], ids=["turns", "one turn"])
def test_a_reset_behind_much_is_told_behind_all_of_it(
    local: Callable[..., Local], monkeypatch: pytest.MonkeyPatch, turn_bytes: int
) -> None:
    """libuv reports an error only once, and the bytes in front of it take several turns."""
    monkeypatch.setattr(socket_actor, "TURN_READ_BYTES", turn_bytes)
    app = local(Limits(data_payload_bytes=5_000, send_high_water_bytes=1_000_000))
    settle(app.dispatcher)
    gate = threading.Event()
    app.dispatcher.call_soon(gate.wait, WAIT_SECONDS)
    app.app.sendall(b"x" * 60_000)
    reset(app.app)
    gate.set()
    assert "reset" in app.broken_off()
    assert app.read_bytes == b"x" * 60_000


def test_a_reset_while_it_rests_without_credit_is_told_behind_all_bytes(
    local: Callable[..., Local],
) -> None:
    app = local(Limits(data_payload_bytes=5_000, send_high_water_bytes=20_000))
    app.app.sendall(b"x" * 60_000)
    eventually(lambda: len(app.read_bytes) == 20_000)
    reset(app.app)
    for read_bytes in (40_000, 60_000):
        app.tell(BytesSent(20_000))
        eventually(lambda wanted=read_bytes: len(app.read_bytes) == wanted)
    app.tell(BytesSent(20_000))
    assert "reset" in app.broken_off()


def test_credit_that_comes_in_time_finds_it_watching(local: Callable[..., Local]) -> None:
    app = local(Limits(data_payload_bytes=5_000, send_high_water_bytes=20_000))
    for rounds in range(1, 4):
        app.app.sendall(b"x" * 20_000)
        eventually(lambda wanted=rounds * 20_000: len(app.read_bytes) == wanted)
        # Nothing was readable meanwhile.
        app.tell(BytesSent(20_000))


# -- to the application


def test_what_the_peer_sends_goes_to_the_application_and_is_credited(
    local: Callable[..., Local],
) -> None:
    app = local()
    app.tell(Deliver(KEY, b"hello "), Deliver(KEY, b"world"))
    assert read_all(app.app, 11) == b"hello world"
    # A message for each keystroke would cost as much as the keystroke.
    assert app.delivered_bytes == 0
    app.tell(Deliver(KEY, b"x" * (TAKEN_UNTOLD_BYTES - 12)))
    assert app.delivered_bytes == 0
    app.tell(Deliver(KEY, b"x"))
    assert app.to_tunnel.items[1:] == [BytesDelivered(KEY, TAKEN_UNTOLD_BYTES)]


def test_with_little_room_what_was_taken_is_told_soon(local: Callable[..., Local]) -> None:
    app = local(replace(PATIENT, receive_backlog_bytes=40))
    for _ in range(4):
        app.tell(Deliver(KEY, b"hello"))
    assert app.to_tunnel.items[1:] == [BytesDelivered(KEY, 10), BytesDelivered(KEY, 10)]


@pytest.mark.parametrize("end", [ORDERLY, BOTH, CUT])
def test_what_was_taken_is_told_before_an_end(local: Callable[..., Local], end: Any) -> None:
    app = local()
    app.tell(Deliver(KEY, b"hello"), end)
    assert app.to_tunnel.items[1] == BytesDelivered(KEY, 5)


def test_what_was_taken_is_told_when_the_actor_ends(local: Callable[..., Local]) -> None:
    app = local()
    app.tell(Deliver(KEY, b"hello"))
    app.ref.stop()
    assert app.delivered_bytes == 5


def test_an_application_that_does_not_read_gets_no_more_than_the_kernel_takes(
    local: Callable[..., Local],
) -> None:
    app = local()
    total = app.fill_application()
    taken = app.delivered_bytes
    assert taken < total
    app.tell(Deliver(KEY, b"y" * 1_000))
    assert app.delivered_bytes == taken
    data = read_all(app.app, total + 1_000)
    assert data.endswith(b"xy" + b"y" * 999)
    eventually(lambda: app.delivered_bytes == total + 1_000)


def test_bytes_keep_their_order_over_a_blocked_application(local: Callable[..., Local]) -> None:
    app = local()
    chunks = [bytes([number % 251]) * 10_000 for number in range(100)]
    for chunk in chunks:
        app.ref.tell(Deliver(KEY, chunk))
    assert read_all(app.app, 1_000_000) == b"".join(chunks)


# -- ends


def test_after_the_application_s_end_the_other_direction_stays_open(
    local: Callable[..., Local],
) -> None:
    app = local()
    app.app.shutdown(socket.SHUT_WR)
    assert app.read_end().is_orderly
    app.tell(Deliver(KEY, b"the answer"), ORDERLY)
    assert read_all(app.app) == b"the answer"
    app.wait_ended()
    assert app.ends_told == [True]


def test_after_the_peer_s_end_the_other_direction_stays_open(local: Callable[..., Local]) -> None:
    app = local()
    app.tell(Deliver(KEY, b"the question"), ORDERLY)
    assert read_all(app.app) == b"the question"
    app.app.sendall(b"the answer")
    app.app.close()
    app.wait_ended()
    assert app.read_bytes == b"the answer"
    assert app.ends_told == [True]


@pytest.mark.parametrize("end", [End.ORDERLY, End.BOTH])
def test_all_that_came_before_the_peer_s_end_is_written_before_it(
    local: Callable[..., Local], end: End
) -> None:
    app = local()
    total = app.fill_application()
    app.tell(Deliver(KEY, b"the end"), RemoteEnded(KEY, end, "closed by the peer"))
    assert read_all(app.app)[total:] == b"the end"
    app.app.close()
    app.wait_ended()
    assert app.delivered_bytes == total + 7


def test_no_clock_ends_a_half_closed_connection(local: Callable[..., Local]) -> None:
    """The answer may take its time."""
    app = local(BRIEF)
    app.app.shutdown(socket.SHUT_WR)
    app.read_end()
    pause(app.dispatcher, 0.2)
    app.tell(Deliver(KEY, b"the answer"), ORDERLY)
    assert read_all(app.app) == b"the answer"
    app.wait_ended()


def test_no_clock_ends_it_after_the_peer_s_end(local: Callable[..., Local]) -> None:
    app = local(BRIEF)
    app.tell(ORDERLY)
    assert read_all(app.app) == b""
    pause(app.dispatcher, 0.2)
    app.app.sendall(b"late")
    app.app.close()
    app.wait_ended()
    assert app.read_bytes == b"late"


def test_no_clock_cuts_an_application_that_is_slow_to_read_after_the_peer_s_end(
    local: Callable[..., Local],
) -> None:
    app = local(BRIEF)
    total = app.fill_application()
    app.tell(ORDERLY)
    app.app.shutdown(socket.SHUT_WR)
    app.read_end()
    pause(app.dispatcher, 0.2)
    assert len(read_all(app.app)) == total
    app.wait_ended()


def pause(dispatcher: Dispatcher, seconds: float) -> None:
    """Let time pass on the dispatcher: return when a timer of it has fired."""
    recorder = Recorder.start(dispatcher=dispatcher)
    recorder.ask(lambda actor: actor.schedule(seconds, "over"))
    recorder.ask(lambda actor: actor.log).wait(1)


def test_an_application_that_goes_on_sending_after_the_peer_s_end_is_not_cut(
    local: Callable[..., Local],
) -> None:
    app = local(Limits(linger_seconds=0.05, send_high_water_bytes=1_000_000))
    app.tell(ORDERLY)
    for _ in range(10):
        pause(app.dispatcher, 0.02)
        app.app.sendall(b"x" * 1_000)
    app.app.close()
    app.wait_ended()
    assert len(app.read_bytes) == 10_000
    assert app.ends_told == [True]


def test_after_the_peer_s_end_reading_still_rests_without_credit(
    local: Callable[..., Local],
) -> None:
    app = local(Limits(linger_seconds=0.05, send_high_water_bytes=1_000, data_payload_bytes=500))
    app.tell(ORDERLY)
    app.app.sendall(b"x" * 1_500)
    app.app.close()
    eventually(lambda: len(app.read_bytes) >= 1_000)
    pause(app.dispatcher, 0.1)
    assert (len(app.read_bytes), app.ends_told) == (1_000, [])
    app.tell(BytesSent(1_000))
    assert app.read_end().is_orderly
    assert len(app.read_bytes) == 1_500


# -- the end of both directions


def test_after_the_end_of_both_directions_what_the_application_sends_is_nobody_s(
    local: Callable[..., Local],
) -> None:
    app = local()
    app.tell(Deliver(KEY, b"hello"), BOTH)
    assert read_all(app.app) == b"hello"
    app.app.sendall(b"x" * 100_000)
    app.app.shutdown(socket.SHUT_WR)
    assert app.app.recv(1) == b"", "no reset: all was taken"
    app.wait_ended()
    assert app.to_wire.items == [], "neither its bytes nor its end are of use"


def test_input_that_was_not_read_destroys_nothing_of_what_was_written(
    local: Callable[..., Local],
) -> None:
    """A socket that is closed with unread input resets, and a reset throws away what is under way.

    Without credit nothing is read; the end of both directions has to read all the same.
    """
    app = local(Limits(linger_seconds=30.0, send_high_water_bytes=1_000, data_payload_bytes=500))
    app.app.sendall(b"y" * 20_000)
    eventually(lambda: len(app.read_bytes) == 1_000)
    total = app.fill_application()
    app.tell(Deliver(KEY, b"the end"), BOTH)
    app.app.sendall(b"y" * 200_000)
    assert read_all(app.app) == b"x" * total + b"the end"
    app.app.close()
    app.wait_ended()
    assert len(app.read_bytes) == 1_000
    assert app.ends_told == []


def test_after_the_end_of_both_directions_an_application_that_stays_is_closed_after_a_while(
    local: Callable[..., Local],
) -> None:
    app = local(BRIEF)
    app.tell(Deliver(KEY, b"hello"), BOTH)
    app.wait_ended()
    assert read_until_reset(app.app) == (b"hello", False), "all was written: an ordinary end"


def test_after_the_end_of_both_directions_an_application_that_goes_on_sending_is_closed_too(
    local: Callable[..., Local],
) -> None:
    app = local(Limits(linger_seconds=0.3))
    app.tell(BOTH)
    while not app.ended.items:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            app.app.sendall(b"x")
        pause(app.dispatcher, 0.02)
    app.wait_ended()
    assert app.to_wire.items == []


def test_the_while_that_a_socket_is_kept_begins_with_the_end(
    local: Callable[..., Local], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that has not read for long gets what came before all the same."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(socket_actor, "time", SimpleNamespace(monotonic=lambda: clock.now))
    app = local(PATIENT)
    total = app.fill_application()
    clock.now += 2 * PATIENT.linger_seconds
    app.tell(Deliver(KEY, b"the end"), BOTH)
    assert read_all(app.app) == b"x" * total + b"the end"


def test_a_while_in_which_the_process_stood_still_does_not_count(
    local: Callable[..., Local], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP: the timer comes late, and the application was offered nothing before."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(socket_actor, "time", SimpleNamespace(monotonic=lambda: clock.now))
    app = local(PATIENT)
    total = app.fill_application()
    app.tell(BOTH)
    due_at = clock.now + PATIENT.linger_seconds
    clock.now = due_at + 60.0
    app.ref.tell(socket_actor._LingerEnded(due_at))
    settle(app.dispatcher)
    assert read_all(app.app) == b"x" * total


def test_a_timer_that_comes_in_time_ends_the_while(
    local: Callable[..., Local], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(socket_actor, "time", SimpleNamespace(monotonic=lambda: clock.now))
    app = local(PATIENT)
    app.fill_application()
    app.tell(BOTH)
    clock.now += PATIENT.linger_seconds
    app.ref.tell(socket_actor._LingerEnded(clock.now))
    app.wait_ended()
    assert ends_with_reset(app.app)


def test_an_orderly_end_may_become_one_of_both_directions(local: Callable[..., Local]) -> None:
    app = local()
    app.tell(ORDERLY, BOTH)
    app.app.sendall(b"for nobody")
    app.app.close()
    app.wait_ended()
    assert app.to_wire.items == []


# -- what the application does to a half-closed connection


def test_a_peer_that_sends_to_a_half_closed_application_keeps_it_open(
    local: Callable[..., Local],
) -> None:
    app = local(BRIEF)
    app.app.shutdown(socket.SHUT_WR)
    for _ in range(10):
        pause(app.dispatcher, 0.05)
        app.tell(Deliver(KEY, b"x"))
    assert app.ref.is_alive()
    assert read_all(app.app, 10) == b"x" * 10


@pytest.fixture
def checks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_actor, "HANG_UP_CHECK_SECONDS", 0.02)


@pytest.mark.usefixtures("checks_often")
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_half_closed_application_that_goes_away_altogether_is_noticed(
    local: Callable[..., Local], family: str
) -> None:
    """Nothing is written to it, so that nothing else would tell."""
    app = local() if family == "tcp" else unix_local(local)
    app.app.shutdown(socket.SHUT_WR)
    assert app.read_end().is_orderly
    pause(app.dispatcher, 0.1)
    assert app.ref.is_alive(), "an end of its sending alone is not that"
    reset(app.app)
    app.wait_ended()
    assert app.ends_told == [True, False]


@pytest.mark.usefixtures("checks_often")
def test_once_its_end_was_passed_on_a_connection_is_not_looked_at_any_more(
    local: Callable[..., Local],
) -> None:
    app = local()
    app.app.shutdown(socket.SHUT_WR)
    app.read_end()
    app.tell(ORDERLY)
    app.wait_ended()
    assert app.ends_told == [True]
    assert not ends_with_reset(app.app)


def test_a_half_closed_application_that_takes_nothing_more_is_told_of(
    local: Callable[..., Local],
) -> None:
    app = unix_local(local)
    app.app.shutdown(socket.SHUT_WR)
    assert app.read_end().is_orderly
    app.app.close()
    app.tell(Deliver(KEY, b"the answer"))
    app.wait_ended()
    assert app.ends_told == [True, False]
    assert app.delivered_bytes == 10, "it is credited, or the tunnel would be held up"


def unix_local(local: Callable[..., Local]) -> Local:
    ours, theirs = socket.socketpair()
    app = local(sock=ours)
    theirs.settimeout(WAIT_SECONDS)
    app.app = theirs
    return app


def reset(sock: socket.socket) -> None:
    """Close with a reset; a Unix socket is just closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


# -- cuts


def test_a_cut_resets_the_application(local: Callable[..., Local]) -> None:
    app = local()
    app.tell(Deliver(KEY, b"some"), CUT)
    app.wait_ended()
    assert read_until_reset(app.app) == (b"some", True)
    assert app.to_wire.items == []


@pytest.mark.parametrize("before", [End.ORDERLY, End.BOTH])
def test_a_cut_after_another_end_resets_the_application_at_once(
    local: Callable[..., Local], before: End
) -> None:
    """It has been told the end of what it gets; now it learns that nobody takes what it sends."""
    app = local()
    app.tell(Deliver(KEY, b"some"), RemoteEnded(KEY, before, "closed by the peer"))
    assert read_all(app.app) == b"some"
    app.tell(CUT)
    app.wait_ended()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        app.app.sendall(b"for nobody")


def test_what_came_before_a_cut_is_delivered_first(local: Callable[..., Local]) -> None:
    app = local()
    total = app.fill_application()
    app.tell(Deliver(KEY, b"the end"), CUT)
    assert app.ref.is_alive()
    assert read_until_reset(app.app) == (b"x" * total + b"the end", True)
    app.wait_ended()
    assert app.to_wire.items == []


def test_a_cut_waits_for_what_is_still_in_the_kernel(local: Callable[..., Local]) -> None:
    """All is written, and not yet delivered: a reset now would throw it away."""
    ours, theirs = tcp_pair()
    app = local(sock=ours)
    theirs.settimeout(WAIT_SECONDS)
    app.app = theirs
    total = 0
    while not undelivered_bytes(ours) or not is_held_up(app.dispatcher, ours):
        app.tell(Deliver(KEY, b"x" * 4_096))
        total += 4_096
    assert app.delivered_bytes == total
    app.tell(CUT)
    pause(app.dispatcher, 0.1)
    assert app.ref.is_alive()
    assert read_until_reset(theirs) == (b"x" * total, True)
    app.wait_ended()


def is_held_up(dispatcher: Dispatcher, sock: socket.socket) -> bool:
    """Whether what is not acknowledged waits for the reader, and not for an acknowledgement."""
    pause(dispatcher, 0.1)
    return undelivered_bytes(sock) > 0


def test_an_application_that_does_not_read_delays_a_cut_by_the_linger_time_only(
    local: Callable[..., Local],
) -> None:
    app = local(Limits(linger_seconds=0.1))
    total = app.fill_application()
    app.tell(CUT)
    app.wait_ended()
    settle(app.dispatcher)
    assert app.delivered_bytes == total
    assert ends_with_reset(app.app)


def test_a_connection_that_is_over_before_it_could_connect_is_made_all_the_same(
    local: Callable[..., Local], server: socket.socket
) -> None:
    app = local(address=address_of(server))
    app.ref.tell(BOTH)
    accepted, _ = server.accept()
    with accepted:
        accepted.settimeout(WAIT_SECONDS)
        assert read_all(accepted) == b""
    app.wait_ended()


def test_after_a_cut_nothing_is_read(local: Callable[..., Local]) -> None:
    app = local()
    app.fill_application()
    app.tell(CUT)
    app.app.sendall(b"for nobody")
    read_until_reset(app.app)
    app.wait_ended()
    assert app.to_wire.items == []


def test_credit_of_what_was_never_written_comes_back_at_the_end(
    local: Callable[..., Local],
) -> None:
    app = local(Limits(linger_seconds=0.05))
    total = app.fill_application()
    app.tell(BOTH)
    app.wait_ended()
    settle(app.dispatcher)
    assert app.delivered_bytes == total
    assert ends_with_reset(app.app), "bytes are missing: no ordinary end"


def test_an_application_that_reads_no_more_may_still_send(local: Callable[..., Local]) -> None:
    app = unix_local(local)
    theirs = app.app
    assert theirs is not None
    theirs.shutdown(socket.SHUT_RD)
    app.tell(Deliver(KEY, b"nobody reads this"), Deliver(KEY, b"nor this"))
    assert app.delivered_bytes == 25, "it is credited, or the tunnel would be held up"
    theirs.sendall(b"but I have something to say")
    eventually(lambda: app.read_bytes == b"but I have something to say")
    theirs.close()
    app.wait_ended()
    assert app.ends_told == [False], "it has not taken all that was for it"


def test_both_ends_at_once_is_an_ordinary_end(local: Callable[..., Local]) -> None:
    app = local()
    app.tell(ORDERLY)
    app.app.shutdown(socket.SHUT_WR)
    assert read_all(app.app) == b""
    app.wait_ended()
    assert app.ends_told == [True]


def test_a_second_end_of_the_peer_is_harmless(local: Callable[..., Local]) -> None:
    app = local()
    app.tell(ORDERLY, ORDERLY)
    app.app.sendall(b"still here")
    eventually(lambda: app.read_bytes == b"still here")


def test_a_stopping_tunnel_takes_what_is_in_the_kernel_already(
    local: Callable[..., Local],
) -> None:
    app = local(Limits(linger_seconds=30.0, send_high_water_bytes=1_000_000))

    def write_and_stop() -> None:
        """Both before the dispatcher looks at its sockets again."""
        app.app.sendall(b"last words")
        app.ref.tell(StopReadingLocal())

    app.dispatcher.call_soon(write_and_stop)
    assert app.broken_off() == "tunnel stopped"
    assert app.read_bytes == b"last words"


def test_a_stopping_tunnel_still_delivers(local: Callable[..., Local]) -> None:
    app = local()
    app.tell(StopReadingLocal(), Deliver(KEY, b"the rest"), ORDERLY)
    assert app.broken_off() == "tunnel stopped"
    assert read_all(app.app) == b"the rest"
    app.wait_ended()


def test_an_application_that_had_ended_is_not_broken_off_by_a_stop(
    local: Callable[..., Local],
) -> None:
    app = local()
    app.app.shutdown(socket.SHUT_WR)
    app.read_end()
    app.tell(StopReadingLocal())
    assert app.ends_told == [True]


def test_without_its_stream_it_ends(local: Callable[..., Local]) -> None:
    app = local()
    app.stream.stop()
    app.ended.wait(1)
    assert ends_with_reset(app.app)


@pytest.mark.parametrize("how", ["stop", "kill", "crash"])
def test_however_it_is_ended_the_application_sees_a_reset(
    local: Callable[..., Local], how: str
) -> None:
    app = local()
    if how == "stop":
        app.ref.stop()
    elif how == "kill":
        kill(app.ref)
    else:
        app.ref.tell(Deliver(KEY, None))  # type: ignore[arg-type]
    app.ended.wait(1)
    assert ends_with_reset(app.app)


# -- connecting


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_SECONDS)
        yield listener


def address_of(listener: socket.socket) -> TcpAddress:
    return TcpAddress(*listener.getsockname()[:2])


def converse(local: Local, listener: socket.socket) -> None:
    """Bytes go both ways between the actor and who accepts at the listener."""
    accepted, _ = listener.accept()
    with accepted:
        accepted.settimeout(WAIT_SECONDS)
        local.tell(Deliver(KEY, b"to the server"))
        assert read_all(accepted, 13) == b"to the server"
        accepted.sendall(b"from the server")
        eventually(lambda: local.read_bytes == b"from the server")


def test_it_connects_over_tcp(local: Callable[..., Local], server: socket.socket) -> None:
    converse(local(address=address_of(server)), server)


def test_it_connects_over_ipv6(local: Callable[..., Local]) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        listener.settimeout(WAIT_SECONDS)
        converse(local(address=address_of(listener)), listener)


def test_it_connects_to_a_name(local: Callable[..., Local], server: socket.socket) -> None:
    """`localhost` may be ::1 first: the next address is tried."""
    converse(local(address=TcpAddress("localhost", server.getsockname()[1])), server)


def test_it_connects_over_a_unix_socket(local: Callable[..., Local], tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(WAIT_SECONDS)
        converse(local(address=UnixAddress(path)), listener)


def test_it_connects_from_the_address_it_is_told(
    local: Callable[..., Local], server: socket.socket
) -> None:
    local(address=address_of(server), local_bind="127.0.0.2")
    accepted, peer = server.accept()
    accepted.close()
    assert peer[0] == "127.0.0.2"


def keepalive_of(sock: socket.socket) -> tuple[int, int, int, int]:
    """Whether it is on, its idle time, its interval, its count."""
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    )


@pytest.mark.parametrize("is_accepted", [True, False], ids=["accepted", "connected"])
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (PATIENT, (1, 60, 15, 4)),
        (
            Limits(keepalive_idle_seconds=7, keepalive_interval_seconds=0.5, keepalive_count=2),
            (1, 7, 1, 2),
        ),
    ],
    ids=["by default", "as it is told"],
)
def test_local_connections_are_kept_under_watch(
    local: Callable[..., Local],
    server: socket.socket,
    limits: Limits,
    expected: tuple[int, int, int, int],
    is_accepted: bool,
) -> None:
    app = local(limits) if is_accepted else local(limits, address=address_of(server))
    if is_accepted:
        settle(app.dispatcher)
        assert keepalive_of(app.ref.cell.actor._socket) == expected
        return
    with server.accept()[0] as accepted:
        accepted.sendall(b"x")
        app.to_wire.wait(1)
        assert keepalive_of(app.ref.cell.actor._socket) == expected


def test_without_a_descriptor_a_connect_fails_as_expected(
    local: Callable[..., Local],
    server: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def exhausted(*_args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    address = address_of(server)
    with monkeypatch.context() as patched:
        patched.setattr("tunnelfleet.actors.net.dial.socket.socket", exhausted)
        apps = [local(address=address) for _ in range(20)]
        for app in apps:
            app.wait_ended()
            assert app.broken_off() == f"cannot connect to {address}: Too many open files"
            assert SocketsExhausted("local_connect") in app.to_tunnel.items
    assert len(caplog.records) == 1, "one line for all, and no traceback"


@pytest.mark.parametrize("end", [End.ORDERLY, End.BOTH])
def test_bytes_that_come_before_the_connection_wait_for_it(
    local: Callable[..., Local], server: socket.socket, end: End
) -> None:
    app = local(address=address_of(server))
    app.tell(
        Deliver(KEY, b"early "), Deliver(KEY, b"bytes"), RemoteEnded(KEY, end, "closed by the peer")
    )
    accepted, _ = server.accept()
    with accepted:
        accepted.settimeout(WAIT_SECONDS)
        assert read_all(accepted) == b"early bytes"
    app.wait_ended()
    assert app.delivered_bytes == 11


def test_a_refused_port_ends_it_with_the_address_and_the_cause(
    local: Callable[..., Local],
) -> None:
    port = free_port()
    app = local(address=TcpAddress("127.0.0.1", port))
    reason = app.broken_off()
    app.wait_ended()
    assert f"127.0.0.1:{port}" in reason
    assert "refused" in reason


def test_a_unix_socket_that_is_not_there_ends_it(
    local: Callable[..., Local], tmp_path: Path
) -> None:
    reason = local(address=UnixAddress(str(tmp_path / "none.sock"))).broken_off()
    assert "none.sock" in reason
    assert "No such file" in reason


def test_a_name_that_does_not_exist_ends_it(local: Callable[..., Local]) -> None:
    reason = local(address=TcpAddress("no-such-host.invalid", 22)).broken_off()
    assert "no-such-host.invalid" in reason


def test_a_source_address_that_is_not_ours_ends_it(
    local: Callable[..., Local], server: socket.socket
) -> None:
    reason = local(address=address_of(server), local_bind="203.0.113.1").broken_off()
    assert "assign" in reason


def test_a_connect_that_takes_too_long_ends_it(local: Callable[..., Local]) -> None:
    """The backlog of the listener is full, so the connect is never answered."""
    with socket.socket() as listener, contextlib.ExitStack() as callers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fill_backlog(listener, callers)
        app = local(Limits(local_connect_timeout_seconds=0.1), address=address_of(listener))
        assert app.broken_off().startswith("no connection to 127.0.0.1")


def fill_backlog(listener: socket.socket, callers: contextlib.ExitStack) -> None:
    for _ in range(8):
        caller = callers.enter_context(socket.socket())
        caller.setblocking(False)
        code = caller.connect_ex(listener.getsockname())
        if code == errno.EINPROGRESS and not select.select([], [caller], [], 0.2)[1]:
            return
    pytest.fail("the backlog never filled")


def test_the_next_address_is_tried_when_the_first_fails(
    local: Callable[..., Local], server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.getsockname()[1]
    addresses = (
        (socket.AF_INET, ("127.0.0.1", free_port())),
        (socket.AF_INET6, ("::1", free_port())),
        (socket.AF_INET, ("127.0.0.1", port)),
    )
    monkeypatch.setattr("tunnelfleet.actors.net.dial.known_addresses", lambda _address: addresses)
    converse(local(address=TcpAddress("many", port)), server)


def test_a_cut_while_connecting_ends_it_at_once(local: Callable[..., Local]) -> None:
    with socket.socket() as listener, contextlib.ExitStack() as callers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fill_backlog(listener, callers)
        app = local(address=address_of(listener))
        app.tell(Deliver(KEY, b"waits"), CUT)
        app.wait_ended()
        assert app.to_wire.items == []
        assert app.delivered_bytes == 5
