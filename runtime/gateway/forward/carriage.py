"""One connection between gateways: a link, and a local socket that is joined to it.

`Carriage` stands to the local socket's actor where a tunnel does: the same messages, credit and
ends. An orderly end of one direction leaves the other alone; whatever else happens is a cut for
both sides: the application sees a reset. `Crossing` is what envoys and guests have in common.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

from tunnelfleet.actors.local.socket_actor import SocketActor
from tunnelfleet.actors.net.socket_io import prepare_local
from tunnelfleet.actors.tunnel.messages import (
    Attach,
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
from .link import FrameLink, make_link

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

    from prometheus_client import Metric
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import DispatchedActor
    from tunnelfleet.actors.net.dial import Lookups

    from .frames import GatewayFrame

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


LOCAL_MESSAGES = (Attach, BytesDelivered, LocalDataRead, LocalReadEnded)
"""What the actor of a crossing passes on with `on_local`."""
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


class CrossingUser(Protocol):
    """The actor of a crossing, which hears what comes before anything is joined to it."""

    def on_link_ready(self, names: frozenset[str]) -> None:
        """The handshake is over: the certificate of the other side is for these gateways."""

    def on_frame(self, frame: GatewayFrame) -> None:
        """A frame has come, of a question or of an answer."""

    def on_link_over(self, reason: str) -> None:
        """The link is over, and nothing was joined to it."""


class Crossing:
    """One connection between gateways, as a part of the actor that has it.

    Owns the link, and the carriage when a local socket is joined to it: the actor ends when both
    are over, or when its boss ends before. It is the `LinkUser` of its link.

    Args:
        actor: passes on the messages of `LOCAL_MESSAGES`, and that an actor has ended.
        user: the same; it hears of the time before the carriage.
        lookups: of the process.
        counters: where it counts.
    """

    def __init__(
        self,
        actor: DispatchedActor,
        user: CrossingUser,
        lookups: Lookups,
        counters: ForwardCounters,
    ) -> None:
        self._actor = actor
        self._user = user
        self._lookups = lookups
        self._counters = counters
        self.link: FrameLink | None = None
        """None before it begins, and when it is over."""
        self.carriage: Carriage | None = None

    def begin(self, sock: socket.socket, context: ssl.SSLContext, *, is_server: bool) -> None:
        """Begin the handshake on a connected socket."""
        prepare_local(sock, LIMITS)
        self.link = make_link(self._actor, self, sock, context, is_server=is_server)
        if self.link is not None:
            self.link.start()

    def join(self, sock: socket.socket) -> Carriage:
        """Join a local socket to the link, which is there."""
        assert self.link is not None
        self.carriage = Carriage(self._actor, self.link, sock, self._lookups, self._counters)
        return self.carriage

    def say_end(self, kind: FrameKind = FrameKind.END, payload: bytes = b"") -> None:
        """Send the last frame, and close."""
        if self.link is not None:
            self.link.send(kind, payload)
            self.link.close()

    def abort(self) -> None:
        """End the link, however the actor ended: the other side sees a cut unless all was said."""
        if self.link is not None:
            self.link.abort()
        self.link = self.carriage = None

    # -- what the actor passes on

    def on_local(self, message: Any) -> None:
        """Of the local socket's actor."""
        if self.carriage is not None:
            self.carriage.handle(message)

    def on_terminated(self, ref: ActorRef[Any], boss: ActorRef[Any]) -> None:
        """An actor has ended: the boss, or the local socket's."""
        if self.carriage is None or ref == boss:
            self._actor.exit()
            return
        self.carriage.on_local_over()
        if self.link is None:
            self._actor.exit()

    # -- what the link tells; see `LinkUser`

    def on_link_ready(self, names: frozenset[str]) -> None:
        """The other side has shown who it is."""
        self._user.on_link_ready(names)

    def on_frame(self, frame: GatewayFrame) -> None:
        """A frame has come."""
        if self.carriage is None:
            self._user.on_frame(frame)
        else:
            self.carriage.on_frame(frame)

    def on_link_sent(self, size_bytes: int) -> None:
        """Bytes have left."""
        if self.carriage is not None:
            self.carriage.on_sent(size_bytes)

    def is_all_said(self) -> bool:
        """Whether the other gateway may close."""
        return self.carriage is not None and self.carriage.is_all_said

    def on_link_over(self, reason: str) -> None:
        """The link is over; what the local socket has not taken yet is still written."""
        self.link = None
        if self.carriage is None:
            self._user.on_link_over(reason)
            return
        if reason:
            self.carriage.cut(reason)
        if self.carriage.is_over:
            self._actor.exit()
