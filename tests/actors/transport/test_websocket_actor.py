"""WebSocketActor against scripted services: its whole life, over plain TCP and TLS."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log, settle
from tests.support.fakes import Recorder, make_config, start_watched
from tests.support.frames import frame
from tests.support.scripted_server import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Peer,
    ScriptedServer,
    hear_nothing,
    hold_open,
)
from tests.support.transcripts import texts_of, to_frame, to_message, to_text
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.events import AttemptOutcome
from tunnelfleet.actors.kernel import ChildReady
from tunnelfleet.actors.net.socket_io import TCP_NOTSENT_LOWAT, has_hung_up, undelivered_bytes
from tunnelfleet.actors.transport import websocket_actor
from tunnelfleet.actors.transport.attempt import WebSocketContext
from tunnelfleet.actors.transport.established import RECORDS_JOINED
from tunnelfleet.actors.transport.websocket_actor import WebSocketActor
from tunnelfleet.actors.tunnel.context import Credentials
from tunnelfleet.actors.tunnel.messages import (
    Abandon,
    CloseGracefully,
    ConnectionEstablished,
    ConnectionRefused,
    PauseReading,
    PermitCalledBack,
    PermitGranted,
    PongHeard,
    Received,
    ReleasePermit,
    RequestPermit,
    ResumeReading,
    SetLowWater,
    Transmit,
    TransmitPing,
    TransmitUntold,
    Written,
)
from tunnelfleet.proto import ConnectionLost, Endpoint, Mode, TunnelClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.transport.connector import Connector

    Serve = Callable[..., ScriptedServer]
    Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
    Connect = Callable[..., "Client"]

EPOCH = 7
CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"


class Client:
    """A WebSocketActor, and what its tunnel, its governor and its supervisor are told."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        connector: Connector,
        endpoint: Endpoint,
        ssl_context: ssl.SSLContext | None = None,
        *,
        granted: bool = True,
        **limits: Any,
    ) -> None:
        self.dispatcher = dispatcher
        self.stats = TunnelStats()
        self.to_tunnel, self.to_governor, self.to_supervisor = Log(), Log(), Log()
        self.governor = Recorder.start(self.to_governor, dispatcher=dispatcher)
        context = WebSocketContext(
            config=make_config(Mode.DESTINATION, endpoint=endpoint, limits=Limits(**limits)),
            credentials=Credentials("token", CLIENT_TOKEN),
            tunnel=Recorder.start(self.to_tunnel, dispatcher=dispatcher),
            governor=self.governor,
            supervisor=Recorder.start(self.to_supervisor, dispatcher=dispatcher),
            connector=connector,
            ssl_context=ssl_context,
            stats=self.stats,
        )
        self.ref, self.end = start_watched(dispatcher, lambda: WebSocketActor.start(context, EPOCH))
        settle(dispatcher)
        if granted:
            self.tell(PermitGranted())

    def tell(self, *messages: Any) -> None:
        for message in messages:
            self.ref.tell(message)
        settle(self.dispatcher)

    def told(self, type_: type, count: int = 1) -> list[Any]:
        """Wait until the tunnel was told so many of these."""
        items = self.to_tunnel.wait_for(
            lambda items: sum(isinstance(item, type_) for item in items) >= count
        )
        return [item for item in items if isinstance(item, type_)]

    def established(self) -> Client:
        self.told(ConnectionEstablished)
        return self

    @property
    def received(self) -> list[str]:
        """The tunnel messages that were told, as text."""
        found = [item for item in self.to_tunnel.items if isinstance(item, Received)]
        assert all(item.epoch == EPOCH for item in found)
        return [text for item in found for text in texts_of(item.messages)]

    def receives(self, *texts: str) -> None:
        eventually(lambda: len(self.received) >= len(texts))
        assert self.received == list(texts)

    def lost(self) -> ConnectionLost:
        """Wait for its end as lost; return why."""
        (terminated,) = self.end.wait(1)
        error = terminated.reason.exception
        assert isinstance(error, ConnectionLost), terminated
        return error

    def ended_normally(self) -> None:
        (terminated,) = self.end.wait(1)
        assert str(terminated.reason) == "normal"


@pytest.fixture
def connect(dispatcher: Dispatcher, connector: Connector) -> Iterator[Connect]:
    made: list[Client] = []

    def make(server: ScriptedServer | Endpoint, *args: Any, **named: Any) -> Client:
        endpoint = server if isinstance(server, Endpoint) else server.endpoint
        made.append(Client(dispatcher, connector, endpoint, *args, **named))
        return made[-1]

    yield make
    for each in made:
        if each.ref.is_alive():
            each.ref.stop()


def after_upgrade(*wire: bytes) -> Callable[[Peer], None]:
    """A service that sends these bytes and waits."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        for data_frame in wire:
            peer.send(data_frame)
        peer.wait_closed()

    return script


def data_frame(text: str) -> bytes:
    return frame(BINARY, to_frame(text))


# -- connecting


def test_it_asks_for_a_permit_and_does_not_connect_before(serve: Serve, connect: Connect) -> None:
    server = serve(hold_open)
    client = connect(server, granted=False)
    assert client.to_governor.items == [RequestPermit(client.ref, str(server.endpoint), "press-4")]
    assert server.peers.items == []
    assert client.stats.connect_attempts == 0
    client.tell(PermitGranted())
    client.established()
    assert client.stats.connect_attempts == 1


def test_an_established_connection_is_told_and_the_permit_given_back(
    serve: Serve, connect: Connect
) -> None:
    client = connect(serve(hold_open))
    (established,) = client.told(ConnectionEstablished)
    assert established == (EPOCH, client.ref, "c0ffee")
    settle(client.dispatcher)
    assert client.to_governor.items[-1] == ReleasePermit(client.ref, AttemptOutcome.CONNECTED)
    assert client.to_supervisor.items == [ChildReady(client.ref)]
    assert client.stats.connect_seconds.count == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", AttemptOutcome.REFUSED),
        (b"HTTP/1.1 429 Slow down\r\nContent-Length: 0\r\n\r\n", AttemptOutcome.REFUSED),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", AttemptOutcome.REFUSED),
        (b"HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n", AttemptOutcome.FAILED),
        (b"220 mail.example ESMTP\r\n\r\n", AttemptOutcome.FAILED),
        (b"", AttemptOutcome.FAILED),
    ],
)
def test_the_governor_is_told_what_an_attempt_says_of_the_endpoint(
    serve: Serve, connect: Connect, answer: bytes, outcome: AttemptOutcome
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    client = connect(serve(script))
    client.end.wait(1)
    settle(client.dispatcher)
    assert client.to_governor.items[-1] == ReleasePermit(client.ref, outcome)


def test_a_permit_that_is_called_back_ends_the_attempt(serve: Serve, connect: Connect) -> None:
    server = serve(Peer.wait_closed)
    client = connect(server, connect_timeout_seconds=60.0)
    server.peers.wait(1)
    client.tell(PermitCalledBack("suspended", "connects are suspended: no lease"))
    error = client.lost()
    assert (error.label, error.was_established) == ("suspended", False)
    assert str(error) == "connects are suspended: no lease"
    settle(client.dispatcher)
    # Its end gives the permit back; of the endpoint it says nothing.
    assert [type(item) for item in client.to_governor.items] == [RequestPermit]


def test_a_permit_that_is_called_back_too_late_changes_nothing(
    serve: Serve, connect: Connect
) -> None:
    client = connect(serve(hold_open)).established()
    client.tell(PermitCalledBack("suspended", "connects are suspended: no lease"))
    assert client.ref.is_alive()
    assert client.end.items == []


def test_without_a_governor_it_cannot_go_on(serve: Serve, connect: Connect) -> None:
    client = connect(serve(hold_open), granted=False)
    client.governor.stop()
    error = client.lost()
    assert (error.label, error.was_established) == ("connect_failed", False)


def test_the_governor_s_end_does_not_hurt_a_connection(serve: Serve, connect: Connect) -> None:
    client = connect(serve(hold_open)).established()
    client.governor.stop()
    settle(client.dispatcher)
    assert client.ref.is_alive()


def test_a_refusal_is_told_and_is_no_failure(serve: Serve, connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("403 Forbidden")

    client = connect(serve(script))
    client.ended_normally()
    (refused,) = client.told(ConnectionRefused)
    assert refused.epoch == EPOCH
    assert refused.error.status == 403


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "http_503"),
        (b"HTTP/1.1 429 Slow down\r\nContent-Length: 0\r\n\r\n", "http_429"),
        (b"\x00\xff garbage \r\n\r\n", "connect_failed"),
        (b"", "connect_failed"),
    ],
)
def test_what_may_pass_is_a_failure_with_a_label(
    serve: Serve, connect: Connect, answer: bytes, label: str
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    error = connect(serve(script)).lost()
    assert (error.label, error.was_established) == (label, False)


def test_a_silent_service_is_given_up(serve: Serve, connect: Connect) -> None:
    client = connect(serve(Peer.wait_closed), connect_timeout_seconds=0.2)
    error = client.lost()
    assert error.label in ("connect_timeout", "connect_failed")
    assert not error.was_established


def test_a_service_that_drips_its_answer_is_given_up(serve: Serve, connect: Connect) -> None:
    """Each byte comes in time, the answer never does: the timeout is for all of it."""
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        try:
            peer.send(b"HTTP/1.1 101 Switching\r\nX-Slow: ")
            while not stop.wait(0.05):
                peer.send(b"x")
        except (BrokenPipeError, ConnectionResetError):
            pass

    client = connect(serve(script), connect_timeout_seconds=0.4)
    error = client.lost()
    stop.set()
    assert error.label == "connect_timeout"
    assert "WebSocket handshake" in str(error), "it says how far it came"


def test_a_stop_while_connecting_closes_what_was_begun(serve: Serve, connect: Connect) -> None:
    reached, closed = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        reached.set()
        peer.wait_closed()
        closed.set()

    client = connect(serve(script), connect_timeout_seconds=60.0)
    assert reached.wait(WAIT_SECONDS)
    client.ref.stop()
    assert closed.wait(WAIT_SECONDS)


def test_an_abandoned_attempt_ends_with_the_label_it_is_given(
    serve: Serve, connect: Connect
) -> None:
    client = connect(serve(hold_open), granted=False)
    client.tell(Abandon("token_replaced", TunnelClosed("its token was replaced")))
    error = client.lost()
    assert (error.label, str(error)) == ("token_replaced", "its token was replaced")


# -- reading


def test_messages_are_told_as_they_come(serve: Serve, connect: Connect) -> None:
    client = connect(
        serve(after_upgrade(data_frame("SERVICE_IDS SSH"), data_frame("STREAM_START SSH 1/1")))
    )
    client.receives("SERVICE_IDS SSH", "STREAM_START SSH 1/1")


def test_the_size_that_is_told_is_that_of_the_payloads(serve: Serve, connect: Connect) -> None:
    client = connect(
        serve(after_upgrade(data_frame("DATA SSH 1/1 hello") + data_frame("DATA SSH 1/1 abc")))
    )
    client.receives("DATA SSH 1/1 hello", "DATA SSH 1/1 abc")
    assert sum(len(m.payload) for item in client.told(Received) for m in item.messages) == 8


def test_tunnel_frames_may_lie_anyhow_in_websocket_frames(serve: Serve, connect: Connect) -> None:
    texts = ["STREAM_START SSH 1/1", "DATA SSH 1/1 hello", "CONNECTION_RESET SSH 1/1"]
    stream = b"".join(map(to_frame, texts))
    thirds = [stream[:10], stream[10:11], stream[11:]]
    wire = frame(BINARY, thirds[0], fin=False) + frame(PING) + frame(CONT, thirds[1])
    client = connect(serve(after_upgrade(wire + frame(BINARY, thirds[2]))))
    client.receives(*texts)


def test_frames_may_come_byte_by_byte(serve: Serve, connect: Connect) -> None:
    wire = data_frame("DATA SSH 1/1 hello") + data_frame("DATA SSH 1/1 world")
    client = connect(serve(after_upgrade(*(bytes([byte]) for byte in wire))))
    client.receives("DATA SSH 1/1 hello", "DATA SSH 1/1 world")


@pytest.mark.parametrize("secure", [False, True])
def test_much_data_comes_whole(serve: Serve, connect: Connect, tls: Contexts, secure: bool) -> None:
    texts = ["DATA SSH 1/1 <64512>"] * 100
    server = serve(after_upgrade(*map(data_frame, texts)), tls=tls[0] if secure else None)
    connect(server, tls[1]).receives(*texts)


VIOLATIONS = {
    "a text message": frame(TEXT, b"hello"),
    "a masked frame": b"\x82\x81\x00\x00\x00\x00x",
    "an oversize frame": b"\x82\x7f" + (200_000).to_bytes(8, "big"),
    "a bad tunnel frame": frame(BINARY, b"\x00\x03\xff\xff\xff"),
    "a continuation of nothing": frame(CONT, b"x"),
}


@pytest.mark.parametrize("wire", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_service_that_breaks_the_protocol_is_left(
    serve: Serve, connect: Connect, wire: bytes
) -> None:
    client = connect(serve(after_upgrade(data_frame("DATA SSH 1/1 before") + wire)))
    error = client.lost()
    assert (error.label, error.was_established) == ("protocol_error", True)
    settle(client.dispatcher)
    assert client.received == ["DATA SSH 1/1 before"], "what came before counts"


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8bye"])
def test_a_close_ends_the_connection(serve: Serve, connect: Connect, payload: bytes) -> None:
    client = connect(serve(after_upgrade(data_frame("SESSION_RESET") + frame(CLOSE, payload))))
    error = client.lost()
    assert (error.label, error.was_established) == ("closed", True)
    assert client.received == ["SESSION_RESET"]


def test_an_end_of_tcp_is_a_lost_connection(serve: Serve, connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(data_frame("DATA SSH 1/1 last words"))

    client = connect(serve(script))
    assert client.lost().label == "lost"
    assert client.received == ["DATA SSH 1/1 last words"]


def test_a_reset_of_tcp_is_a_lost_connection(serve: Serve, connect: Connect) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert connect(serve(script)).lost().label == "lost"


@pytest.mark.parametrize("secure", [False, True])
def test_a_held_connection_is_not_read(
    serve: Serve, connect: Connect, tls: Contexts, secure: bool
) -> None:
    """The service is held up by TCP, whatever it has to send, and nothing is lost after."""
    blocked, total = threading.Event(), 0

    def script(peer: Peer) -> None:
        nonlocal total
        peer.upgrade()
        peer.sock.settimeout(0.5)
        wire = data_frame("DATA SSH 1/1 <64512>")
        rest = b""
        while total < 500 or rest:
            rest = rest or wire
            try:
                sent = peer.sock.send(rest)
            except (TimeoutError, ssl.SSLWantWriteError):
                blocked.set()
                break
            rest = rest[sent:]
            total += not rest
        peer.sock.settimeout(WAIT_SECONDS)
        if rest:
            peer.send(rest)
            total += 1
        peer.wait_closed()

    server = serve(script, tls=tls[0] if secure else None)
    client = connect(server, tls[1], granted=False)
    client.ref.tell(PermitGranted())
    client.established()
    client.tell(PauseReading())
    assert blocked.wait(WAIT_SECONDS), "nothing held the service up"
    settle(client.dispatcher)
    before = len(client.received)
    assert before < 300
    client.tell(ResumeReading())
    eventually(lambda: len(client.received) == total)
    assert total > before


@pytest.mark.parametrize("secure", [False, True])
def test_a_pause_in_the_middle_of_what_was_read_loses_nothing(
    serve: Serve,
    connect: Connect,
    tls: Contexts,
    monkeypatch: pytest.MonkeyPatch,
    secure: bool,
) -> None:
    """What has left the kernel makes no socket ready: the actor has to go on by itself."""
    monkeypatch.setattr(websocket_actor, "TURN_FRAMES", 7)
    count = 400
    server = serve(
        after_upgrade(data_frame("DATA SSH 1/1 x") * count), tls=tls[0] if secure else None
    )
    client = connect(server, tls[1]).established()
    actor = client.ref.cell.actor
    held = threading.Event()

    def hold_in_the_middle() -> None:
        if actor._arriving is not None and len(client.received) < count // 2:
            client.ref.tell(PauseReading())
            held.set()
        elif len(client.received) < count // 2:
            client.dispatcher.loop.call_soon(hold_in_the_middle)

    client.dispatcher.call_soon(hold_in_the_middle)
    eventually(lambda: held.is_set() or len(client.received) == count)
    settle(client.dispatcher)
    if held.is_set():
        assert len(client.received) < count
    client.tell(ResumeReading())
    eventually(lambda: len(client.received) == count)


@pytest.mark.parametrize("secure", [False, True])
def test_an_end_that_is_read_with_messages_waits_until_they_are_taken(
    serve: Serve,
    connect: Connect,
    tls: Contexts,
    monkeypatch: pytest.MonkeyPatch,
    secure: bool,
) -> None:
    """The budget of a turn is spent in the middle of what was read, and the end is behind it."""
    monkeypatch.setattr(websocket_actor, "TURN_FRAMES", 7)
    count = 400

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(data_frame("DATA SSH 1/1 x") * count)

    client = connect(serve(script, tls=tls[0] if secure else None), tls[1]).established()
    assert client.lost().label == "lost"
    eventually(lambda: len(client.received) == count)


def test_a_held_connection_still_sends(serve: Serve, connect: Connect) -> None:
    got = Log()

    def script(peer: Peer) -> None:
        peer.upgrade()
        got.add(to_text(peer.read_message()))
        peer.wait_closed()

    client = connect(serve(script)).established()
    client.tell(PauseReading(), Transmit([to_message("DATA SSH 1/1 hello")]))
    assert got.wait(1) == ["DATA SSH 1/1 hello"]


# -- writing


def recording(got: Log) -> Callable[[Peer], None]:
    """A service that keeps all frames it gets."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        try:
            while True:
                got.add(peer.read_frame())
        except (EOFError, ConnectionResetError):
            got.add("end")

    return script


@pytest.mark.parametrize("secure", [False, True])
def test_each_message_is_a_websocket_message_of_its_own(
    serve: Serve, connect: Connect, tls: Contexts, secure: bool
) -> None:
    got = Log()
    client = connect(serve(recording(got), tls=tls[0] if secure else None), tls[1]).established()
    texts = ["STREAM_START SSH 1/1", "DATA SSH 1/1 hello", "CONNECTION_RESET SSH 1/1"]
    client.tell(Transmit([to_message(text) for text in texts]))
    assert got.wait(3) == [(BINARY, to_frame(text)) for text in texts]
    assert sum(item.messages for item in client.told(Written)) == 3


@pytest.mark.parametrize("secure", [False, True])
def test_a_service_that_does_not_read_gets_what_fits_and_the_rest_when_it_does(
    serve: Serve, connect: Connect, tls: Contexts, secure: bool
) -> None:
    """Partial writes: what is told as written is what the kernel took, in whole messages."""
    got, go_on = Log(), threading.Event()
    count = 200

    def script(peer: Peer) -> None:
        peer.upgrade()
        go_on.wait(WAIT_SECONDS)
        for _ in range(count):
            got.add(to_text(peer.read_message()))
        peer.wait_closed()

    server = serve(script, tls=tls[0] if secure else None, receive_buffer_bytes=16_384)
    client = connect(server, tls[1]).established()
    client.tell(Transmit([to_message("DATA SSH 1/1 <64512>")] * (count - 1)))
    client.tell(Transmit([to_message("CONNECTION_RESET SSH 1/1")]))
    written = client.told(Written)
    assert sum(item.messages for item in written) < count
    assert written[-1].blocked, "the kernel took no more"
    go_on.set()
    texts = got.wait(count)
    assert texts == ["DATA SSH 1/1 <64512>"] * (count - 1) + ["CONNECTION_RESET SSH 1/1"]
    client.to_tunnel.wait_for(
        lambda items: sum(i.messages for i in items if isinstance(i, Written)) == count
    )
    assert not client.told(Written)[-1].blocked


def test_what_leaves_untold_keeps_its_place(serve: Serve, connect: Connect) -> None:
    """Also where the kernel takes no more."""
    got, go_on = Log(), threading.Event()
    texts = [*["DATA SSH 1/1 <64512>"] * 200, "DATA SSH 1/1 untold", "CONNECTION_RESET SSH 1/1"]

    def script(peer: Peer) -> None:
        peer.upgrade()
        for _ in range(len(texts) + 1):
            got.add(to_text(peer.read_message()))
            go_on.wait(WAIT_SECONDS)
        peer.wait_closed()

    client = connect(serve(script, receive_buffer_bytes=16_384)).established()
    client.tell(TransmitUntold(to_message("DATA SSH 1/1 first")))
    assert got.wait(1) == ["DATA SSH 1/1 first"]
    assert not [item for item in client.to_tunnel.items if isinstance(item, Written)]
    client.tell(
        Transmit([to_message(text) for text in texts[:-2]]),
        TransmitUntold(to_message(texts[-2])),
        Transmit([to_message(texts[-1])]),
    )
    assert client.told(Written)[-1].blocked, "the kernel took no more"
    go_on.set()
    assert got.wait(len(texts) + 1)[1:] == texts
    # All but the two that leave untold.
    client.to_tunnel.wait_for(
        lambda items: sum(i.messages for i in items if isinstance(i, Written)) == len(texts) - 1
    )


def test_the_low_water_mark_is_set_and_changed(serve: Serve, connect: Connect) -> None:
    client = connect(serve(hold_open), notsent_low_water_bytes=50_000).established()
    sock = client.ref.cell.actor._socket
    assert sock.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 50_000
    client.tell(SetLowWater(10_000))
    assert sock.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 10_000


@pytest.mark.parametrize("is_told", [True, False])
def test_tls_that_wants_to_read_before_it_writes_goes_on_after(
    serve: Serve, connect: Connect, is_told: bool
) -> None:
    """A TLS layer may ask for input in the middle of a write, and nothing is lost then."""
    got = Log()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send_frame(PING)
        while True:
            opcode, payload = peer.read_frame()
            if opcode == PONG:
                answered.set()
            if opcode == BINARY:
                got.add(payload)
                return

    answered = threading.Event()
    client = connect(serve(script))
    client.established()
    assert answered.wait(WAIT_SECONDS)
    settle(client.dispatcher)
    actor = client.ref.cell.actor
    real = actor._socket

    class WantsInput:
        """A socket whose next write wants input first."""

        wanted = 1

        def send(self, view: memoryview) -> int:
            if WantsInput.wanted:
                WantsInput.wanted -= 1
                raise ssl.SSLWantReadError
            return real.send(view)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    def swap() -> None:
        actor._socket = WantsInput()

    client.dispatcher.call_soon(swap)
    message = to_message("DATA SSH 1/1 hello")
    client.tell(Transmit([message]) if is_told else TransmitUntold(message))
    assert got.items == []
    client.dispatcher.call_soon(actor._on_readable)
    assert got.wait(1) == [to_frame("DATA SSH 1/1 hello")]
    settle(client.dispatcher)
    written = [item.messages for item in client.to_tunnel.items if isinstance(item, Written)]
    assert sum(written) == is_told


# -- pings


def test_a_ping_is_answered_with_its_payload(serve: Serve, connect: Connect) -> None:
    got = Log()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send_frame(PING, b"now")
        got.add(peer.read_frame())
        peer.wait_closed()

    connect(serve(script))
    assert got.wait(1) == [(PONG, b"now")]


def test_an_unsolicited_pong_is_nothing(serve: Serve, connect: Connect) -> None:
    client = connect(serve(after_upgrade(frame(PONG, b"?") + data_frame("SERVICE_IDS SSH"))))
    client.receives("SERVICE_IDS SSH")
    assert client.stats.ping_seconds.count == 0


def test_it_pings_without_a_payload_and_measures_the_answer(serve: Serve, connect: Connect) -> None:
    got = Log()

    def script(peer: Peer) -> None:
        peer.upgrade()
        for _ in range(3):
            got.add(peer.read_frame())
            peer.send_frame(PONG)
        peer.wait_closed()

    client = connect(serve(script), ping_interval_seconds=0.05, pong_timeout_seconds=5.0)
    assert got.wait(3) == [(PING, b"")] * 3
    eventually(lambda: client.stats.ping_seconds.count >= 3)
    assert 0 <= client.stats.ping_seconds.total < 15


def test_a_ping_for_the_pace_leaves_behind_the_messages_and_its_answer_is_told(
    serve: Serve, connect: Connect
) -> None:
    got = Log()

    def script(peer: Peer) -> None:
        peer.upgrade()
        for _ in range(3):
            got.add(peer.read_frame()[0])
        for payload in (b"8", b"", b"eight", b"9" * 125, b"\xb2"):
            peer.send_frame(PONG, payload)
        peer.send(data_frame("SERVICE_IDS SSH"))
        peer.wait_closed()

    client = connect(serve(script)).established()
    message = to_message("DATA SSH 1/1 x")
    client.tell(Transmit([message]), TransmitPing(8), Transmit([message]))
    assert got.wait(3) == [BINARY, PING, BINARY]
    client.receives("SERVICE_IDS SSH")
    assert client.told(PongHeard) == [PongHeard(EPOCH, 8)], "what is no number was none of ours"
    assert client.stats.ping_seconds.count == 0, "the keep-alive has pings of its own"


def test_a_service_that_answers_no_ping_is_dead(serve: Serve, connect: Connect) -> None:
    client = connect(serve(hold_open), ping_interval_seconds=0.05, pong_timeout_seconds=0.2)
    error = client.lost()
    assert (error.label, error.was_established) == ("ping_timeout", True)


def test_a_service_that_has_not_read_as_far_as_the_tunnel_s_ping_has_longer(
    serve: Serve, connect: Connect
) -> None:
    """What holds it up may be an application, which is given up first."""
    limits = {"pong_timeout_seconds": 3.0, "stall_timeout_seconds": 0.5}
    client = connect(serve(hold_open), ping_interval_seconds=0.05, **limits).established()
    client.tell(TransmitPing(8))
    assert "for 3.5 s" in str(client.lost())


def test_a_machine_that_acknowledges_nothing_has_no_longer(serve: Serve, connect: Connect) -> None:
    """The way to the service is gone: no application holds up what its kernel has not got."""
    is_deaf, may_end = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        hear_nothing(peer.sock)
        is_deaf.set()
        may_end.wait(WAIT_SECONDS)

    limits = {"pong_timeout_seconds": 1.0, "stall_timeout_seconds": 600.0}
    client = connect(serve(script), ping_interval_seconds=0.05, **limits).established()
    assert is_deaf.wait(WAIT_SECONDS)
    client.tell(TransmitPing(8))
    assert "for 1 s" in str(client.lost())
    may_end.set()


def test_bytes_prove_life_as_well_as_a_pong(serve: Serve, connect: Connect) -> None:
    """A service need not answer pings (docs/protocol.md section 1)."""
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while not stop.wait(0.05):
            peer.send(data_frame("DATA SSH 1/1 alive"))

    server = serve(script)
    client = connect(server, ping_interval_seconds=0.05, pong_timeout_seconds=0.3)
    eventually(lambda: len(client.received) > 20)
    assert client.ref.is_alive()
    stop.set()
    client.lost()


def test_while_it_is_held_no_pong_is_missed(
    serve: Serve, connect: Connect, dispatcher: Dispatcher
) -> None:
    client = connect(serve(hold_open), ping_interval_seconds=0.05, pong_timeout_seconds=0.1)
    client.established()
    client.tell(PauseReading())
    recorder = Recorder.start(dispatcher=dispatcher)
    recorder.ask(lambda actor: actor.schedule(0.5, "over"))
    recorder.ask(lambda actor: actor.log).wait(1)
    assert client.ref.is_alive()
    client.tell(ResumeReading())
    assert client.lost().label == "ping_timeout"


def test_a_service_that_floods_with_pings_and_never_reads_costs_bounded_memory(
    serve: Serve, connect: Connect
) -> None:
    sent = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(frame(PING, b"x" * 125) * 40_000)
        sent.set()
        peer.sock.settimeout(60)
        sent.wait()
        release.wait(WAIT_SECONDS)

    release = threading.Event()
    client = connect(serve(script, receive_buffer_bytes=4_096)).established()
    assert sent.wait(WAIT_SECONDS)
    settle(client.dispatcher)
    actor = client.ref.cell.actor
    assert len(actor._writer) <= 2, "only the latest ping needs an answer"
    release.set()


def test_a_reset_behind_a_frame_is_noticed(serve: Serve, connect: Connect) -> None:
    """The kernel reports both at once."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        go_on.wait(WAIT_SECONDS)
        peer.send(data_frame("DATA SSH 1/1 hello"))
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    go_on = threading.Event()
    client = connect(serve(script), ping_interval_seconds=60.0).established()
    busy = threading.Event()
    client.dispatcher.call_soon(lambda: (go_on.set(), busy.wait(0.2)))
    assert client.lost().label == "lost"
    assert client.received == ["DATA SSH 1/1 hello"]


@pytest.mark.parametrize("secure", [False, True])
def test_all_that_came_in_front_of_a_reset_is_taken(
    serve: Serve, connect: Connect, tls: Contexts, secure: bool
) -> None:
    """A read of TLS gives one record, and the others wait in the kernel; more than are joined."""
    texts = [f"DATA SSH 1/1 part {number}" for number in range(2 * RECORDS_JOINED)]

    def script(peer: Peer) -> None:
        peer.upgrade()
        go_on.wait(WAIT_SECONDS)
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for text in texts:
            peer.send(data_frame(text))
        eventually(lambda: undelivered_bytes(peer.sock) == 0, "the reset destroys none of it")
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def be_busy_until_the_reset() -> None:
        go_on.set()
        eventually(lambda: has_hung_up(client.ref.cell.actor._socket), "the reset is there")

    go_on = threading.Event()
    server = serve(script, tls=tls[0] if secure else None)
    client = connect(server, tls[1], ping_interval_seconds=60.0).established()
    client.dispatcher.call_soon(be_busy_until_the_reset)
    lost = client.lost()
    assert lost.label == "lost"
    assert "the connection broke: Connection reset by peer" in str(lost)
    assert client.received == texts


def test_replies_that_do_not_leave_stop_the_reading(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes us answer and does not read is not read either."""
    monkeypatch.setattr(websocket_actor, "MAX_UNSENT_FRAMES", 100)
    release = threading.Event()
    blocked = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        release.wait(WAIT_SECONDS)
        peer.send(data_frame("DATA SSH 1/1 now"))
        for _ in range(601):
            peer.read_message()
        peer.send(data_frame("DATA SSH 1/1 again"))
        blocked.set()
        peer.wait_closed()

    client = connect(serve(script, receive_buffer_bytes=4_096)).established()
    client.tell(Transmit([to_message("DATA SSH 1/1 <64512>")] * 600))
    client.tell(Transmit([to_message("CONNECTION_RESET SSH 1/1")]))
    actor = client.ref.cell.actor
    assert not actor._is_reading
    release.set()
    client.receives("DATA SSH 1/1 now", "DATA SSH 1/1 again")


# -- ending


@pytest.mark.parametrize("secure", [False, True])
def test_a_graceful_close_sends_all_then_an_empty_close(
    serve: Serve, connect: Connect, tls: Contexts, secure: bool
) -> None:
    got = Log()
    client = connect(serve(recording(got), tls=tls[0] if secure else None), tls[1]).established()
    client.tell(Transmit([to_message("DATA SSH 1/1 hello")]), CloseGracefully())
    items = got.wait_for(lambda items: (CLOSE, b"") in items)
    assert items[:2] == [(BINARY, to_frame("DATA SSH 1/1 hello")), (CLOSE, b"")]
    client.ended_normally()


@pytest.mark.parametrize("secure", [False, True])
def test_a_graceful_close_loses_nothing_although_the_service_was_still_sending(
    serve: Serve, connect: Connect, tls: Contexts, secure: bool
) -> None:
    """Closing with unread input would reset the connection and throw away what is under way."""
    got, filled = Log(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(data_frame("DATA SSH 1/1 <64512>") * 3)
        filled.set()
        closing.wait(WAIT_SECONDS)
        try:
            while True:
                opcode, payload = peer.read_frame()
                got.add((opcode, len(payload)))
                if opcode == CLOSE:
                    return
        except (EOFError, ConnectionResetError) as error:
            got.add(error)

    closing = threading.Event()
    server = serve(script, tls=tls[0] if secure else None, receive_buffer_bytes=8_192)
    client = connect(server, tls[1], granted=False)
    client.ref.tell(PermitGranted())
    client.established()
    client.tell(PauseReading())
    assert filled.wait(WAIT_SECONDS)
    client.tell(Transmit([to_message("DATA SSH 1/1 <64512>")] * 2), CloseGracefully())
    closing.set()
    size = len(to_frame("DATA SSH 1/1 <64512>"))
    assert got.wait(3) == [(BINARY, size), (BINARY, size), (CLOSE, 0)]
    client.ended_normally()


@pytest.mark.parametrize("ping_interval_seconds", [60.0, 0.05])
def test_a_service_that_does_not_close_is_not_waited_for_long(
    serve: Serve,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    ping_interval_seconds: float,
) -> None:
    """A ping that falls due meanwhile is not sent: nothing can be after the CLOSE."""
    monkeypatch.setattr(websocket_actor, "FAREWELL_SECONDS", 0.3)
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while peer.read_frame()[0] != CLOSE:
            pass
        release.wait(WAIT_SECONDS)

    client = connect(serve(script), ping_interval_seconds=ping_interval_seconds).established()
    client.tell(CloseGracefully())
    client.ended_normally()
    release.set()


def test_a_close_before_there_is_a_connection_ends_the_attempt(
    serve: Serve, connect: Connect
) -> None:
    client = connect(serve(Peer.wait_closed), connect_timeout_seconds=60.0)
    client.tell(CloseGracefully())
    client.ended_normally()


def test_a_close_that_cannot_leave_waits_for_the_kernel(serve: Serve, connect: Connect) -> None:
    got, go_on = Log(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        go_on.wait(WAIT_SECONDS)
        while True:
            opcode, _ = peer.read_frame()
            got.add(opcode)
            if opcode == CLOSE:
                return

    client = connect(serve(script, receive_buffer_bytes=8_192)).established()
    client.tell(Transmit([to_message("DATA SSH 1/1 <64512>")] * 100), CloseGracefully())
    assert client.ref.is_alive()
    go_on.set()
    assert got.wait(101) == [BINARY] * 100 + [CLOSE]
    client.ended_normally()


@pytest.mark.parametrize("how", ["stop", "kill", "abandon"])
def test_however_it_ends_the_socket_is_closed(serve: Serve, connect: Connect, how: str) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.wait_closed()
        closed.set()

    client = connect(serve(script)).established()
    if how == "stop":
        client.ref.stop()
    elif how == "kill":
        client.ref.kill()
    else:
        client.tell(Abandon("protocol_error", TunnelClosed("bad")))
        assert client.lost().was_established
    assert closed.wait(WAIT_SECONDS)


def test_a_connection_that_comes_after_the_end_is_closed(
    serve: Serve, connect: Connect, dispatcher: Dispatcher
) -> None:
    """The connect thread succeeds while the actor is ending: nobody else would close it."""
    blocked, upgraded, closed = threading.Event(), threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        blocked.wait(WAIT_SECONDS)
        peer.upgrade()
        upgraded.set()
        peer.wait_closed()
        closed.set()

    client = connect(serve(script))
    go_on = threading.Event()
    dispatcher.call_soon(lambda: (blocked.set(), go_on.wait(WAIT_SECONDS)))
    assert upgraded.wait(WAIT_SECONDS)
    client.ref.kill()
    go_on.set()
    assert closed.wait(WAIT_SECONDS)
