"""SocketActor: one local TCP or Unix socket, the local end of one connection.

It dials (destination, see `dial`) or takes over an accepted socket (source), reads while it has
credit, and writes what the peer sent. It carries out the ends of docs/architecture.md section 7:
nothing read is lost, nothing received is cut without a reset. What an end on the wire means it is
told; it knows its connection key and nothing of streams, versions, marks or the WebSocket.

Longer than other modules: both directions and their ends share the one socket's state.
"""

from __future__ import annotations

import socket
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors.addresses import Address
from tunnelfleet.actors.config import stood_still_seconds
from tunnelfleet.actors.kernel import DispatchedActor, ExitReason, Terminated
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.net.dial import Dial, DialFailed, DialStep, Lookups
from tunnelfleet.actors.net.socket_io import (
    FEW_BYTES,
    NOTHING_YET,
    READ_BYTES,
    abort_quietly,
    close_in_order,
    discard_some,
    has_hung_up,
    is_would_block,
    prepare_local,
    undelivered_bytes,
)
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
    from tunnelfleet.actors.config import Limits


class _ConnectTimedOut(NamedTuple):
    """The local connect took too long."""


class _LingerEnded(NamedTuple):
    """Nothing has moved for long enough on a connection that is over.

    Attributes:
        due_at: monotonic seconds at which it was to come.
    """

    due_at: float


class _CheckDelivered(NamedTuple):
    """The kernel may have delivered what was written, so that a reset destroys none of it."""


class _CheckHungUp(NamedTuple):
    """The application that has ended its direction may have gone altogether."""


class _Input(Enum):
    """The direction from the local application."""

    WAITING = auto()
    """Not connected yet."""
    READING = auto()
    HELD = auto()
    """Out of credit, which mostly comes before anything else can be read."""
    RESTING = auto()
    """The same, and it was readable meanwhile: it is not watched."""
    DISCARDING = auto()
    """The connection is over; what the application still sends is read and thrown away."""
    ENDED = auto()


class _Output(Enum):
    """The direction to the local application."""

    OPEN = auto()
    ENDING = auto()
    """Nothing more comes; what is left is still written."""
    SHUT = auto()
    """All is written, and the application was told the end."""
    BROKEN = auto()
    """The application takes nothing more."""


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_HELD, _RESTING, _DISCARDING = _Input.HELD, _Input.RESTING, _Input.DISCARDING
_BROKEN = _Output.BROKEN

CREDIT_BYTES = 8_192
"""So much credit at most may wait for more, and no more than a quarter of what may be unsent: it is
read on at half."""
TURN_READ_BYTES = 262_144
"""Bytes read in one turn before other actors have theirs."""
DELIVERY_CHECK_SECONDS = 0.02
"""How often a connection that is to be reset looks whether the kernel has delivered its bytes."""
HANG_UP_CHECK_SECONDS = 5.0
"""How often a half-closed connection looks whether its application has gone altogether."""


class SocketActor(DispatchedActor):
    """The local end of a connection.

    Args:
        key: the connection.
        stream: the StreamActor, without which it ends.
        tunnel: the TunnelActor: bytes and credit, both ways.
        limits: the tunnel's limits.
        lookups: of the runtime, for host names.
        sock: an accepted socket, or None to connect to `address`.
        address: what to connect to.
        local_bind: the source address of that, or None.
    """

    def __init__(
        self,
        key: ConnectionKey,
        stream: ActorRef[Any],
        tunnel: ActorRef[Any],
        limits: Limits,
        lookups: Lookups,
        *,
        sock: socket.socket | None = None,
        address: Address | None = None,
        local_bind: str | None = None,
    ) -> None:
        super().__init__()
        self._key = key
        self._stream = stream
        self._tunnel = tunnel
        self._limits = limits
        self._lookups = lookups
        self._socket = sock
        """Once it is connected."""
        self._address = address
        self._local_bind = local_bind
        self._dial: Dial | None = None
        self._input = _Input.WAITING
        self._output = _Output.OPEN
        self._remote_end: End | None = None
        self._unsent_bytes = 0
        self._read_bytes = min(limits.data_payload_bytes, READ_BYTES)
        self._outgoing = bytearray()
        self._untold_bytes = 0
        """What the application has taken, and nobody was told."""
        self._tell_bytes = min(TAKEN_UNTOLD_BYTES, self._limits.receive_backlog_bytes // 4)
        self._progress_at = 0.0
        self._abort = True
        self._reason = ""

    # -- start and local connect

    def on_start(self) -> None:
        """Take over the accepted socket, or start to connect."""
        self.watch(self._stream)
        credit_bytes = min(CREDIT_BYTES, self._limits.send_high_water_bytes // 4)
        self._tunnel.tell(Attach(self._key, self.actor_ref, max(1, credit_bytes)))
        if self._socket is not None:
            self._socket.setblocking(False)
            self._on_open()
            return
        assert self._address is not None
        self.schedule(self._limits.local_connect_timeout_seconds, _ConnectTimedOut())
        self._dial = Dial(
            self,
            self._lookups,
            self._address,
            tunnel=self._tunnel.actor_urn,
            next_address_after_seconds=self._limits.next_address_after_seconds,
            on_open=self._on_connected,
            on_failed=self._on_not_connected,
            local_bind=self._local_bind,
        )
        self._dial.start()

    def _on_connected(self, sock: socket.socket) -> None:
        self._dial = None
        self._socket = sock
        self._on_open()

    def _on_not_connected(self, failed: DialFailed) -> None:
        if failed.is_exhausted:
            self._tunnel.tell(SocketsExhausted("local_connect"))
        self._end(f"cannot connect to {self._address}: {failed.reason}")

    def _on_connect_timeout(self, _message: _ConnectTimedOut) -> None:
        if self._socket is None:
            seconds = self._limits.local_connect_timeout_seconds
            self._end(f"no connection to {self._address} after {seconds:g} s")

    def _on_open(self) -> None:
        assert self._socket is not None
        prepare_local(self._socket, self._limits)
        self._progress_at = time.monotonic()
        if self._input is _Input.WAITING:
            self._input = _Input.READING
        if self._input is not _Input.ENDED:
            self._watch_input()
        if not self._flush():
            self.add_writer(self._socket, self._on_writable)

    # -- from the local application to the wire

    def _watch_input(self) -> None:
        assert self._socket is not None
        self.add_reader(self._socket, self._on_readable)

    def _leave_input(self, phase: _Input) -> None:
        """Read no more, for now or for ever."""
        is_watched = self._input in (_Input.READING, _HELD, _DISCARDING)
        if self._socket is not None and is_watched:
            self.remove_reader(self._socket)
        self._input = phase

    def _on_readable(self) -> None:
        if self._input is _DISCARDING:
            self._discard()
        elif self._input is _HELD:
            self._leave_input(_RESTING)
        else:
            self._read()

    def _read(self) -> None:
        assert self._socket is not None
        turn_bytes, high_water_bytes = 0, self._limits.send_high_water_bytes
        limit_bytes = self._read_bytes
        try:
            while turn_bytes < TURN_READ_BYTES and self._unsent_bytes < high_water_bytes:
                data = self._socket.recv(limit_bytes)
                if not data:
                    self._on_read_end()
                    return
                size_bytes = len(data)
                turn_bytes += size_bytes
                self._progress_at = time.monotonic()
                self._unsent_bytes += size_bytes
                self._tunnel.tell(LocalDataRead(self._key, data))
                if turn_bytes < FEW_BYTES and self._output is not _BROKEN:
                    # Another read would find nothing, which takes longer than this one. What comes
                    # from now on makes it readable again, and an error does.
                    return
        except NOTHING_YET:
            return
        except OSError as error:
            self._on_read_error(error)
            return
        if self._unsent_bytes >= high_water_bytes:
            self._input = _HELD

    def _on_read_end(self) -> None:
        """All was read that has come before the end."""
        # An application that takes nothing more has not merely ended its direction.
        is_orderly = self._output is not _BROKEN
        self._end_input("closed by the local application", is_orderly=is_orderly)

    def _on_read_error(self, error: OSError) -> None:
        self._break_output()
        reason = f"local connection broke: {error.strerror or error}"
        self._end_input(reason, is_orderly=False)

    def _discard(self) -> None:
        assert self._socket is not None
        if discard_some(self._socket, TURN_READ_BYTES):
            self._leave_input(_Input.ENDED)
            self._exit_if_over()

    def _on_bytes_sent(self, message: BytesSent) -> None:
        self._unsent_bytes -= message.size_bytes
        self._progress_at = time.monotonic()
        phase = self._input
        is_held = phase is _HELD or phase is _RESTING
        if is_held and self._unsent_bytes <= self._limits.send_high_water_bytes // 2:
            self._input = _Input.READING
            if phase is _RESTING:
                self._watch_input()

    def _end_input(self, reason: str, *, is_orderly: bool) -> None:
        """Nothing more comes from the application; say so, unless the connection is over anyway."""
        self._leave_input(_Input.ENDED)
        self._reason = reason
        if not self._is_over:
            self._tunnel.tell(LocalReadEnded(self._key, reason, is_orderly))
        self._exit_if_over()
        if self._output is _Output.OPEN:
            self.schedule(HANG_UP_CHECK_SECONDS, _CheckHungUp())

    def _on_stop_reading(self, _message: StopReadingLocal) -> None:
        if self._input is _Input.READING:
            # The last chance of bytes that are in the kernel already.
            self._read()
        if self._input in (_Input.WAITING, _Input.READING, _HELD, _RESTING):
            self._end_input("tunnel stopped", is_orderly=False)

    def _on_check_hung_up(self, message: _CheckHungUp) -> None:
        """A socket that is not read does not report that its application has gone."""
        if self._output is not _Output.OPEN or self._socket is None:
            return
        if has_hung_up(self._socket):
            self._on_write_failed(0)
        else:
            self.schedule(HANG_UP_CHECK_SECONDS, message)

    # -- from the wire to the local application

    def _deliver(self, message: Deliver) -> None:
        data, sock = message.data, self._socket
        if self._output is _BROKEN:
            self._give_credit(len(data))
            return
        if self._outgoing or sock is None:
            if not self._outgoing:
                self._progress_at = time.monotonic()
            self._outgoing += data
            return
        sent = self._send(sock, data)
        if sent < len(data) and self._takes_output():
            self._progress_at = time.monotonic()
            self._outgoing += memoryview(data)[sent:]
            self.add_writer(sock, self._on_writable)

    def _takes_output(self) -> bool:
        return self._output is not _BROKEN

    def _send(self, sock: socket.socket, data: bytes | bytearray) -> int:
        """Hand `data` to the kernel; returns how much it took."""
        try:
            sent = sock.send(data)
        except OSError as error:
            if is_would_block(error):
                return 0
            self._on_write_failed(len(data))
            return 0
        self._progress_at = time.monotonic()
        if self._outgoing or self._untold_bytes + sent >= self._tell_bytes:
            self._give_credit(sent)
        else:
            self._untold_bytes += sent
        return sent

    def _on_write_failed(self, size_bytes: int) -> None:
        """The application takes nothing more. What it wrote before may still be there to read."""
        self._break_output(size_bytes)
        if self._input is _Input.ENDED and not self._is_over:
            reason = "the local application stopped reading"
            self._tunnel.tell(LocalReadEnded(self._key, reason, is_orderly=False))
        self._exit_if_over()

    def _break_output(self, size_bytes: int = 0) -> None:
        """Write nothing more. `size_bytes`: what was to be written, if it does not wait here."""
        self._output = _BROKEN
        self._give_credit(len(self._outgoing) or size_bytes)
        self._outgoing.clear()

    def _give_credit(self, size_bytes: int = 0) -> None:
        """Tell that the application took so much, and what it took before untold."""
        size_bytes, self._untold_bytes = size_bytes + self._untold_bytes, 0
        if size_bytes:
            self._tunnel.tell(BytesDelivered(self._key, size_bytes))

    def _on_writable(self) -> None:
        assert self._socket is not None
        sock = self._socket
        if self._flush():
            self.remove_writer(sock)

    def _flush(self) -> bool:
        """Write what waits; return whether nothing waits any more."""
        assert self._socket is not None
        while self._outgoing and self._takes_output():
            with memoryview(self._outgoing) as view:
                chunk = bytes(view[:READ_BYTES])
            sent = self._send(self._socket, chunk)
            del self._outgoing[:sent]
            if sent < len(chunk) and self._outgoing:
                return False
        self._pass_end_on()
        return True

    # -- the end on the wire

    @property
    def _is_over(self) -> bool:
        """Whether both directions are over on the wire: nothing read here is of use."""
        return self._remote_end in (End.BOTH, End.CUT)

    def _on_remote_ended(self, message: RemoteEnded) -> None:
        if self._remote_end is End.CUT or (self._is_over and message.end is not End.CUT):
            return
        self._remote_end = message.end
        self._reason = self._reason or message.reason
        # It may be kept until all that came has been taken.
        self._give_credit()
        if self._output is _Output.OPEN:
            self._output = _Output.ENDING
        if self._is_over:
            self._on_over(message)
        else:
            self._pass_end_on()
            self._exit_if_over()

    def _on_over(self, message: RemoteEnded) -> None:
        """Both directions are over on the wire: write what came, then close or reset."""
        is_cut = message.end is End.CUT
        if is_cut:
            self._leave_input(_Input.ENDED)
        else:
            self._start_discarding()
        if is_cut and self._socket is None:
            self._end(message.reason)
            return
        # The application's time begins now, however long it has taken nothing before.
        self._progress_at = time.monotonic()
        if is_cut and self._output is _Output.SHUT:
            self._reset_when_delivered()
        self._pass_end_on()
        self._exit_if_over()
        self._on_linger_ended(_LingerEnded(self._progress_at))

    def _start_discarding(self) -> None:
        """Closing a socket with unread input would destroy the tail of what was written to it."""
        if self._input is _RESTING:
            self._watch_input()
        if self._input is not _Input.ENDED:
            self._input = _DISCARDING

    def _pass_end_on(self) -> None:
        """Once all is written that came before it, let the application see the end."""
        if self._socket is None or self._output is not _Output.ENDING or self._outgoing:
            return
        self._output = _Output.SHUT
        self._progress_at = time.monotonic()
        if self._remote_end is End.CUT:
            self._reset_when_delivered()
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            # It has been reset: nobody is left to be told.
            self._output = _BROKEN
        self._exit_if_over()

    def _reset_when_delivered(self) -> None:
        """A reset throws away what the kernel has not delivered: let it, for as long as linger."""
        assert self._socket is not None
        if undelivered_bytes(self._socket):
            self.schedule(DELIVERY_CHECK_SECONDS, _CheckDelivered())
        else:
            self._end(self._reason)

    def _on_check_delivered(self, _message: _CheckDelivered) -> None:
        if self._socket is not None:
            self._reset_when_delivered()

    def _on_linger_ended(self, message: _LingerEnded) -> None:
        now = time.monotonic()
        left_seconds = self._progress_at + self._limits.linger_seconds - now
        if left_seconds <= 0:
            still_seconds = stood_still_seconds(message.due_at, now)
            left_seconds = min(still_seconds, self._limits.linger_seconds)
        if left_seconds > 0:
            self.schedule(left_seconds, _LingerEnded(now + left_seconds))
            return
        is_whole = self._remote_end is End.BOTH and not self._outgoing
        self._end(self._reason, abort=not is_whole)

    # -- ends

    def _exit_if_over(self) -> None:
        """Close once neither direction has anything left."""
        if self._input is _Input.ENDED and self._output is _Output.SHUT:
            if self._remote_end is not End.CUT:
                self._end(self._reason, abort=False)
        elif self._input is _Input.ENDED and self._output is _BROKEN:
            self._end(self._reason)

    def _end(self, reason: str, *, abort: bool = True) -> None:
        if self._input is not _Input.ENDED:
            self._leave_input(_Input.ENDED)
            if not self._is_over:
                self._tunnel.tell(LocalReadEnded(self._key, reason, is_orderly=False))
        self._abort = abort
        self.exit()

    def _on_terminated(self, _message: Terminated) -> None:
        is_whole = self._output is _Output.SHUT and self._remote_end is not End.CUT
        # The end of its stream says it all: nothing of this connection is told besides.
        self._leave_input(_Input.ENDED)
        self._end("the stream's actor ended", abort=not is_whole)

    def _on_end(self, reason: ExitReason) -> None:
        """Close the socket, however the actor ended: in order if all was written, else reset."""
        super()._on_end(reason)
        if not reason.is_normal:
            self._abort = True
        self._release()

    def _release(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        self._give_credit(len(self._outgoing))
        self._outgoing.clear()
        if self._socket is None:
            return
        if self._abort:
            abort_quietly(self._socket)
        else:
            close_in_order(self._socket)
        self._socket = None

    HANDLERS: ClassVar[Handlers] = {
        Deliver: _deliver,
        BytesSent: _on_bytes_sent,
        DialStep: lambda _actor, message: message.run(),
        _ConnectTimedOut: _on_connect_timeout,
        RemoteEnded: _on_remote_ended,
        StopReadingLocal: _on_stop_reading,
        _LingerEnded: _on_linger_ended,
        _CheckDelivered: _on_check_delivered,
        _CheckHungUp: _on_check_hung_up,
        Terminated: _on_terminated,
    }
