"""FrameLink: one TLS connection to another gateway, as a part of the actor that has it.

Owns the socket, the handshake with a certificate of the fleet on both sides, the buffers of both
directions with their bounds, and how the connection ends. Its owner hears frames, and passes on
each `DialStep` that it gets. What the frames mean is not known here.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

from tunnelfleet.actors.config import stood_still_seconds
from tunnelfleet.actors.net.dial import DialStep
from tunnelfleet.actors.net.socket_io import (
    NOTHING_YET,
    READ_BYTES,
    abort_quietly,
    close_socket,
    forget_tls_errors,
    wrap_tls,
)
from tunnelfleet.actors.transport.established import ReadEnd, ReadPiece, read_piece
from tunnelfleet.proto import RemoteProtocolError, printable
from tunnelfleet.runtime.gateway.config.fleet_tls import names_in

from .frames import FrameKind, GatewayFrameReader, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.kernel import DispatchedActor

    from .frames import GatewayFrame


TURN_BYTES = 262_144
"""Bytes read in one turn before other actors have theirs."""
ALIVE_SECONDS = 10.0
"""How often a link says that it lives, if it has nothing else to say."""
SILENT_SECONDS = 30.0
"""A link that is read, and over which nothing came for so long, is dead."""
CLOSE_SECONDS = 5.0
"""How long the other side may take to close, too, when all is said."""


class LinkUser(Protocol):
    """The owner of a link; it hears what happens in turns of its actor."""

    def on_link_ready(self, names: frozenset[str]) -> None:
        """The handshake is over: the certificate of the other side is for these gateways."""

    def on_frame(self, frame: GatewayFrame) -> None:
        """A frame has come; `ALIVE` is left out."""

    def on_link_sent(self, size_bytes: int) -> None:
        """So many bytes of `DATA` have left for the kernel."""

    def is_all_said(self) -> bool:
        """Whether both directions have ended in good order, so that the other side may close."""

    def on_link_over(self, reason: str) -> None:
        """The connection is over; the reason is empty when it has ended in good order."""


class _LinkStage(Enum):
    HANDSHAKE = auto()
    OPEN = auto()
    CLOSING = auto()
    """All was said: what waits is sent, then the other side is waited for."""
    OVER = auto()


class FrameLink:
    """One connection.

    Args:
        actor: whose turns it runs in.
        user: hears what happens.
        sock: connected, non-blocking; the link's from now on.
        context: of TLS.
        is_server: whether the other side has called.

    Raises:
        OSError: the other side has gone; the socket is still to be closed. See `make_link`.
    """

    def __init__(
        self,
        actor: DispatchedActor,
        user: LinkUser,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        is_server: bool,
    ) -> None:
        self._actor = actor
        self._user = user
        self._socket = wrap_tls(context, sock, server_side=is_server)
        self._phase = _LinkStage.HANDSHAKE
        self._reader = GatewayFrameReader()
        self._outgoing: deque[tuple[bytes, int]] = deque()
        """Frames that wait, and how many bytes of data each has."""
        self._sending: tuple[memoryview, int] | None = None
        self._is_paused = False
        self._is_shut = False
        self._heard_at = self._said_at = self._tick_at = time.monotonic()

    def start(self) -> None:
        """Begin the handshake; whoever owns the link bounds its time."""
        self._shake()

    # -- the handshake

    def _shake(self) -> None:
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._actor.remove_writer(self._socket)
            self._actor.add_reader(self._socket, self._shake)
        except ssl.SSLWantWriteError:
            self._actor.remove_reader(self._socket)
            self._actor.add_writer(self._socket, self._shake)
        except (OSError, ValueError) as error:
            forget_tls_errors()
            self._lose(f"no handshake: {_reason_of(error)}")
        else:
            self._actor.remove_writer(self._socket)
            self._phase = _LinkStage.OPEN
            self._heard_at = time.monotonic()
            self._tick_later(self._heard_at)
            self._actor.add_reader(self._socket, self._on_readable)
            self._user.on_link_ready(names_in(self._socket.getpeercert()))
            self._on_readable()

    # -- towards the other gateway

    def send(self, kind: FrameKind, payload: bytes = b"") -> None:
        """Send a frame behind those that wait. Nothing is sent once the link closes."""
        if self._phase is not _LinkStage.OPEN:
            return
        size_bytes = len(payload) if kind is FrameKind.DATA else 0
        self._outgoing.append((encode_frame(kind, payload), size_bytes))
        if self._sending is None:
            self._flush()

    def close(self) -> None:
        """Send what waits, and end in good order when the other side has ended, too."""
        if self._phase is _LinkStage.OPEN:
            self._phase = _LinkStage.CLOSING
            self.resume()
            self._flush()

    def abort(self) -> None:
        """End at once; nothing is told any more. Safe to call twice."""
        if self._phase is not _LinkStage.OVER:
            self._leave()
            abort_quietly(self._socket)

    def _flush(self) -> None:
        while self._phase in (_LinkStage.OPEN, _LinkStage.CLOSING) and self._has_more():
            try:
                left_bytes = self._send_some()
            except NOTHING_YET:
                self._actor.add_writer(self._socket, self._flush)
                return
            except OSError as error:
                forget_tls_errors()
                self._lose(_reason_of(error))
                return
            if left_bytes:
                self._user.on_link_sent(left_bytes)
        if self._phase is not _LinkStage.OVER:
            self._actor.remove_writer(self._socket)
        if self._phase is _LinkStage.CLOSING and not self._is_shut:
            self._is_shut = True
            # TLS's own end says no more than `END` did, and TCP's is what the other side waits for.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
            self._later(CLOSE_SECONDS, self._finish)

    def _has_more(self) -> bool:
        """Whether there is a frame to send, which is begun."""
        if self._sending is None and self._outgoing:
            frame, size_bytes = self._outgoing.popleft()
            self._sending = memoryview(frame), size_bytes
        return self._sending is not None

    def _send_some(self) -> int:
        """Send what the kernel takes of the frame that is begun.

        Returns:
            How many bytes of data have left with it, once it has left whole.

        Raises:
            OSError: as `send` does.
        """
        assert self._sending is not None
        view, size_bytes = self._sending
        sent = self._socket.send(view)
        self._said_at = time.monotonic()
        if sent < len(view):
            self._sending = view[sent:], size_bytes
            return 0
        self._sending = None
        return size_bytes

    # -- from the other gateway

    def pause(self) -> None:
        """Read no more for now."""
        if not self._is_paused and self._phase is _LinkStage.OPEN:
            self._is_paused = True
            self._actor.remove_reader(self._socket)

    def resume(self) -> None:
        """Read again."""
        if self._is_paused and self._phase in (_LinkStage.OPEN, _LinkStage.CLOSING):
            self._is_paused = False
            self._heard_at = time.monotonic()
            self._actor.add_reader(self._socket, self._on_readable)
            # What TLS has taken from the socket already is not reported.
            self._later(0.0, self._on_readable)

    def _on_readable(self) -> None:
        turn_bytes = 0
        while self._phase in (_LinkStage.OPEN, _LinkStage.CLOSING) and not self._is_paused:
            if turn_bytes >= TURN_BYTES:
                self._later(0.0, self._on_readable)
                return
            piece = read_piece(self._socket, READ_BYTES)
            if piece.data:
                turn_bytes += len(piece.data)
                self._heard_at = time.monotonic()
                self._take(piece.data)
            if piece.end is not ReadEnd.FULL:
                self._on_read_end(piece)
                return

    def _on_read_end(self, piece: ReadPiece) -> None:
        """Nothing more is there; an end that came with data waits until those are wanted."""
        if self._is_paused:
            return
        if piece.end is ReadEnd.CLOSED:
            self._on_end()
        elif piece.end is ReadEnd.BROKEN and piece.error is not None:
            self._lose(_reason_of(piece.error))

    def _take(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                if self._phase is _LinkStage.OPEN and frame.kind is not FrameKind.ALIVE:
                    self._user.on_frame(frame)
        except RemoteProtocolError as error:
            self._lose(str(error))

    def _on_end(self) -> None:
        is_closing = self._phase is _LinkStage.CLOSING and self._is_shut
        if is_closing or self._user.is_all_said():
            self._finish()
        else:
            self._lose("the other gateway has closed the connection")

    # -- time, and the end

    def _later(self, delay_seconds: float, method: Callable[[], Any]) -> None:
        self._actor.schedule(delay_seconds, DialStep(method, ()))

    def _tick(self) -> None:
        if self._phase not in (_LinkStage.OPEN, _LinkStage.CLOSING):
            return
        now = time.monotonic()
        self._heard_at = min(now, self._heard_at + stood_still_seconds(self._tick_at, now))
        if not self._is_paused and now - self._heard_at > SILENT_SECONDS:
            self._lose(f"nothing was heard of the other gateway for {SILENT_SECONDS:g} s")
            return
        if now - self._said_at >= ALIVE_SECONDS and self._sending is None:
            self.send(FrameKind.ALIVE)
        self._tick_later(now)

    def _tick_later(self, now: float) -> None:
        self._tick_at = now + ALIVE_SECONDS
        self._later(ALIVE_SECONDS, self._tick)

    def _finish(self) -> None:
        if self._phase is not _LinkStage.OVER:
            self._leave()
            close_socket(self._socket)
            self._user.on_link_over("")

    def _lose(self, reason: str) -> None:
        if self._phase is not _LinkStage.OVER:
            self._leave()
            abort_quietly(self._socket)
            self._user.on_link_over(reason or "the connection broke")

    def _leave(self) -> None:
        self._phase = _LinkStage.OVER
        self._outgoing.clear()
        self._sending = None
        self._actor.remove_reader(self._socket)
        self._actor.remove_writer(self._socket)


def make_link(
    actor: DispatchedActor,
    user: LinkUser,
    sock: socket.socket,
    context: ssl.SSLContext,
    *,
    is_server: bool,
) -> FrameLink | None:
    """Return a link, which is to be started; the arguments are those of `FrameLink`.

    Returns:
        None if the other side has gone by now: the socket is closed, and the user was told.
    """
    try:
        return FrameLink(actor, user, sock, context, is_server=is_server)
    except OSError as error:
        abort_quietly(sock)
        user.on_link_over(f"no handshake: {_reason_of(error)}")
        return None


_ABOUT_OURS = re.compile(r"alert (.*certificate.*|unknown ca)$")
"""Alerts by which the other side says what is wrong with our certificate, RFC 8446 section 6.2."""


def _reason_of(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return printable(f"its certificate is refused: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason or error).lower().replace("_", " ")
        alert = _ABOUT_OURS.search(reason)
        if alert is not None:
            return printable(f"it refuses the certificate of this gateway: {alert[1]}")
        return printable(f"TLS says: {reason}")
    return printable(getattr(error, "strerror", None) or str(error))
