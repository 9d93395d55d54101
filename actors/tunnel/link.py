"""The link of a tunnel: how far it has come, and what its WebSocketActor is told.

Owns one enum of phases, the number of the link (`epoch`), whether it is held, and what the link
before ended of. What a phase means for streams and listeners is TunnelActor's, and so is what is
sent: it hands messages to `Link.websocket` itself.
docs/architecture.md section 4.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from pykka import ActorRef

from tunnelfleet.actors.kernel import ExitReason, RestartChild
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.proto import ConnectionLost, RemoteProtocolError, TunnelClosed, TunnelError

from .messages import (
    Abandon,
    CloseGracefully,
    ConnectionEstablished,
    PauseReading,
    ResumeReading,
    SetLowWater,
    TransmitPing,
)

if TYPE_CHECKING:
    from .common import Common


def lost_reason(reason: ExitReason) -> TunnelError:
    """The error that a connection ended with, whatever ended it."""
    if isinstance(reason.exception, TunnelError):
        return reason.exception
    if not reason.is_normal:
        return ConnectionLost("crashed", f"the connection's actor failed: {reason}")
    return TunnelClosed(str(reason))


class LinkPhase(Enum):
    """How far the link has come."""

    DOWN = auto()
    """There is none; a WebSocketActor may be connecting."""
    OPEN = auto()
    """The upgrade succeeded; SERVICE_IDS is still to come."""
    ANNOUNCED = auto()
    """SERVICE_IDS has come: the tunnel can be used."""
    GIVEN_UP = auto()
    """The WebSocketActor was told to give it up: what still arrives is not acted on."""
    CLOSING = auto()
    """The WebSocketActor was told to close it in good order."""


class _NextAttempt(Enum):
    """When the next attempt is made, once the present one has ended."""

    AFTER_BACKOFF = auto()
    AT_ONCE = auto()
    """There is a new token to try."""


WEBSOCKET_CHILD = "websocket"
SLOWER_AT_LEAST = 2
"""TCP_NOTSENT_LOWAT is set when the rate has changed by this factor, not at every measurement."""


class Link:
    """The present link, and what is known of the one before.

    Args:
        common: what the parts of the tunnel have in common.

    Attributes:
        phase: how far it has come.
        epoch: its number; a message of another one is late.
        is_held: its WebSocketActor does not read.
        low_water_bytes: how many unsent bytes the kernel was told to keep.
        lost_text: what the link before ended of, for people.
        websocket: the WebSocketActor of the link; None while it is down.
    """

    __slots__ = (
        "_attempt",
        "_common",
        "_lost_label",
        "_next_attempt",
        "epoch",
        "is_held",
        "lost_text",
        "low_water_bytes",
        "phase",
        "websocket",
    )

    def __init__(self, common: Common) -> None:
        self._common = common
        self.phase = LinkPhase.DOWN
        self.epoch = 0
        self.is_held = False
        self.lost_text = ""
        self._lost_label: str | None = None
        self._attempt: ActorRef[Any] | None = None
        self.websocket: ActorRef[Any] | None = None
        self._next_attempt = _NextAttempt.AFTER_BACKOFF
        self.low_water_bytes = 0

    # -- its life

    def started(self, attempt: ActorRef[Any]) -> None:
        """A WebSocketActor was started and connects."""
        self._attempt = attempt

    def established(self, message: ConnectionEstablished) -> None:
        """The upgrade succeeded."""
        self.phase = LinkPhase.OPEN
        self.epoch = message.epoch
        self.websocket = message.websocket
        self.is_held = False
        self.low_water_bytes = self._common.limits.notsent_low_water_bytes

    def announced(self) -> None:
        """SERVICE_IDS has come: the tunnel is connected again, if it was before."""
        if self.phase is LinkPhase.OPEN:
            self.phase = LinkPhase.ANNOUNCED
        if self._lost_label is not None:
            self._common.stats.count_reconnect(self._lost_label)
            self._lost_label = None
        self.lost_text = ""

    def refused(self) -> None:
        """The service has refused the handshake, which says all."""
        self.lost_text = ""

    def ended(self, reason: ExitReason) -> bool:
        """The WebSocketActor has ended.

        Returns:
            Whether there was a link; False if it was still connecting.
        """
        was_up = self.is_up
        self.phase, self.websocket = LinkPhase.DOWN, None
        if reason.is_normal:
            # Perhaps the old token was refused while the new one was on its way.
            self.try_again_if_wanted()
            return was_up
        error = lost_reason(reason)
        self.lost_text = str(error)
        label = error.label if isinstance(error, ConnectionLost) else "crashed"
        if was_up:
            self._lost_label = label
        else:
            self._common.stats.count_connect_failure(label)
        return was_up

    def try_with_new_token(self) -> None:
        """End the present attempt or link, if there is one, and connect again without a backoff."""
        attempt = self._attempt
        if attempt is not None and attempt.is_alive():
            self._next_attempt = _NextAttempt.AT_ONCE
            attempt.tell(Abandon("token_replaced", TunnelClosed("its token was replaced")))
        else:
            self._common.tell_transport(RestartChild(WEBSOCKET_CHILD))

    def try_again_if_wanted(self) -> bool:
        """Have the next attempt made now, if there is a new token to try; return whether it was."""
        if self._next_attempt is _NextAttempt.AFTER_BACKOFF:
            return False
        self._next_attempt = _NextAttempt.AFTER_BACKOFF
        self._common.tell_transport(RestartChild(WEBSOCKET_CHILD))
        return True

    def tell_backoff(self, delay_seconds: float) -> None:
        """The next attempt is made after a while: say so to people."""
        delay = f"retry in {delay_seconds:.1f} s"
        text = f"{self.lost_text}; {delay}" if self.lost_text else delay
        self._common.enter(TunnelState.BACKOFF, text)

    # -- what it is now

    @property
    def is_up(self) -> bool:
        """Whether there is a link, however far it has come."""
        return self.phase is not LinkPhase.DOWN

    @property
    def is_announced(self) -> bool:
        """Whether connections can be opened over it."""
        return self.phase is LinkPhase.ANNOUNCED

    def is_of(self, epoch: int) -> bool:
        """Whether a message of a link is of this one, which is up."""
        return epoch == self.epoch and self.phase is not LinkPhase.DOWN

    # -- commands

    def ping(self, number: int) -> None:
        """Send a ping behind all messages; it is up."""
        assert self.websocket is not None
        self.websocket.tell(TransmitPing(number))

    def hold(self, *, must_hold: bool) -> bool:
        """Have it read no more, or again; return whether that is a change."""
        if must_hold == self.is_held or self.websocket is None:
            return False
        self.is_held = must_hold
        self.websocket.tell(PauseReading() if must_hold else ResumeReading())
        return True

    def adapt_low_water(self, wanted_bytes: int) -> None:
        """Have the kernel keep about so many unsent bytes, if that is another number by far."""
        present = self.low_water_bytes
        is_far = wanted_bytes * SLOWER_AT_LEAST <= present or (
            wanted_bytes >= present * SLOWER_AT_LEAST
        )
        if is_far and self.websocket is not None:
            self.low_water_bytes = wanted_bytes
            self.websocket.tell(SetLowWater(wanted_bytes))

    def give_up(self, label: str, text: str) -> None:
        """End it as failed: the service broke the protocol, or keeps silent."""
        if self.websocket is not None:
            self.phase = LinkPhase.GIVEN_UP
            self.websocket.tell(Abandon(label, RemoteProtocolError(text)))

    def close(self) -> None:
        """End it in good order, behind all that was sent. A second call does nothing."""
        if self.phase in (LinkPhase.OPEN, LinkPhase.ANNOUNCED):
            assert self.websocket is not None
            self.phase = LinkPhase.CLOSING
            self.websocket.tell(CloseGracefully())
