"""SocketActor: one local TCP or Unix socket, the local end of one connection.

It dials (destination, see `dial`) or takes over an accepted socket (source), reads while it has
credit, and writes what the peer sent. It owns the ends of DESIGN.md section 5: nothing read is
lost, nothing received is cut without a reset. It knows its connection id and nothing of streams,
versions or the WebSocket.

Longer than other modules: both directions and their ends share the one socket's state.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .dial import Dial, DialFailed, DialStep
from .kernel import DispatchedActor, ExitReason, Terminated
from .messages import (
    Attach,
    BytesDelivered,
    BytesSent,
    Deliver,
    LocalDataRead,
    LocalReadEnded,
    RemoteEnded,
    SocketsExhausted,
    StopReadingLocal,
)
from .socket_io import (
    READ_BYTES,
    abort_quietly,
    close_quietly,
    is_would_block,
    prepare_local,
    read_some,
)

if TYPE_CHECKING:
    from pykka import ActorRef

    from .config import Address, Limits
    from .connector import Connector
    from .handlers import Handlers
    from .messages import ConnectionKey

__all__ = ["SocketActor"]

TURN_READ_BYTES = 262_144
"""Bytes read in one turn before other actors have theirs."""


class _ConnectTimedOut(NamedTuple):
    """The local connect took too long."""


class _LingerEnded(NamedTuple):
    """One direction has ended long enough ago."""


class _HalfCloseEnded(NamedTuple):
    """The application has had long enough to finish after the peer's end."""


class SocketActor(DispatchedActor):
    """The local end of a connection.

    Args:
        key: the connection.
        stream: the StreamActor, which gets what is read.
        tunnel: the TunnelActor, which gives and gets credit.
        limits: the tunnel's limits.
        connector: looks up host names.
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
        connector: Connector,
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
        self._connector = connector
        self._socket = sock
        self._address = address
        self._local_bind = local_bind
        self._dial: Dial | None = None
        self._connected = False
        self._reading = False
        self._writing = False
        self._unsent_bytes = 0
        self._outgoing = bytearray()
        self._read_ended = False
        self._write_ended = False
        self._remote_ended = False
        self._progress_at = 0.0
        self._abort = True
        self._aborting = False
        self._reason = ""

    # -- start and local connect

    def on_start(self) -> None:
        """Take over the accepted socket, or start to connect."""
        self.watch(self._stream)
        self._tunnel.tell(Attach(self._key, self.actor_ref))
        if self._socket is not None:
            self._socket.setblocking(False)
            self._on_open()
            return
        assert self._address is not None
        self.schedule(self._limits.local_connect_timeout_seconds, _ConnectTimedOut())
        self._dial = Dial(
            self,
            self._connector,
            self._address,
            tunnel=self._tunnel.actor_urn,
            next_address_after_seconds=self._limits.next_address_after_seconds,
            on_open=self._on_connected,
            on_failed=self._on_not_connected,
            local_bind=self._local_bind,
        )
        self._dial.start()

    def on_receive(self, message: Any) -> Any:
        """Dispatch by the message's type."""
        handler = self.HANDLERS.get(type(message))
        if handler is None:
            return super().on_receive(message)
        return handler(self, message)

    def _on_connected(self, sock: socket.socket) -> None:
        self._dial = None
        self._socket = sock
        self._on_open()

    def _on_not_connected(self, failed: DialFailed) -> None:
        if failed.is_exhausted:
            self._tunnel.tell(SocketsExhausted("local_connect"))
        self._end(f"cannot connect to {self._address}: {failed.reason}")

    def _on_connect_timeout(self, _message: _ConnectTimedOut) -> None:
        if not self._connected:
            seconds = self._limits.local_connect_timeout_seconds
            self._end(f"no connection to {self._address} after {seconds:g} s")

    def _on_open(self) -> None:
        assert self._socket is not None
        self._connected = True
        prepare_local(self._socket, self._limits)
        self._progress_at = time.monotonic()
        if not self._read_ended:
            self._start_reading()
        self._flush()

    # -- from the local application to the wire

    def _start_reading(self) -> None:
        assert self._socket is not None
        self._reading = True
        self.add_reader(self._socket, self._on_readable)

    def _stop_reading(self) -> None:
        if self._reading:
            assert self._socket is not None
            self._reading = False
            self.remove_reader(self._socket)

    def _on_readable(self) -> None:
        assert self._socket is not None
        turn_bytes = 0
        try:
            while turn_bytes < TURN_READ_BYTES and self._has_credit():
                limit_bytes = min(self._limits.data_payload_bytes, READ_BYTES)
                data = read_some(self._socket, limit_bytes)
                if data is None:
                    return
                if not data:
                    self._on_local_end("closed by the local application")
                    return
                turn_bytes += len(data)
                self._progress_at = time.monotonic()
                self._unsent_bytes += len(data)
                self._stream.tell(LocalDataRead(self._key.connection_id, data))
        except OSError as error:
            self._write_ended = True
            self._on_local_end(f"local connection broke: {error.strerror or error}")
            return
        self._stop_reading()
        if self._has_credit():
            # Anew: libuv polls no more once it has reported an error, which is still to be read.
            self._start_reading()

    def _has_credit(self) -> bool:
        return self._unsent_bytes < self._limits.send_high_water_bytes

    def _on_bytes_sent(self, message: BytesSent) -> None:
        self._unsent_bytes -= message.size_bytes
        self._progress_at = time.monotonic()
        wants_reading = self._connected and not self._reading and not self._read_ended
        if wants_reading and self._unsent_bytes <= self._limits.send_high_water_bytes // 2:
            self._start_reading()

    def _on_local_end(self, reason: str) -> None:
        if self._read_ended:
            return
        self._read_ended = True
        self._reason = reason
        self._stop_reading()
        self._stream.tell(LocalReadEnded(self._key.connection_id, reason))
        if self._write_ended or (self._remote_ended and not self._outgoing):
            self._end(reason, abort=False)
        else:
            self._progress_at = time.monotonic()
            self.schedule(self._limits.linger_seconds, _LingerEnded())

    def _on_stop_reading(self, _message: StopReadingLocal) -> None:
        if self._connected:
            self._read_what_is_there()
        self._on_local_end("tunnel stopped")

    def _read_what_is_there(self) -> None:
        """The last chance of bytes that are in the kernel already."""
        if self._reading:
            self._on_readable()

    # -- from the wire to the local application

    def _deliver(self, message: Deliver) -> None:
        if self._write_ended:
            self._give_credit(len(message.data))
            return
        if self._outgoing or not self._connected:
            self._outgoing += message.data
            return
        sent = self._send(message.data)
        if sent < len(message.data) and not self._write_ended:
            self._outgoing += memoryview(message.data)[sent:]
            self._start_writing()

    def _send(self, data: bytes | bytearray) -> int:
        """Hand `data` to the kernel; returns how much it took."""
        assert self._socket is not None
        try:
            sent = self._socket.send(data)
        except OSError as error:
            if is_would_block(error):
                return 0
            self._on_write_failed(len(data))
            return 0
        self._progress_at = time.monotonic()
        self._give_credit(sent)
        return sent

    def _on_write_failed(self, size_bytes: int) -> None:
        # The application no longer reads. What it wrote before may still be there to read.
        self._write_ended = True
        self._give_credit(len(self._outgoing) or size_bytes)
        self._outgoing.clear()
        if self._read_ended:
            self._end(self._reason or "local application stopped reading")
        elif self._reading:
            # Anew, as above: the error that was met here may be the one that it has reported.
            self._stop_reading()
            self._start_reading()

    def _give_credit(self, size_bytes: int) -> None:
        self._tunnel.tell(BytesDelivered(self._key, size_bytes))

    def _start_writing(self) -> None:
        if not self._writing and self._socket is not None:
            self._writing = True
            self.add_writer(self._socket, self._flush)

    def _flush(self) -> None:
        while self._outgoing and not self._write_ended:
            with memoryview(self._outgoing) as view:
                chunk = bytes(view[:READ_BYTES])
            sent = self._send(chunk)
            del self._outgoing[:sent]
            if sent < len(chunk) and self._outgoing:
                self._start_writing()
                return
        if self._writing and self._socket is not None:
            self._writing = False
            self.remove_writer(self._socket)
        if self._remote_ended:
            self._after_remote_end()

    def _on_remote_ended(self, message: RemoteEnded) -> None:
        if message.abort:
            self._abort_after_flush()
            return
        if self._remote_ended:
            return
        self._remote_ended = True
        self._progress_at = time.monotonic()
        self.schedule(self._limits.linger_seconds, _LingerEnded())
        self.schedule(self._limits.half_close_seconds, _HalfCloseEnded())
        if self._connected and not self._outgoing:
            self._after_remote_end()

    def _abort_after_flush(self) -> None:
        """Not an ordinary end: write what came before it, then reset the local connection."""
        self._aborting = True
        self._remote_ended = True
        silent_seconds = time.monotonic() - self._progress_at
        if not self._outgoing or silent_seconds >= self._limits.linger_seconds:
            self._end("reset by the tunnel")
            return
        self._on_local_end("reset by the tunnel")
        self.schedule(self._limits.linger_seconds - silent_seconds, _LingerEnded())

    def _after_remote_end(self) -> None:
        """All that came before the reset is written: pass the end on."""
        if self._aborting:
            self._end("reset by the tunnel")
            return
        if self._read_ended or self._write_ended:
            self._end(self._reason or "closed by the peer", abort=False)
            return
        assert self._socket is not None
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._end("closed by the peer", abort=False)

    def _on_linger_ended(self, message: _LingerEnded) -> None:
        left_seconds = self._progress_at + self._limits.linger_seconds - time.monotonic()
        if left_seconds > 0:
            self.schedule(left_seconds, message)
            return
        self._end(self._reason or "the other side ended", abort=bool(self._outgoing))

    def _on_half_close_ended(self, _message: _HalfCloseEnded) -> None:
        self._end("the peer ended long ago")

    # -- ends

    def _end(self, reason: str, *, abort: bool = True) -> None:
        if not self._read_ended:
            self._read_ended = True
            self._stream.tell(LocalReadEnded(self._key.connection_id, reason))
        self._abort = abort
        self.exit()

    def _on_terminated(self, _message: Terminated) -> None:
        self._end("the stream's actor ended")

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
        if self._outgoing:
            self._give_credit(len(self._outgoing))
            self._outgoing.clear()
        if self._socket is None:
            return
        if self._abort:
            abort_quietly(self._socket)
        else:
            close_quietly(self._socket)
        self._socket = None

    HANDLERS: ClassVar[Handlers] = {
        Deliver: _deliver,
        BytesSent: _on_bytes_sent,
        DialStep: lambda _actor, message: message.run(),
        _ConnectTimedOut: _on_connect_timeout,
        RemoteEnded: _on_remote_ended,
        StopReadingLocal: _on_stop_reading,
        _LingerEnded: _on_linger_ended,
        _HalfCloseEnded: _on_half_close_ended,
        Terminated: _on_terminated,
    }
