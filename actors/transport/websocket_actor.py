"""WebSocketActor: one connection attempt and, if it succeeds, its link.

It owns the socket, and reads and writes it while the event loop says it can be: tunnel messages to
TunnelActor, and back. Its parts are elsewhere: connecting in `attempt`, what arrives in `codec`,
and in `established` what waits to leave, when to ping and whom to give up. It never reconnects: its
end, with a reason, is what the supervisor acts on.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from enum import Enum, Flag, auto
from typing import ClassVar, NamedTuple

from tunnelfleet.actors.kernel import ChildReady, DispatchedActor, ExitReason, Timer
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.net.dial import DialStep
from tunnelfleet.actors.net.socket_io import (
    NOTHING_YET,
    READ_BYTES,
    close_socket,
    discard_some,
    forget_tls_errors,
    is_unanswered,
    set_notsent_low_water,
)
from tunnelfleet.actors.tunnel.messages import (
    Abandon,
    CloseGracefully,
    ConnectionEstablished,
    PauseReading,
    PongHeard,
    Received,
    ResumeReading,
    SetLowWater,
    Transmit,
    TransmitPing,
    TransmitUntold,
    Written,
)
from tunnelfleet.proto import (
    ConnectionLost,
    DataBurst,
    Message,
    MessageType,
    RemoteProtocolError,
)

from . import codec as frames
from .attempt import CONNECT_STEPS, Connecting, ConnectStep, WebSocketContext
from .codec import Arrival, CloseArrived, PingArrived, PongArrived, WebSocketInput
from .connector import Connected
from .established import (
    FrameWriter,
    GiveUp,
    KeepAlive,
    Outcome,
    ReadEnd,
    ReadPiece,
    SendPing,
    outcome_of_refusal,
    read_piece,
    true_end,
)
from .upgrade import TlsInTls

TURN_READ_BYTES = 262_144
"""Bytes read in one turn before other actors have theirs."""
_UNREAD = ReadPiece(b"", 0, ReadEnd.FULL)
TURN_FRAMES = 500
"""Frames, messages and reads of one turn: a service may send very small ones."""
CONTROL_FRAMES = 24
"""A start or a reset counts as so many: it starts and ends actors of the tunnel."""
MESSAGES_OF_A_FRAME = 8
"""So many messages of a burst count as one frame: they take as long."""
MAX_NUMBER_DIGITS = 20
"""Of a ping: more is no answer to one of ours."""
MAX_UNSENT_FRAMES = 2_000
"""Frames that may wait for the kernel before reading rests: what is read makes replies."""
FAREWELL_SECONDS = 3.0
"""How long the service has, after our CLOSE, to read what we sent and to close."""


class _KeepAliveDue(NamedTuple):
    """Time to ping, or to look for the answer."""


class _FarewellEnded(NamedTuple):
    """The service has had time to read what was sent before the CLOSE."""


class _ReadMore(NamedTuple):
    """The TLS layer may hold more than the socket's readiness tells."""


class _Stage(Enum):
    """How far it has come; it only goes forward."""

    CONNECTING = auto()
    OPEN = auto()
    CLOSING = auto()
    """A CLOSE waits behind what is to be sent."""
    FAREWELL = auto()
    """The CLOSE has left: nothing more is written, and what is read is thrown away."""
    ENDED = auto()


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_OPEN, _FAREWELL, _ENDED = _Stage.OPEN, _Stage.FAREWELL, _Stage.ENDED
_DATA = MessageType.DATA
_FULL, _DRAINED = ReadEnd.FULL, ReadEnd.DRAINED
_CONNECTED = (_OPEN, _Stage.CLOSING, _FAREWELL)


class _Rest(Flag):
    """Why nothing is read for now."""

    NO = 0
    TUNNEL = auto()
    """TunnelActor says so: local applications do not keep up."""
    ANSWERS = auto()
    """The answers to what was read do not leave."""


def _cost_of(item: Message | DataBurst) -> int:
    """What a message or a burst takes of the budget of a turn, in frames."""
    if isinstance(item, DataBurst):
        return 1 + len(item.more) // MESSAGES_OF_A_FRAME
    return 1 if item.type is _DATA else 1 + CONTROL_FRAMES


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
        self._connecting: Connecting | None = None
        self._stage = _Stage.CONNECTING
        self._socket: socket.socket | None = None
        self._input = WebSocketInput()
        self._arriving: Iterator[Arrival | None] | None = None
        """What is left of the bytes that were read last: the budget of a turn was spent."""
        self._rests = _Rest.NO
        self._read_timer: Timer | None = None
        self._writer = FrameWriter()
        self._asked_number: int | None = None
        """The number of the tunnel's last ping, unless it was answered."""
        self._output = Outcome.DONE
        """What the last write came to; while that is blocked, it is waited until it can go on."""
        self._keep_alive = KeepAlive(self._limits, time.monotonic())

    # -- connecting

    def on_start(self) -> None:
        """Begin to connect."""
        self._connecting = Connecting(self, self._context, self._epoch)
        self._connecting.begin()

    def _on_connect_step(self, message: ConnectStep) -> None:
        if self._connecting is not None:
            # A message that comes too late says nothing.
            self._connecting.handle(message)

    def _on_connected(self, message: Connected) -> None:
        sock, now = message.sock, time.monotonic()
        assert self._connecting is not None
        seconds = self._connecting.succeeded(now)
        self._connecting = None
        self._stage, self._socket, self._rests = _OPEN, sock, _Rest.NO
        sock.setblocking(False)
        set_notsent_low_water(sock, self._limits.notsent_low_water_bytes)
        self._keep_alive = KeepAlive(self._limits, now)
        self._context.stats.observe_connect(seconds)
        self._context.supervisor.tell(ChildReady(self.actor_ref))
        self._context.tunnel.tell(
            ConnectionEstablished(self._epoch, self.actor_ref, message.channel_id)
        )
        if message.first_bytes:
            self._arriving = self._input.feed(message.first_bytes)
        self._start_reading(sock)
        self.schedule(self._keep_alive.wait_seconds(now), _KeepAliveDue())

    def _fail(self, label: str, text: str) -> None:
        lost = ConnectionLost(label, text, was_established=self._socket is not None)
        self._stage = _ENDED
        self.exit(ExitReason.failed(lost))

    # -- reading

    @property
    def _is_reading(self) -> bool:
        return self._stage in _CONNECTED and not self._rests

    def _start_reading(self, sock: socket.socket) -> None:
        self._keep_alive.on_heard(time.monotonic())
        self.add_reader(sock, self._on_readable)
        if self._arriving is not None or isinstance(sock, ssl.SSLSocket | TlsInTls):
            # The socket's readiness tells nothing of what has left the kernel already.
            self._read_later()

    def _rest(self, why: _Rest) -> None:
        was_reading = self._is_reading
        self._rests |= why
        if was_reading and self._socket is not None:
            self.remove_reader(self._socket)

    def _go_on(self, why: _Rest) -> None:
        """Read again, unless there is another reason to rest."""
        was_reading = self._is_reading
        self._rests &= ~why
        if self._is_reading and not was_reading and self._socket is not None:
            self._start_reading(self._socket)

    def _resume(self, _message: ResumeReading) -> None:
        self._go_on(_Rest.TUNNEL)

    def _pause(self, _message: PauseReading) -> None:
        self._rest(_Rest.TUNNEL)

    def _read_later(self) -> None:
        if self._read_timer is None:
            # By the timer: sockets are polled and other actors have their turns in between.
            self._read_timer = self.schedule(0.0, _ReadMore())

    def _on_read_more(self, _message: _ReadMore) -> None:
        self._read_timer = None
        if self._is_reading:
            self._on_readable()

    def _on_readable(self) -> None:
        assert self._socket is not None
        if self._stage is _FAREWELL:
            if discard_some(self._socket, TURN_READ_BYTES):
                self._leave()
            return
        messages: list[Message | DataBurst] = []
        try:
            if self._read_turn(self._socket, messages):
                self._read_later()
        except RemoteProtocolError as error:
            self._fail("protocol_error", str(error))
        if messages:
            self._context.tunnel.tell(Received(self._epoch, messages))
        if not self._writer.is_empty:
            self._flush()

    def _read_turn(self, sock: socket.socket, messages: list[Message | DataBurst]) -> bool:
        """Read until nothing is there or the budget of a turn is spent; return whether it is."""
        budget, read_bytes, piece = TURN_FRAMES, 0, _UNREAD
        while budget > 0 and self._stage is not _ENDED:
            if self._arriving is None:
                if piece.end is not _FULL or read_bytes >= TURN_READ_BYTES:
                    break
                piece = read_piece(sock, self._input.reader.wanted_bytes(READ_BYTES))
                if not piece.data:
                    break
                # TLS may give out a byte at a time: a read counts as a frame.
                budget -= piece.reads
                read_bytes += len(piece.data)
                self._keep_alive.on_heard(time.monotonic())
                budget -= self._begin(piece.data, messages)
            if self._arriving is not None:
                budget = self._take(self._arriving, budget, messages)
        if self._stage is _ENDED:
            return False
        if self._arriving is not None or piece.end is _FULL:
            return True
        if piece.end is not _DRAINED:
            self._on_read_end(true_end(sock, piece))
        return False

    def _begin(self, data: bytes, messages: list[Message | DataBurst]) -> int:
        """Take what came, if it is one small message, else begin to take it apart.

        Returns:
            What that takes of the budget.
        """
        arrived = self._input.alone(data)
        if arrived is None:
            self._arriving = self._input.feed(data)
            return 0
        messages.append(arrived)
        return _cost_of(arrived)

    def _on_read_end(self, piece: ReadPiece) -> None:
        """Fail if nothing more can come. What came before it has been taken."""
        if piece.end is ReadEnd.CLOSED:
            self._fail("lost", "the service closed the TCP connection")
        elif piece.end is ReadEnd.BROKEN and piece.error is not None:
            self._fail("lost", f"the connection broke: {piece.error.strerror or piece.error}")

    def _take(
        self, arriving: Iterator[Arrival | None], budget: int, messages: list[Message | DataBurst]
    ) -> int:
        """Take what has arrived while there is a budget; return what is left of it."""
        for arrival in arriving:
            if isinstance(arrival, Message | DataBurst):
                messages.append(arrival)
                budget -= _cost_of(arrival)
            else:
                budget -= 1
                if arrival is not None:
                    self._on_control_frame(arrival)
            if budget <= 0 or self._stage is _ENDED:
                return budget
        self._arriving = None
        return budget

    def _on_control_frame(self, arrival: PingArrived | PongArrived | CloseArrived) -> None:
        if isinstance(arrival, PingArrived):
            self._writer.add_pong(frames.encode_pong(arrival.payload))
        elif isinstance(arrival, PongArrived):
            self._on_pong(arrival.payload)
        else:
            self._fail("closed", "the service closed the WebSocket")

    # -- pings

    def _on_keep_alive_due(self, _message: _KeepAliveDue) -> None:
        if self._stage is _FAREWELL:
            # Nothing more can be written, and the service has its time to hang up.
            return
        now = time.monotonic()
        # Where pacing keeps the kernel from being full, an unanswered ping of the tunnel, which has
        # data in front of it, tells as well that the service does not read. It has longer as long
        # as its machine answers.
        is_blocked = (
            self._output is Outcome.BLOCKED or self._asked_number is not None
        ) and not self._is_unanswered()
        command = self._keep_alive.on_due(now, is_reading=self._is_reading, is_blocked=is_blocked)
        if isinstance(command, GiveUp):
            self._fail("ping_timeout", str(command))
            return
        self.schedule(self._keep_alive.wait_seconds(now), _KeepAliveDue())
        if isinstance(command, SendPing):
            self._writer.add_first(frames.encode_ping())
            self._flush()

    def _is_unanswered(self) -> bool:
        seconds = self._limits.pong_timeout_seconds
        return self._socket is not None and is_unanswered(self._socket, seconds)

    def _on_pong(self, payload: bytes) -> None:
        if payload:
            # Not one of the keep-alive, whose pings are empty.
            if len(payload) <= MAX_NUMBER_DIGITS and payload.isdigit():
                if int(payload) == self._asked_number:
                    self._asked_number = None
                self._context.tunnel.tell(PongHeard(self._epoch, int(payload)))
            return
        seconds = self._keep_alive.on_pong(time.monotonic())
        if seconds is not None:
            self._context.stats.observe_ping(seconds)

    def _transmit_ping(self, message: TransmitPing) -> None:
        if self._stage is _OPEN:
            self._asked_number = message.number
            self._writer.add(frames.encode_ping(b"%d" % message.number))
            self._flush()

    # -- writing

    def _transmit(self, message: Transmit) -> None:
        messages, writer = message.messages, self._writer
        if writer.is_empty and len(messages) == 1 and self._stage is _OPEN:
            self._transmit_alone(messages[0], 1)
            return
        for item in messages:
            writer.add(frames.encode_tunnel_message(item), 1)
        self._flush()
        is_flooded = self._output is not Outcome.DONE and len(self._writer) > MAX_UNSENT_FRAMES
        if is_flooded and self._is_reading:
            self._rest(_Rest.ANSWERS)

    def _transmit_untold(self, message: TransmitUntold) -> None:
        if self._writer.is_empty and self._stage is _OPEN:
            self._transmit_alone(message.message, 0)
        else:
            self._writer.add(frames.encode_tunnel_message(message.message))
            self._flush()

    def _transmit_alone(self, item: Message | DataBurst, told: int) -> None:
        """Send an item in front of which nothing waits: it needs no queue if it leaves whole.

        Args:
            item: what is sent.
            told: that so many messages have left is told then.
        """
        frame, sock = frames.encode_tunnel_message(item), self._socket
        assert sock is not None
        try:
            sent = sock.send(frame)
        except NOTHING_YET as error:
            self._writer.keep(frame, 0, told)
            self._wrote(sock, 0, outcome_of_refusal(error))
        except OSError as error:
            forget_tls_errors()
            self._fail("lost", f"the connection broke: {error.strerror or error}")
        else:
            if sent < len(frame):
                self._writer.keep(frame, sent, told)
                self._flush()
            elif told:
                self._context.tunnel.tell(Written(self._epoch, told, blocked=False))

    def _flush(self) -> None:
        sock = self._socket
        if sock is None or self._output is Outcome.BLOCKED or self._stage is _ENDED:
            return
        try:
            written, outcome = self._writer.write(sock)
        except OSError as error:
            self._fail("lost", f"the connection broke: {error.strerror or error}")
        else:
            self._wrote(sock, written, outcome)

    def _wrote(self, sock: socket.socket, written: int, outcome: Outcome) -> None:
        """Say how many messages have left, and wait for what the next write needs."""
        self._output = outcome
        is_blocked = outcome is Outcome.BLOCKED
        if is_blocked:
            self.add_writer(sock, self._on_writable)
        elif outcome is Outcome.WANTS_INPUT and not self._is_reading:
            self.add_reader(sock, self._on_tls_input)
        if written:
            self._context.tunnel.tell(Written(self._epoch, written, is_blocked))
        if self._stage is _Stage.CLOSING and self._writer.is_empty:
            self._say_farewell(sock)
        elif self._rests and len(self._writer) < MAX_UNSENT_FRAMES // 2:
            self._go_on(_Rest.ANSWERS)

    def _on_tls_input(self) -> None:
        assert self._socket is not None
        self.remove_reader(self._socket)
        self._flush()

    def _on_writable(self) -> None:
        assert self._socket is not None
        self._output = Outcome.DONE
        # The kernel's buffer has drained a little: the other side reads, so it lives.
        self._keep_alive.on_heard(time.monotonic())
        self.remove_writer(self._socket)
        self._flush()

    def _set_low_water(self, message: SetLowWater) -> None:
        if self._socket is not None:
            set_notsent_low_water(self._socket, message.size_bytes)

    # -- ending

    def _close_gracefully(self, _message: CloseGracefully) -> None:
        if self._socket is None:
            self.exit()
        elif self._stage is _OPEN:
            self._writer.add(frames.encode_close())
            self._stage = _Stage.CLOSING
            self._flush()

    def _say_farewell(self, sock: socket.socket) -> None:
        """Everything has left: tell TCP so, and wait until the service has read it.

        A socket that is closed with unread input sends a reset, and the kernel throws away what it
        had still to send.
        """
        self._stage = _FAREWELL
        self.schedule(FAREWELL_SECONDS, _FarewellEnded())
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._leave()
            return
        self._go_on(_Rest.TUNNEL | _Rest.ANSWERS)

    def _leave(self, _message: _FarewellEnded | None = None) -> None:
        self._stage = _ENDED
        self.exit()

    def _abandon(self, message: Abandon) -> None:
        self._fail(message.label, str(message.error))

    def _on_end(self, reason: ExitReason) -> None:
        """Close the socket and cancel the attempt, however the actor ended."""
        super()._on_end(reason)
        self._arriving = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._socket is not None:
            close_socket(self._socket)
            self._socket = None

    HANDLERS: ClassVar[Handlers] = {
        **dict.fromkeys(CONNECT_STEPS, _on_connect_step),
        DialStep: lambda _actor, message: message.run(),
        Connected: _on_connected,
        Transmit: _transmit,
        TransmitUntold: _transmit_untold,
        TransmitPing: _transmit_ping,
        PauseReading: _pause,
        ResumeReading: _resume,
        _ReadMore: _on_read_more,
        _KeepAliveDue: _on_keep_alive_due,
        SetLowWater: _set_low_water,
        CloseGracefully: _close_gracefully,
        Abandon: _abandon,
        _FarewellEnded: _leave,
    }
