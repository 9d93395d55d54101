"""The link of a tunnel: how far it has come, what it carries, and whether it is read.

Owns the phases of a link and its number (`epoch`), the way from the sender to its WebSocketActor
(`Pump`), and the one brake that the protocol has, not to read (`Brake`). What a phase means for
streams and listeners is TunnelActor's. docs/architecture.md sections 4 to 6.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors.config import stood_still_seconds
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import ExitReason, RestartChild
from tunnelfleet.proto import ConnectionLost, RemoteProtocolError, TunnelClosed, TunnelError

from .connections import EndPhase
from .messages import (
    Abandon,
    CloseGracefully,
    ConnectionEstablished,
    LocalDataRead,
    PauseReading,
    PongHeard,
    ResumeReading,
    SetLowWater,
    Transmit,
    TransmitPing,
    TransmitUntold,
)

if TYPE_CHECKING:
    from tunnelfleet.actors.counters import TunnelStats
    from tunnelfleet.actors.kernel import Timer
    from tunnelfleet.proto import DataBurst, Message

    from .connections import ConnectionTable
    from .context import Common
    from .sender import WireSender
    from .streams import Streams


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


class CheckStalled(NamedTuple):
    """Look for connections that hold up the tunnel."""


LEAST_STALL_CHECK_SECONDS = 0.05


class BrakeHooks(NamedTuple):
    """What the brake has its actor do.

    Attributes:
        schedule: sends it a message after some seconds.
        changed: the link is held from now on, or read again; called with which, and the time.
    """

    schedule: Callable[[float, Any], Timer]
    changed: Callable[[bool, float], None]


class Brake:
    """Holds the link while it must be held.

    Args:
        common: what the parts of the tunnel have in common.
        connections: hold it by what they have not taken.
        link: is held.
        hooks: see there.
    """

    __slots__ = ("_common", "_connections", "_due_at", "_full", "_hooks", "_link", "_timer")

    def __init__(
        self, common: Common, connections: ConnectionTable, link: Link, hooks: BrakeHooks
    ) -> None:
        self._common = common
        self._connections = connections
        self._link = link
        self._hooks: BrakeHooks | None = hooks
        self._full: tuple[Callable[[], bool], ...] = ()
        self._timer: Timer | None = None
        self._due_at = 0.0
        """When the timer is due, in monotonic seconds."""

    def add(self, is_full: Callable[[], bool]) -> None:
        """Let something else hold the link: it says whether, and has `check` called after it."""
        self._full = (*self._full, is_full)

    def check(self) -> None:
        """Hold the link, or let it go, if that is a change."""
        must_hold = self._connections.must_pause
        if self._full and not must_hold:
            must_hold = any(is_full() for is_full in self._full)
        if must_hold == self._link.is_held or not self._link.hold(must_hold=must_hold):
            return
        if self._hooks is not None:
            self._hooks.changed(must_hold, time.monotonic())
        if must_hold:
            self.look_again()

    def must_look_for_stalled(self, now: float) -> bool:
        """A `CheckStalled` came; return whether the link is held still.

        While this process stood still no application could take anything: that does not count.
        """
        self._timer = None
        if still_seconds := stood_still_seconds(self._due_at, now):
            self._connections.excuse(still_seconds, now)
        return self._link.is_held

    def look_again(self) -> None:
        """Have a `CheckStalled` come before long."""
        if self._timer is None and self._hooks is not None:
            # In quarters: what has stood still within one is not seen.
            quarter = self._common.limits.stall_timeout_seconds / 4
            seconds = max(quarter, LEAST_STALL_CHECK_SECONDS)
            self._due_at = time.monotonic() + seconds
            self._timer = self._hooks.schedule(seconds, CheckStalled())

    def let_go(self) -> None:
        """Keep nothing that leads back to the actor, which has ended."""
        self._full, self._hooks = (), None


class PumpAgain(NamedTuple):
    """The bandwidth allows more by now."""


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_DOWN = LinkPhase.DOWN
_END_SENT = (EndPhase.SENT, EndPhase.OVER)


class Pump:
    """The way from the sender to the link.

    Args:
        sender: what waits, and when it may leave.
        streams: make a piece what it is on the wire.
        link: takes it.
        stats: counts how long it waited.
        schedule: sends the actor a message after some seconds; a `PumpAgain` comes to `again`.
    """

    __slots__ = ("_connections", "_link", "_schedule", "_sender", "_stats", "_streams", "_timer")

    def __init__(
        self,
        sender: WireSender,
        streams: Streams,
        link: Link,
        stats: TunnelStats,
        schedule: Callable[[float, Any], Timer],
    ) -> None:
        self._sender = sender
        self._streams, self._connections = streams, streams.connections
        self._link = link
        self._stats = stats
        self._schedule: Callable[[float, Any], Timer] | None = schedule
        self._timer: Timer | None = None

    def local_data(self, message: LocalDataRead) -> None:
        """A local end has read bytes: they leave at once, or wait for their turn."""
        key, payload = message
        connection = self._connections.by_key.get(key)
        if connection is None:
            return
        if connection.end_phase in _END_SENT:
            connection.give_credit(len(payload))
            return
        now = time.monotonic()
        if self._link.phase is _DOWN or not self._sender.passes(len(payload)):
            self._sender.data(key, payload, now)
            self.run()
            return
        # Nothing waits in front of it: it need not be queued.
        encoded = self._connections.encode(connection, payload)
        if encoded is None:
            return
        self._stats.count_unqueued()
        if self._sender.leaves_untold(len(payload), now):
            assert self._link.websocket is not None
            self._link.websocket.tell(TransmitUntold(encoded))
            connection.give_credit(len(payload))
        else:
            self._sender.sent(encoded, key, now)
            self._transmit([encoded])

    def run(self) -> None:
        """Send what may be sent now."""
        if self._link.phase is _DOWN:
            return
        sender, streams, now = self._sender, self._streams, time.monotonic()
        messages: list[Message | DataBurst] = [*sender.take_control(now)]
        while (piece := sender.next_piece(now)) is not None:
            if sender.is_ping_due:
                messages = self._ping_behind(messages, now)
            key = piece.flow.key
            for message in streams.encode_piece(piece):
                sender.sent(message, key, now)
                messages.append(message)
        if messages and sender.is_ping_due:
            self._ping_behind(messages, now)
        elif messages:
            self._transmit(messages)
        if sender.wait_seconds and self._timer is None and self._schedule is not None:
            self._timer = self._schedule(sender.wait_seconds, PumpAgain())

    def again(self) -> None:
        """The timer is over."""
        self._timer = None
        self.run()

    def pong(self, message: PongHeard) -> None:
        """The service has answered a ping: perhaps more may be sent."""
        if not self._link.is_of(message.epoch):
            return
        now, sender = time.monotonic(), self._sender
        sender.pong(message.number, now)
        if sender.is_ping_due:
            self._ping_behind([], now)
        if sender.has_waiting:
            self.run()

    def _transmit(self, messages: list[Message | DataBurst]) -> None:
        """Have messages sent; the link is up."""
        assert self._link.websocket is not None
        self._link.websocket.tell(Transmit(messages))

    def _ping_behind(
        self, messages: list[Message | DataBurst], now: float
    ) -> list[Message | DataBurst]:
        """Send these, and a ping that says when they were parsed; return a list for the next."""
        if messages:
            self._transmit(messages)
        self._link.ping(self._sender.ping(now))
        return []

    def let_go(self) -> None:
        """Keep nothing that leads back to the actor, which has ended."""
        self._schedule = None
