"""EnvoyActor: asks another gateway one question, and carries what follows.

Owns the link to the other gateway, and the times of the first two steps. What was refused or cannot
be reached is the answer, not a failure; whoever asked decides whether to ask again.
"""

from __future__ import annotations

import ssl
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors.kernel import DispatchedActor, ExitReason, Terminated
from tunnelfleet.actors.net.dial import Dial, DialFailed, DialStep
from tunnelfleet.actors.tunnel.messages import HandOver
from tunnelfleet.proto import RemoteProtocolError, TunnelClosed, printable
from tunnelfleet.runtime import parse_address
from tunnelfleet.runtime.gateway.door.handshake import Denial

from .carriage import LIMITS, LOCAL_MESSAGES, Crossing
from .frames import ANSWER_BYTES, Ask, ForwardAnswer, FrameKind, GatewayFrame, Question

if TYPE_CHECKING:
    import socket

    from tunnelfleet.actors.kernel import Reply
    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.actors.net.dial import Lookups
    from tunnelfleet.runtime.gateway.placement import Member

    from .carriage import ForwardCounters


CALL_SECONDS = 5.0
"""Until TLS is up."""
ANSWER_SECONDS = 320.0
"""Until the other gateway has answered for a tunnel that it may have to open first."""
TELL_SECONDS = 30.0
"""Until it has told all of its tunnels; who asks waits less."""
MAX_TOLD_BYTES = 67_108_864
"""The longest list of tunnels that is taken from one gateway."""


class AskAway(NamedTuple):
    """Ask the question. Answers an `ForwardAnswer`, or the bytes of a list of tunnels."""


class Errand(NamedTuple):
    """What an envoy is to do.

    Attributes:
        member: the gateway to ask; it has an address.
        question: for it.
        tls: shows who we are.
        asker: the actor for which it asks; when that has ended before it was answered, so does it.
    """

    member: Member
    question: Question
    tls: ssl.SSLContext
    asker: ActorRef[Any]


class _EnvoyStep(Enum):
    CALLING = auto()
    """The name is looked up, TCP and TLS connect."""
    ASKED = auto()
    """The question is sent; the other gateway may wait for its tunnel."""
    ANSWERED = auto()
    """It carries the connection: the client's socket is waited for."""
    CARRYING = auto()
    """Bytes go both ways."""
    TELLING = auto()
    """It tells which tunnels it has."""


class _EnvoyLate(NamedTuple):
    """The time of a step is over; it is nothing to the steps behind it."""

    step: _EnvoyStep


class EnvoyActor(DispatchedActor):
    """One question to another gateway. Tell it `AskAway`, and then `HandOver` if it is answered.

    Args:
        errand: what it is to do.
        lookups: of the process.
        counters: where it counts.
    """

    def __init__(self, errand: Errand, lookups: Lookups, counters: ForwardCounters) -> None:
        super().__init__()
        self._errand = errand
        self._lookups = lookups
        self._counters = counters
        self._counts = False
        self._step = _EnvoyStep.CALLING
        self._reply: Reply | None = None
        self._dial: Dial | None = None
        self._crossing = Crossing(self, self, lookups, counters)
        self._received = bytearray()
        self._has_ended = False
        """The other side has said all, before the client was there."""

    # -- calling

    def _on_ask(self, _message: AskAway) -> None:
        self._reply = self.defer_reply()
        self.watch(self._errand.asker)
        self._counters.open += 1
        self._counts = True
        self.schedule(CALL_SECONDS, _EnvoyLate(self._step))
        address = self._errand.member.address
        assert address is not None
        self._dial = Dial(
            self,
            self._lookups,
            parse_address(address),
            tunnel=self.actor_urn,
            next_address_after_seconds=LIMITS.next_address_after_seconds,
            on_open=self._on_dialled,
            on_failed=self._on_not_dialled,
        )
        self._dial.start()

    def _on_not_dialled(self, failed: DialFailed) -> None:
        self._fail("unreachable", f"cannot be reached: {failed.reason}")

    def _on_dialled(self, sock: socket.socket) -> None:
        self._dial = None
        self._crossing.begin(sock, self._errand.tls, is_server=False)

    def on_link_ready(self, names: frozenset[str]) -> None:
        """See that it is the gateway that is meant, and ask."""
        member, question = self._errand.member, self._errand.question
        if member.name not in names:
            found = ", ".join(map(printable, sorted(names))) or "nobody"
            self._fail("stranger", f"is not what answers there: its certificate is for {found}")
            return
        assert self._crossing.link is not None
        is_connect = question.ask is Ask.CONNECT
        self._step = _EnvoyStep.ASKED if is_connect else _EnvoyStep.TELLING
        self._crossing.link.send(FrameKind.HELLO, question.encode())
        self.schedule(ANSWER_SECONDS if is_connect else TELL_SECONDS, _EnvoyLate(self._step))

    # -- the answer

    def on_frame(self, frame: GatewayFrame) -> None:
        """Take the answer, or what follows it before the client is there."""
        if frame.kind is FrameKind.CUT:
            text = printable(frame.payload.decode(errors="replace"))
            self._fail("protocol", f"broke off: {text}")
        elif self._step is _EnvoyStep.TELLING:
            self._on_told(frame)
        elif self._step is _EnvoyStep.ASKED:
            self._on_answer(frame)
        elif frame.kind is FrameKind.DATA:
            # It may speak first: the client's socket is on its way.
            self._received += frame.payload
            if len(self._received) > ANSWER_BYTES:
                assert self._crossing.link is not None
                self._crossing.link.pause()
        elif frame.kind is FrameKind.END:
            self._has_ended = True

    def _on_told(self, frame: GatewayFrame) -> None:
        self._received += frame.payload
        if len(self._received) > MAX_TOLD_BYTES:
            self._fail("protocol", f"tells more than {MAX_TOLD_BYTES} bytes")
        elif frame.kind is FrameKind.END:
            self._answer(bytes(self._received))
            self._crossing.say_end()

    def _on_answer(self, frame: GatewayFrame) -> None:
        self._received += frame.payload
        line, found, rest = bytes(self._received).partition(b"\n")
        if not found:
            if len(line) > ANSWER_BYTES or frame.kind is FrameKind.END:
                self._fail("protocol", "does not answer as a gateway does")
            return
        try:
            answer = ForwardAnswer.decode(line)
        except RemoteProtocolError as error:
            self._fail("protocol", f"is not understood: {error}")
            return
        self._received = bytearray(rest)
        if answer.denial is None:
            self._step = _EnvoyStep.ANSWERED
            self._answer(answer)
        else:
            self._counters.refused += 1
            self._answer(answer)
            self._crossing.say_end()

    def _answer(self, answer: ForwardAnswer | bytes) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.set(answer)

    def _fail(self, reason: str, text: str) -> None:
        """It came to nothing: that is the answer."""
        if self._reply is not None:
            self._counters.failures[reason] += 1
            shown = f"gateway {printable(self._errand.member.name)} {text}"
            self._answer(ForwardAnswer(Denial.ELSEWHERE, shown))
        self.exit()

    # -- the client

    def _on_hand_over(self, message: HandOver) -> None:
        reply = self.defer_reply()
        if self._step is not _EnvoyStep.ANSWERED or self._crossing.link is None:
            reply.fail(TunnelClosed("the other gateway has closed the connection"))
            return
        self._step = _EnvoyStep.CARRYING
        self._counters.forwarded += 1
        link, carriage = self._crossing.link, self._crossing.join(message.sock)
        reply.set(None)
        self.unwatch(self._errand.asker)
        carriage.deliver(message.greeting + bytes(self._received))
        self._received.clear()
        if self._has_ended:
            carriage.on_frame(GatewayFrame(FrameKind.END))
        link.resume()

    def on_link_over(self, reason: str) -> None:
        """It is over before there was a client."""
        step = "handshake" if self._step is _EnvoyStep.CALLING else "protocol"
        self._fail(step, f"cannot be asked: {reason}")

    # -- ends

    def _on_late(self, message: _EnvoyLate) -> None:
        if self._step is message.step and self._reply is not None:
            self._fail("late", "does not answer in time")

    def _on_terminated(self, message: Terminated) -> None:
        self._crossing.on_terminated(message.ref, self._errand.asker)

    def _on_local(self, message: Any) -> None:
        self._crossing.on_local(message)

    def _on_end(self, reason: ExitReason) -> None:
        """End the link, however the actor ended: the other side sees a cut unless all was said."""
        super()._on_end(reason)
        if self._counts:
            self._counters.open -= 1
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        self._crossing.abort()

    HANDLERS: ClassVar[Handlers] = {
        AskAway: _on_ask,
        HandOver: _on_hand_over,
        DialStep: lambda _actor, message: message.run(),
        **dict.fromkeys(LOCAL_MESSAGES, _on_local),
        _EnvoyLate: _on_late,
        Terminated: _on_terminated,
    }
