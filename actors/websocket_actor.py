"""WebSocketActor: one WebSocket connection of one tunnel, from its permit to its end.

It connects (on the Connector's threads), then reads and writes its socket in its own turns: frames
in, tunnel messages out to TunnelActor, and back. It pings, and ends when nothing answers. It does
not know streams, and never reconnects: its end, with a reason, is what the supervisor acts on.

Longer than other modules: connecting, reading, pinging and writing share the one socket's state.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from websocket import ABNF

from tunnelfleet.proto import (
    FrameDecoder,
    HandshakeError,
    Message,
    RemoteProtocolError,
    TunnelClosed,
    TunnelError,
    encode_frame,
)

from . import websocket_frames as frames
from .connector import Connected, ConnectRequest, NotConnected, discard
from .frame_writer import FrameWriter, Outcome
from .kernel import ChildReady, DispatchedActor, ExitReason, Terminated
from .messages import (
    Abandon,
    CloseGracefully,
    ConnectionEstablished,
    ConnectionRefused,
    PauseReading,
    PermitGranted,
    PingAnswered,
    Received,
    ReleasePermit,
    RequestPermit,
    ResumeReading,
    SetLowWater,
    Transmit,
    Written,
)
from .socket_io import READ_BYTES, close_quietly, read_some, set_notsent_low_water

if TYPE_CHECKING:
    from pykka import ActorRef

    from .config import TunnelConfig
    from .connector import ConnectJob, Connector
    from .credentials import Credentials
    from .handlers import Handlers
    from .stats import TunnelStats

__all__ = ["ConnectionLost", "WebSocketActor", "WebSocketContext"]

TURN_READ_BYTES = 262_144
"""Bytes read in one turn before other actors have theirs."""
MAX_UNSENT_FRAMES = 2_000
"""Frames that may wait for the kernel before reading rests: what is read makes replies."""


FAREWELL_SECONDS = 3.0
"""How long the service has, after our CLOSE, to read what we sent and to close."""


class ConnectionLost(TunnelError):  # noqa: N818 - says what happened
    """The connection ended.

    Attributes:
        label: why, in one word, for metrics: `closed`, `lost`, `ping_timeout`, `protocol_error`,
            `connect_failed`...
        was_established: whether the upgrade had succeeded.
    """

    def __init__(self, label: str, text: str, *, was_established: bool = True) -> None:
        super().__init__(text)
        self.label = label
        self.was_established = was_established


class WebSocketContext(NamedTuple):
    """What every connection of a tunnel has in common."""

    config: TunnelConfig
    credentials: Credentials
    tunnel: ActorRef[Any]
    governor: ActorRef[Any]
    supervisor: ActorRef[Any]
    connector: Connector
    ssl_context: ssl.SSLContext | None
    stats: TunnelStats


class _ConnectTimedOut(NamedTuple):
    """The attempt took too long."""


class _PingDue(NamedTuple):
    """Time to ping."""


class _PongDue(NamedTuple):
    """The ping should have been answered by now."""

    sent_at: float


class _FarewellEnded(NamedTuple):
    """The service has had time to read what was sent before the CLOSE."""


class _ReadMore(NamedTuple):
    """The TLS layer may hold more than the socket's readiness tells."""


class WebSocketActor(DispatchedActor):
    """One connection attempt and, if it succeeds, the connection.

    Args:
        context: what the tunnel's connections share.
        epoch: the number of this connection in its tunnel.
    """

    def __init__(self, context: WebSocketContext, epoch: int) -> None:
        super().__init__()
        self._context = context
        self._epoch = epoch
        self._limits = context.config.limits
        self._job: ConnectJob | None = None
        self._socket: socket.socket | None = None
        self._started_at = 0.0
        self._reader = frames.FrameReader()
        self._decoder = FrameDecoder()
        self._reading = False
        self._read_pending = False
        self._writer = FrameWriter()
        self._writer_on = False
        self._heard_at = 0.0
        self._ping_sent_at: float | None = None
        self._closing = False
        self._farewell = False
        self._held = False
        """Reading rests because TunnelActor says so."""
        self._flooded = False
        """Reading rests because the answers do not leave."""
        self._ended = False

    # -- connecting

    def on_start(self) -> None:
        """Ask for a permit to connect."""
        self.watch(self._context.governor)
        self._context.governor.tell(RequestPermit(self.actor_ref))

    def _on_governor_ended(self, _message: Terminated) -> None:
        if self._started_at == 0.0:
            self._fail("connect_failed", "the connect governor ended")

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    def _connect(self, _message: PermitGranted) -> None:
        context = self._context
        config = context.config
        self.unwatch(context.governor)
        access_token, client_token = context.credentials.current()
        self._started_at = time.monotonic()
        context.stats.connect_attempts += 1
        request = ConnectRequest(
            config.endpoint,
            config.mode,
            access_token,
            client_token,
            config.ssl_context or context.ssl_context,
            config.http_proxy,
            config.local_bind,
            config.user_agent,
            self._limits.connect_timeout_seconds,
        )
        self._job, outcome = context.connector.connect(request)
        self.pipe_to_self(outcome, lambda future: future.result(), discard=discard)
        self.schedule(self._limits.connect_timeout_seconds, _ConnectTimedOut())

    def _on_connect_timeout(self, _message: _ConnectTimedOut) -> None:
        if self._socket is None:
            seconds = self._limits.connect_timeout_seconds
            self._fail(
                "connect_timeout",
                f"no connection to {self._context.config.endpoint} after {seconds:g} s "
                f"({self._job.phase if self._job else 'connecting'}): "
                "check the endpoint, the network and the proxy",
            )

    def _on_not_connected(self, message: NotConnected) -> None:
        self._job = None
        error = message.error
        refused = isinstance(error, HandshakeError) and not error.retryable
        if refused:
            assert isinstance(error, HandshakeError)
            self._context.tunnel.tell(ConnectionRefused(self._epoch, error))
            self.exit()
            return
        status = error.status if isinstance(error, HandshakeError) else None
        self._fail(f"http_{status}" if status else "connect_failed", str(error), error)

    def _on_connected(self, message: Connected) -> None:
        self._job = None
        sock = message.websocket.sock
        assert sock is not None
        self._socket = sock
        self._context.governor.tell(ReleasePermit(self.actor_ref))
        sock.setblocking(False)
        set_notsent_low_water(sock, self._limits.notsent_low_water_bytes)
        now = time.monotonic()
        self._heard_at = now
        seconds = now - self._started_at
        self._context.stats.connect_seconds.observe(seconds)
        self._context.supervisor.tell(ChildReady(self.actor_ref))
        self._context.tunnel.tell(
            ConnectionEstablished(self._epoch, self.actor_ref, message.channel_id, seconds)
        )
        self._resume(None)
        self.schedule(self._limits.ping_interval_seconds, _PingDue())

    def _fail(self, label: str, text: str, cause: Exception | None = None) -> None:
        self._ended = True
        lost = ConnectionLost(label, text, was_established=self._socket is not None)
        lost.__cause__ = cause
        self.exit(ExitReason.failed(lost))

    # -- reading

    def _resume(self, _message: ResumeReading | None) -> None:
        self._held = False
        self._read_if_wanted()

    def _read_if_wanted(self) -> None:
        if self._reading or self._socket is None or self._flooded or self._held:
            return
        self._reading = True
        self._heard_at = time.monotonic()
        self.add_reader(self._socket, self._on_readable)
        if isinstance(self._socket, ssl.SSLSocket):
            self._read_later()

    def _pause(self, _message: PauseReading) -> None:
        self._held = True
        self._rest()

    def _rest(self) -> None:
        if self._reading and self._socket is not None:
            self._reading = False
            self.remove_reader(self._socket)

    def _read_later(self) -> None:
        if not self._read_pending:
            self._read_pending = True
            # By the timer: sockets are polled and other actors have their turns in between.
            self.schedule(0.0, _ReadMore())

    def _on_read_more(self, _message: _ReadMore) -> None:
        self._read_pending = False
        if self._reading:
            self._on_readable()

    def _on_readable(self) -> None:
        if self._farewell:
            self._discard_input()
            return
        assert self._socket is not None
        messages: list[Message] = []
        read_bytes = 0
        try:
            while read_bytes < TURN_READ_BYTES and not self._ended:
                data = read_some(self._socket)
                if data is None:
                    break
                if not data:
                    self._fail("lost", "the service closed the TCP connection")
                    break
                read_bytes += len(data)
                self._heard_at = time.monotonic()
                self._take_frames(data, messages)
                if len(data) < READ_BYTES and not isinstance(self._socket, ssl.SSLSocket):
                    break
            else:
                self._read_later()
        except RemoteProtocolError as error:
            self._fail("protocol_error", str(error))
        except OSError as error:
            self._fail("lost", f"the connection broke: {error.strerror or error}")
        if messages:
            size_bytes = sum([len(message.payload) for message in messages])
            self._context.tunnel.tell(Received(self._epoch, messages, size_bytes))
        if not self._writer.is_empty:
            self._flush()

    def _take_frames(self, data: bytes, messages: list[Message]) -> None:
        for frame in self._reader.feed(data):
            if frame.opcode in (ABNF.OPCODE_BINARY, ABNF.OPCODE_CONT):
                messages.extend(self._decoder.feed(_payload(frame)))
            elif frame.opcode == ABNF.OPCODE_PING:
                self._writer.add_pong(frames.encode_pong(_payload(frame)))
            elif frame.opcode == ABNF.OPCODE_PONG:
                self._on_pong()
            elif frame.opcode == ABNF.OPCODE_CLOSE:
                self._fail("closed", "the service closed the WebSocket")
            else:
                raise RemoteProtocolError("the service sent a text message (PROTOCOL.md section 1)")

    # -- pings

    def _on_ping_due(self, _message: _PingDue) -> None:
        self.schedule(self._limits.ping_interval_seconds, _PingDue())
        if self._ping_sent_at is not None:
            return
        self._ping_sent_at = time.monotonic()
        self._writer.add_first(frames.encode_ping())
        self._flush()
        self.schedule(self._limits.pong_timeout_seconds, _PongDue(self._ping_sent_at))

    def _on_pong(self) -> None:
        if self._ping_sent_at is None:
            return
        seconds = time.monotonic() - self._ping_sent_at
        self._ping_sent_at = None
        self._context.stats.ping_seconds.observe(seconds)
        self._context.tunnel.tell(PingAnswered(self._epoch, seconds))

    def _on_pong_due(self, message: _PongDue) -> None:
        if self._ping_sent_at != message.sent_at:
            return
        timeout_seconds = self._limits.pong_timeout_seconds
        if self._writer_on:
            # Held up, the service may not have read the ping: the stalled end gives up first.
            timeout_seconds += self._limits.stall_timeout_seconds
        silent_seconds = time.monotonic() - self._heard_at
        # Bytes prove life as well as a pong does; and while we do not read, we cannot hear one.
        if not self._reading or silent_seconds < timeout_seconds:
            self.schedule(max(timeout_seconds - silent_seconds, 0.1), message)
            return
        self._fail("ping_timeout", f"the service has not answered a ping for {timeout_seconds:g} s")

    # -- writing

    def _transmit(self, message: Transmit) -> None:
        for item in message.messages:
            self._writer.add(frames.encode_data(encode_frame(item)), 1)
        self._flush()
        if len(self._writer) > MAX_UNSENT_FRAMES and self._reading:
            self._flooded = True
            self._rest()

    def _flush(self) -> None:
        if self._socket is None or self._writer_on or self._ended:
            return
        try:
            written, outcome = self._writer.write(self._socket)
        except OSError as error:
            self._fail("lost", f"the connection broke: {error.strerror or error}")
            return
        if outcome is Outcome.BLOCKED:
            self._writer_on = True
            self.add_writer(self._socket, self._on_writable)
        elif outcome is Outcome.WANTS_INPUT and not self._reading:
            self.add_reader(self._socket, self._on_tls_input)
        if written:
            self._context.tunnel.tell(Written(self._epoch, written, self._writer_on))
        self._after_flush()

    def _after_flush(self) -> None:
        if self._closing and self._writer.is_empty:
            self._say_farewell()
        elif self._flooded and len(self._writer) < MAX_UNSENT_FRAMES // 2:
            self._flooded = False
            self._read_if_wanted()

    def _on_tls_input(self) -> None:
        assert self._socket is not None
        self.remove_reader(self._socket)
        self._flush()

    def _on_writable(self) -> None:
        assert self._socket is not None
        self._writer_on = False
        # The kernel's buffer has drained a little: the other side reads, so it lives.
        self._heard_at = time.monotonic()
        self.remove_writer(self._socket)
        self._flush()

    def _set_low_water(self, message: SetLowWater) -> None:
        if self._socket is not None:
            set_notsent_low_water(self._socket, message.size_bytes)

    # -- ending

    def _close_gracefully(self, _message: CloseGracefully) -> None:
        if self._socket is None:
            self.exit()
            return
        self._writer.add(frames.encode_close())
        self._closing = True
        self._flush()

    def _say_farewell(self) -> None:
        """Everything has left: tell TCP so, and wait until the service has read it.

        A socket that is closed with unread input sends a reset, and the kernel throws away what it
        had still to send.
        """
        if self._farewell or self._socket is None:
            return
        self._farewell = True
        self.schedule(FAREWELL_SECONDS, _FarewellEnded())
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._leave()
            return
        self._resume(None)

    def _discard_input(self) -> None:
        assert self._socket is not None
        try:
            for _ in range(TURN_READ_BYTES // READ_BYTES):
                data = read_some(self._socket)
                if data is None:
                    return
                if not data:
                    break
            else:
                return
        except OSError:
            pass
        self._leave()

    def _leave(self, _message: _FarewellEnded | None = None) -> None:
        self._ended = True
        self.exit()

    def _abandon(self, message: Abandon) -> None:
        self._fail(message.label, str(message.error))

    def _on_end(self, reason: ExitReason) -> None:
        """Close the socket and cancel the attempt, however the actor ended."""
        super()._on_end(reason)
        self._release()

    def _release(self) -> None:
        if self._job is not None:
            self._job.cancel()
            self._job = None
        if self._socket is not None:
            close_quietly(self._socket)
            self._socket = None

    HANDLERS: ClassVar[Handlers] = {
        Terminated: _on_governor_ended,
        PermitGranted: _connect,
        _ConnectTimedOut: _on_connect_timeout,
        NotConnected: _on_not_connected,
        Connected: _on_connected,
        Transmit: _transmit,
        PauseReading: _pause,
        ResumeReading: _resume,
        _ReadMore: _on_read_more,
        _PingDue: _on_ping_due,
        _PongDue: _on_pong_due,
        SetLowWater: _set_low_water,
        CloseGracefully: _close_gracefully,
        Abandon: _abandon,
        _FarewellEnded: _leave,
    }


def _payload(frame: ABNF) -> bytes:
    assert isinstance(frame.data, bytes)
    return frame.data


def lost_reason(reason: ExitReason) -> TunnelError:
    """The error that a connection ended with, whatever ended it."""
    if isinstance(reason.exception, TunnelError):
        return reason.exception
    if reason.is_failure:
        return ConnectionLost("crashed", f"the connection's actor failed: {reason}")
    return TunnelClosed(str(reason))
