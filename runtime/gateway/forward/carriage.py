"""Carriage: joins a local socket and a link to another gateway, both ways, each with its own end.

It is a part of the actor that has the link, and stands to the local socket's actor where a tunnel
does: the same messages, credit and ends. An orderly end of one direction is carried as such and
leaves the other alone; whatever else happens is a cut for both sides: the application sees a reset.
It counts what it carries.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from tunnelfleet.actors.local.socket_actor import SocketActor
from tunnelfleet.actors.tunnel.messages import (
    BytesDelivered,
    BytesSent,
    ConnectionKey,
    Deliver,
    LocalDataRead,
    LocalReadEnded,
    RemoteEnded,
)
from tunnelfleet.proto import End, printable
from tunnelfleet.runtime import Limits
from tunnelfleet.runtime.metrics.families import numbers

from .frames import MAX_PAYLOAD_BYTES, FrameKind

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from prometheus_client import Metric
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import DispatchedActor
    from tunnelfleet.actors.net.dial import Lookups

    from .frames import GatewayFrame
    from .link import FrameLink

FORWARD_FAILURES = ("unreachable", "handshake", "stranger", "protocol", "late", "busy")
"""Why a gateway could not be asked, or one that called was turned away."""


class ForwardCounters:
    """The numbers of one gateway.

    Attributes:
        forwarded: connections that another gateway has taken for this one.
        taken: connections that this one has taken for another.
        refused: questions that another gateway has refused.
        failures: by reason, one of `FORWARD_FAILURES`.
        sent_bytes: of applications, to other gateways.
        received_bytes: of applications, from other gateways.
        open: connections between gateways, in their handshake too.
    """

    def __init__(self) -> None:
        self.forwarded = 0
        self.taken = 0
        self.refused = 0
        self.failures = Counter(dict.fromkeys(FORWARD_FAILURES, 0))
        self.sent_bytes = 0
        self.received_bytes = 0
        self.open = 0

    def collect(self) -> Iterator[Metric]:
        """Return the families, for a collector of prometheus_client."""
        streams = [(("out",), self.forwarded), (("in",), self.taken)]
        yield numbers("forward_connections", streams)
        yield numbers("forward_open", [((), self.open)])
        yield numbers("forward_refused", [((), self.refused)])
        failures = [((reason,), count) for reason, count in self.failures.items()]
        yield numbers("forward_failures", failures)
        sizes = [(("out",), self.sent_bytes), (("in",), self.received_bytes)]
        yield numbers("forward_bytes", sizes)


HIGH_WATER_BYTES = 262_144
"""Bytes for a local application that wait here; above, the link is not read."""
LIMITS = Limits()
"""Of the local socket: those of a tunnel."""
_KEY = ConnectionKey("", 0, 0)


class _Course(Enum):
    """One direction."""

    OPEN = auto()
    ENDED = auto()
    """In good order."""
    CUT = auto()


class Carriage:
    """The bytes of one forwarded connection.

    Args:
        actor: has the link; passes on the messages that `handle` takes.
        link: to the other gateway.
        sock: of the local application, non-blocking; the carriage's from now on.
        lookups: of the process.
        counters: where it counts.
    """

    def __init__(
        self,
        actor: DispatchedActor,
        link: FrameLink,
        sock: socket.socket,
        lookups: Lookups,
        counters: ForwardCounters,
    ) -> None:
        self._link = link
        self._counters = counters
        self._out, self._in = _Course.OPEN, _Course.OPEN
        self._waiting_bytes = 0
        """For the local application."""
        ref = actor.actor_ref
        self._local: ActorRef[Any] | None = SocketActor.start(
            _KEY, ref, ref, LIMITS, lookups, sock=sock
        )
        actor.watch(self._local)

    # -- from the local application

    def handle(self, message: Any) -> None:
        """Take what the local socket's actor tells."""
        match message:
            case LocalDataRead(_key, data):
                self._counters.sent_bytes += len(data)
                for at in range(0, len(data), MAX_PAYLOAD_BYTES):
                    self._link.send(FrameKind.DATA, data[at : at + MAX_PAYLOAD_BYTES])
            case LocalReadEnded(_key, reason, is_orderly):
                self._on_local_ended(reason, is_orderly=is_orderly)
            case BytesDelivered(_key, size_bytes):
                self._waiting_bytes -= size_bytes
                if self._waiting_bytes <= HIGH_WATER_BYTES // 2:
                    self._link.resume()

    def on_sent(self, size_bytes: int) -> None:
        """So many bytes have left for the kernel of the link."""
        self._tell(BytesSent(size_bytes))

    def _on_local_ended(self, reason: str, *, is_orderly: bool) -> None:
        if self._out is _Course.CUT or (is_orderly and self._out is _Course.ENDED):
            return
        if is_orderly:
            self._out = _Course.ENDED
            self._link.send(FrameKind.END)
        else:
            self._out = self._in = _Course.CUT
            self._link.send(FrameKind.CUT, printable(reason).encode()[:MAX_PAYLOAD_BYTES])
            self._link.close()

    def on_local_over(self) -> None:
        """The local socket is closed."""
        self._local = None
        if self._out is _Course.OPEN or self._in is _Course.OPEN:
            # It has failed, or ended without a word about one of the directions.
            self._on_local_ended("the local socket has ended", is_orderly=False)
        self._link.close()

    @property
    def is_all_said(self) -> bool:
        """Whether both directions have ended in good order."""
        return self._out is _Course.ENDED and self._in is _Course.ENDED

    @property
    def is_over(self) -> bool:
        """Whether the local socket is closed."""
        return self._local is None

    # -- from the other gateway

    def deliver(self, data: bytes) -> None:
        """Bytes for the local application."""
        if not data or self._in is not _Course.OPEN:
            return
        self._counters.received_bytes += len(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER_BYTES:
            self._link.pause()
        self._tell(Deliver(_KEY, data))

    def on_frame(self, frame: GatewayFrame) -> None:
        """A frame has come."""
        match frame.kind:
            case FrameKind.DATA:
                self.deliver(frame.payload)
            case FrameKind.END if self._in is _Course.OPEN:
                self._in = _Course.ENDED
                self._tell(RemoteEnded(_KEY, End.ORDERLY, "closed at the other gateway"))
            case FrameKind.CUT:
                self.cut(printable(frame.payload.decode(errors="replace")))

    def cut(self, reason: str) -> None:
        """Nothing more comes or goes, and not in good order."""
        if self._out is not _Course.CUT:
            self._out = self._in = _Course.CUT
            self._tell(RemoteEnded(_KEY, End.CUT, reason))
        self._link.close()

    def _tell(self, message: Any) -> None:
        if self._local is not None and self._local.is_alive():
            self._local.tell(message)
