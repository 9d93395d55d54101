"""GuestActor: another gateway has called, and asks one question.

Owns the link, and the way into this gateway's doors: a pair of sockets on the loopback, one end for
the visitor as if a client had connected, the other joined to the link. So the rules, the waiting
and the hand-over to the tunnel are those of any client, and a reset stays a reset.
"""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import Future
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors.kernel import DispatchedActor, ExitReason, Terminated
from tunnelfleet.actors.net.dial import DialStep
from tunnelfleet.actors.net.socket_io import close_quietly
from tunnelfleet.proto import RemoteProtocolError, printable
from tunnelfleet.runtime.gateway.door.hall import CountedSocket
from tunnelfleet.runtime.gateway.door.handshake import Denial, Event, TargetNamed
from tunnelfleet.runtime.gateway.door.visitor import Guest, VisitorActor

from .carriage import LOCAL_MESSAGES, Crossing
from .frames import MAX_PAYLOAD_BYTES, Ask, ForwardAnswer, FrameKind, GatewayFrame, Question

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.actors.net.dial import Lookups
    from tunnelfleet.runtime.gateway.door.hall import Hall

    from .carriage import ForwardCounters


HANDSHAKE_SECONDS = 10.0
"""From the connect until the question is there."""
TELL_SECONDS = 60.0
"""For the other gateway to take a list of tunnels."""
PAIR_SECONDS = 0.5
"""For two sockets of this process to meet, which the kernel does at once."""
PAIR_TRIES = 8


class GuestParts(NamedTuple):
    """What guests share.

    Attributes:
        tls: the context for those who call, of the files as they are now.
        call_tls: the one for calling others.
        hall: of the front doors.
        tell: begins to list this gateway's tunnels, as JSON; raises RuntimeError if it is too much.
        lookups: of the process.
        counters: where it counts.
    """

    tls: Callable[[], ssl.SSLContext]
    call_tls: Callable[[], ssl.SSLContext]
    hall: Hall
    tell: Callable[[dict[str, list[str]]], Future[bytes]]
    lookups: Lookups
    counters: ForwardCounters


class GuestShaken(NamedTuple):
    """To the listener: this guest has asked its question, and gives way to nobody."""

    guest: ActorRef[Any]


class GuestTurnedAway(NamedTuple):
    """To the listener: somebody could not show that it is a gateway of the fleet."""

    peer: str
    reason: str


class _RowsListed(NamedTuple):
    outcome: bytes | Exception


class _GuestStep(Enum):
    SHAKING = auto()
    """TLS, with a certificate of the fleet; then the question."""
    CARRYING = auto()
    """A visitor of the front doors finds the tunnel, and the bytes go both ways."""
    TELLING = auto()
    """It is told which tunnels this gateway has."""


class _GuestLate(NamedTuple):
    """The time of a step is over; it is nothing to the steps behind it."""

    step: _GuestStep


class GuestHandshake:
    """What a visitor says to another gateway in place of a client's protocol; see `Handshake`.

    Args:
        target: what was asked for.
    """

    protocol = "fleet"

    def __init__(self, target: TargetNamed) -> None:
        self._target: TargetNamed | None = target

    def receive(self, _data: bytes) -> int:
        """Nothing comes before the answer."""
        return 0

    def next_event(self) -> Event | None:
        """The target, once."""
        target, self._target = self._target, None
        return target

    def take_output(self) -> bytes:
        """Nothing is said before the answer."""
        return b""

    def login_checked(self, is_good: bool) -> None:
        """Nobody logs in: the asking gateway has seen to it."""

    def welcome(self) -> bytes:
        """It is carried."""
        return ForwardAnswer().encode()

    def refuse(self, refusal: Denial, text: str) -> bytes:
        """It is not."""
        return ForwardAnswer(refusal, text).encode()


class GuestActor(DispatchedActor):
    """One connection of another gateway.

    Args:
        sock: accepted, non-blocking.
        peer: where it comes from, for people.
        listener: the actor that has accepted it: when that ends, so does this.
        parts: what guests share.
    """

    def __init__(
        self, sock: socket.socket, peer: str, listener: ActorRef[Any], parts: GuestParts
    ) -> None:
        super().__init__()
        self._socket: socket.socket | None = sock
        self._peer = peer
        self._listener = listener
        self._parts = parts
        self._counters = parts.counters
        self._step = _GuestStep.SHAKING
        self._gateway = ""
        self._crossing = Crossing(self, self, parts.lookups, parts.counters)
        self._is_done = False
        self._counters.open += 1

    def on_start(self) -> None:
        """Begin the handshake."""
        self.watch(self._listener)
        self.schedule(HANDSHAKE_SECONDS, _GuestLate(self._step))
        sock, self._socket = self._socket, None
        assert sock is not None
        self._crossing.begin(sock, self._parts.tls(), is_server=True)

    def on_link_ready(self, names: frozenset[str]) -> None:
        """Its certificate says which gateway it is."""
        self._gateway = min(names, default="")
        if not names:
            self._counters.failures["stranger"] += 1
            self._say_cut("your certificate names no gateway")

    # -- the question

    def on_frame(self, frame: GatewayFrame) -> None:
        """Take the question; nothing follows it but what is carried."""
        if self._step is _GuestStep.SHAKING and not self._is_done:
            self._on_question(frame)

    def _on_question(self, frame: GatewayFrame) -> None:
        try:
            if frame.kind is not FrameKind.HELLO:
                raise RemoteProtocolError("its first frame is no question")
            question = Question.decode(frame.payload)
        except RemoteProtocolError as error:
            self._counters.failures["protocol"] += 1
            self._say_cut(str(error))
            return
        self._listener.tell(GuestShaken(self.actor_ref))
        if question.ask is Ask.CONNECT:
            self._step = _GuestStep.CARRYING
            self._let_in(question)
        else:
            self._step = _GuestStep.TELLING
            self.schedule(TELL_SECONDS, _GuestLate(self._step))
            self._begin_telling(question)

    def _let_in(self, question: Question) -> None:
        try:
            inner, outer = loopback_pair()
        except OSError as error:
            text = f"no socket is left for it: {error.strerror or error}"
            self._refuse(Denial.BUSY, text)
            return
        hall = self._parts.hall
        peer = f"{printable(question.peer, 80)} via {printable(self._gateway, 80)}".strip()
        guest = Guest(
            GuestHandshake(TargetNamed(question.target, question.port)), question.user, peer
        )
        counted = CountedSocket(inner, hall.counters)
        hall.counters.accepted += 1
        visitor = VisitorActor.start(counted, peer, self.actor_ref, hall, guest)
        hall.make_room(visitor)
        self._counters.taken += 1
        self._crossing.join(outer)

    def _refuse(self, denial: Denial, text: str) -> None:
        assert self._crossing.link is not None
        self._crossing.link.send(FrameKind.DATA, ForwardAnswer(denial, text).encode())
        self._say_end()

    # -- which tunnels there are

    def _begin_telling(self, question: Question) -> None:
        try:
            future = self._parts.tell(question.filters)
        except RuntimeError as error:
            self._counters.failures["busy"] += 1
            self._say_cut(str(error))
            return
        self.pipe_to_self(future, _told)

    def _on_told(self, message: _RowsListed) -> None:
        link = self._crossing.link
        if link is None:
            return
        if isinstance(message.outcome, Exception):
            self._say_cut(f"its tunnels cannot be listed: {message.outcome}")
            return
        for at in range(0, len(message.outcome), MAX_PAYLOAD_BYTES):
            link.send(FrameKind.DATA, message.outcome[at : at + MAX_PAYLOAD_BYTES])
        self._say_end()

    def _say_end(self) -> None:
        self._is_done = True
        self._crossing.say_end()

    def _say_cut(self, text: str) -> None:
        self._is_done = True
        self._crossing.say_end(FrameKind.CUT, printable(text).encode())

    def on_link_over(self, reason: str) -> None:
        """It is over before it was let in, or after all was told."""
        if reason and self._step is _GuestStep.SHAKING and not self._is_done:
            self._counters.failures["handshake"] += 1
            self._listener.tell(GuestTurnedAway(self._peer, reason))
        self.exit()

    # -- ends

    def _on_late(self, message: _GuestLate) -> None:
        if self._step is message.step:
            # One that was told why it has to go is counted as that.
            is_new = self._step is _GuestStep.SHAKING and not self._is_done
            self._counters.failures["late"] += is_new
            self.exit()

    def _on_terminated(self, message: Terminated) -> None:
        self._crossing.on_terminated(message.ref, self._listener)

    def _on_local(self, message: Any) -> None:
        self._crossing.on_local(message)

    def _on_end(self, reason: ExitReason) -> None:
        """End the link, however the actor ended: the other side sees a cut unless all was said."""
        super()._on_end(reason)
        self._counters.open -= 1
        if self._socket is not None:
            close_quietly(self._socket)
            self._socket = None
        self._crossing.abort()

    HANDLERS: ClassVar[Handlers] = {
        DialStep: lambda _actor, message: message.run(),
        **dict.fromkeys(LOCAL_MESSAGES, _on_local),
        _RowsListed: _on_told,
        _GuestLate: _on_late,
        Terminated: _on_terminated,
    }


def _told(done: Any) -> _RowsListed:
    try:
        return _RowsListed(done.result())
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no list
        return _RowsListed(error)


def loopback_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected TCP sockets, non-blocking.

    Not a pair of Unix sockets: those have no reset, and a cut would look like an end.

    Raises:
        OSError: there are no sockets left, or something of this machine is in the way.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.bind(("127.0.0.1", 0))
        listener.listen(PAIR_TRIES)
        listener.settimeout(PAIR_SECONDS)
        one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        one.settimeout(PAIR_SECONDS)
        one.connect(listener.getsockname())
        for _ in range(PAIR_TRIES):
            other, address = listener.accept()
            # Anybody of this machine can connect to a port of the loopback.
            if address == one.getsockname():
                stack.enter_context(other)
                break
            other.close()
        else:
            raise OSError("others have connected to it")
        stack.pop_all()
        listener.close()
    one.setblocking(False)
    other.setblocking(False)
    return one, other
