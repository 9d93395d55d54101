"""Search: where a tunnel is that this gateway does not run, asked for one client of a front door.

It is a part of the client's actor, which passes on what is answered, and owns what was asked and
until when: whoever opens tunnels on demand, the state of the fleet for a name that no file has, the
gateway that has the tunnel. A client is sent on to another gateway once at the most.
"""

from __future__ import annotations

import concurrent.futures
import logging
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pykka import ActorRef

from tunnelfleet.actors.kernel import DispatchedActor, ask_future
from tunnelfleet.proto import printable

from .fleet_view import Away, NotYet, Unlisted, Unopened
from .handshake import Denial
from .resolver import AskedTunnel, Elsewhere, Forwarded, Local, NobodyYet, Refused, SendTo

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.kernel import DispatchedFuture
    from tunnelfleet.actors.tunnel.messages import HandOver
    from tunnelfleet.runtime.gateway.placement import Member

    from .hall import Hall
    from .resolver import Answer, OtherGateways

logger = logging.getLogger(__name__)

_MORE_IN_LOG = "it failed, which the gateway's log tells more of"


class ResolverAnswered(NamedTuple):
    """What was answered to the question for a tunnel that is not there."""

    wanted: Unopened
    answer: Answer | BaseException


class NameFound(NamedTuple):
    """Which tunnel that was added at run time is meant."""

    readings: tuple[Away, ...]
    found: str | BaseException | None


class GatewayAnswered(NamedTuple):
    """What another gateway has answered: None if it carries the connection."""

    envoy: ActorRef[Any]
    away: Away
    answer: Refused | BaseException | None


class Seeker(Protocol):
    """The client's actor, which does what comes of a search."""

    def begin_seeking(self) -> None:
        """Somebody was asked: look now and then whether that is still of use."""

    def enter(self, tunnel: str, service_id: str) -> None:
        """This gateway has the tunnel now."""

    def wait(self, found: NotYet) -> None:
        """It cannot be reached yet: find it again in a while."""

    def lend(
        self, hand_over: Callable[[HandOver], DispatchedFuture[Any]], service_id: str, grace: NotYet
    ) -> None:
        """Hand the socket over; wait for `grace` if it is not taken."""

    def refuse(self, denial: Denial, text: str) -> None:
        """There is no such tunnel for this client."""


class Sought(NamedTuple):
    """For whom is searched.

    Attributes:
        name: what the client has asked for.
        user: who it is.
        peer: where it is.
        is_sent: whether another gateway has sent it here.
    """

    name: str
    user: str
    peer: str
    is_sent: bool


class _SearchStep(Enum):
    NOBODY = auto()
    RESOLVER = auto()
    STATE = auto()
    GATEWAY = auto()


Found = ResolverAnswered | NameFound | GatewayAnswered
_ANSWERS = {
    ResolverAnswered: _SearchStep.RESOLVER,
    NameFound: _SearchStep.STATE,
    GatewayAnswered: _SearchStep.GATEWAY,
}


class Search:
    """The search for one client's tunnel.

    Args:
        actor: the client's; it gets what is answered as messages, for `take`.
        seeker: the same, as who does what comes of it.
        hall: what all clients share.
    """

    def __init__(self, actor: DispatchedActor, seeker: Seeker, hall: Hall) -> None:
        self._actor = actor
        self._seeker = seeker
        self._hall = hall
        self._sought = Sought("", "", "", is_sent=False)
        self._asked = _SearchStep.NOBODY
        self._until = 0.0

    def begin(self, sought: Sought) -> None:
        """It is known for whom it is."""
        self._sought = sought

    def is_late(self) -> bool:
        """Whether nobody has answered in time. Whoever asks another gateway bounds that itself."""
        is_here = self._asked in (_SearchStep.RESOLVER, _SearchStep.STATE)
        return is_here and time.monotonic() > self._until

    def expects(self, message: Found) -> bool:
        """Whether this answers what was asked last; nobody waits for the answers before that."""
        return self._asked is _ANSWERS[type(message)]

    def take(self, message: Found) -> None:
        """Take what was answered."""
        self._asked = _SearchStep.NOBODY
        match message:
            case ResolverAnswered(wanted, answer):
                self._on_resolved(wanted, answer)
            case NameFound(readings, found):
                self._on_name_found(readings, found)
            case GatewayAnswered(envoy, away, answer):
                self._on_gateway_answered(envoy, away, answer)

    def _ask(self, asked: _SearchStep, busy: str) -> bool:
        """Keep a place while somebody is asked; refuse the client if there is none."""
        if not self._hall.crowd.wait(self._actor.actor_ref):
            self._seeker.refuse(Denial.BUSY, f"too many clients wait for tunnels{busy}")
            return False
        self._asked = asked
        self._until = time.monotonic() + self._hall.limits.resolve_seconds
        self._seeker.begin_seeking()
        return True

    # -- a tunnel that can be opened

    def open(self, found: Unopened) -> None:
        """Have a tunnel opened, or be told who has it."""
        resolver = self._hall.resolver
        assert resolver is not None
        if not self._ask(_SearchStep.RESOLVER, f", and {printable(found.tunnel)} is not open"):
            return
        asked = AskedTunnel(*found, self._sought.user, self._sought.peer, self._actor.actor_ref)
        future = resolver.resolve(asked)
        self._actor.pipe_to_self(future, lambda done: ResolverAnswered(found, _outcome(done)))

    def _on_resolved(self, wanted: Unopened, answer: Answer | BaseException) -> None:
        tunnel, service_id = wanted
        match answer:
            case Local(opened):
                self._seeker.enter(opened, service_id)
            case Refused(denial, text):
                self._seeker.refuse(denial, text)
            case Elsewhere():
                self.go_away(Away(tunnel, service_id or None, None))
            case error:
                logger.error("a question for a tunnel has failed: %r", error)
                self._seeker.refuse(Denial.FAILED, _MORE_IN_LOG)

    # -- a tunnel that another gateway has

    def look_up(self, found: Unlisted) -> None:
        """Find out whether such a tunnel was added at another gateway."""
        others = self._hall.others
        assert others is not None
        if self._sought.is_sent:
            self._refuse_name()
        elif self._ask(_SearchStep.STATE, ": try again in a moment"):
            future = others.find([each.tunnel for each in found.readings])
            self._actor.pipe_to_self(future, lambda done: NameFound(found.readings, _outcome(done)))

    def _on_name_found(self, readings: tuple[Away, ...], found: str | BaseException | None) -> None:
        if isinstance(found, BaseException):
            shown = printable(self._sought.name)
            reason = f"no file has a tunnel {shown!r}, and the state cannot be asked: {found}"
            self._seeker.refuse(Denial.UNAVAILABLE, reason)
            return
        away = next((each for each in readings if each.tunnel == found), None)
        if away is None:
            self._refuse_name()
        else:
            self.go_away(away)

    def _refuse_name(self) -> None:
        shown = printable(self._sought.name)
        self._seeker.refuse(Denial.NAME, f"there is no tunnel {shown!r} in this fleet")

    def go_away(self, away: Away) -> None:
        """Ask the gateway that has the tunnel."""
        others = self._hall.others
        if others is None or self._sought.is_sent:
            text = f"tunnel {printable(away.tunnel)} is with another gateway of the fleet"
            self._seeker.refuse(Denial.ELSEWHERE, text)
            return
        match others.way_to(away.tunnel):
            case Refused(denial, text):
                self._seeker.refuse(denial, text)
            case NobodyYet(text):
                self._seeker.wait(NotYet(away.tunnel, away.grace_seconds, text))
            case SendTo(member):
                self._send(others, member, away)

    def _send(self, others: OtherGateways, member: Member, away: Away) -> None:
        if not self._ask(_SearchStep.GATEWAY, f", and {printable(away.tunnel)} is elsewhere"):
            return
        tunnel, service, port, _grace = away
        _name, user, peer, _is_sent = self._sought
        forwarded = Forwarded(tunnel, service, port, user, peer, self._actor.actor_ref)
        envoy, future = others.send(member, forwarded)
        self._actor.pipe_to_self(future, lambda done: GatewayAnswered(envoy, away, _outcome(done)))

    def _on_gateway_answered(
        self, envoy: ActorRef[Any], away: Away, answer: Refused | BaseException | None
    ) -> None:
        tunnel, grace_seconds = away.tunnel, away.grace_seconds
        match answer:
            case None:
                grace = NotYet(tunnel, grace_seconds, "was lost on the way")
                self._seeker.lend(lambda message: ask_future(envoy, message), "", grace)
            case Refused(Denial.ELSEWHERE, text):
                # It moves, or its gateway has just gone: another one is about to have it.
                self._seeker.wait(NotYet(tunnel, grace_seconds, f"cannot be reached: {text}"))
            case Refused(denial, text):
                self._seeker.refuse(denial, text)
            case error:
                logger.error("forwarding to another gateway has failed: %r", error)
                self._seeker.refuse(Denial.FAILED, _MORE_IN_LOG)


def _outcome(answer: Any) -> Any:
    """What a future of pykka's kind or of the standard library's has come to."""
    try:
        is_standard = isinstance(answer, concurrent.futures.Future)
        return answer.result() if is_standard else answer.get()
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer
        return error
