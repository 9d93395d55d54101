"""How the connections of a tunnel end, and how long it waits for the marks that tell ends apart.

An end of a local application is queued behind its bytes, sent, and over when the other direction
is; an abort skips what waits. What an end means on the wire is the session's word. The two clocks
of marks are pure. docs/architecture.md section 7, docs/protocol.md section 3a.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.actors import events
from tunnelfleet.proto import (
    End,
    Event,
    Message,
    MessageType,
    ProtocolVersion,
    Session,
    TunnelError,
)

from .connections import Connection, ConnectionTable, EndPhase
from .context import NO_API, ApiHandler
from .messages import HalfCloseEnded, RemoteEnded

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel import Timer

    from .context import Common
    from .messages import ConnectionKey
    from .sender import WireSender


class EndHooks(NamedTuple):
    """What the ends of connections have others do.

    Attributes:
        schedule: sends the actor a message after some seconds.
        count_changed: the number of connections is another one.
        handle: acts on what the session says.
    """

    schedule: Callable[[float, Any], Timer]
    count_changed: Callable[[], None]
    handle: Callable[[Sequence[Event]], None]


class Ends:
    """The ends of a tunnel's connections.

    Args:
        common: what the parts of the tunnel have in common.
        sender: takes what is to leave.
        connections: all that there are.
        hooks: what others do.

    Attributes:
        api: what serves the client API.
    """

    __slots__ = (
        "_common",
        "_connections",
        "_hooks",
        "_sender",
        "_session",
        "_stats",
        "api",
    )

    def __init__(
        self, common: Common, sender: WireSender, connections: ConnectionTable, hooks: EndHooks
    ) -> None:
        self._common = common
        self._session = common.session
        self._stats = common.stats
        self._sender = sender
        self._connections = connections
        self._hooks: EndHooks | None = hooks
        self.api: ApiHandler = NO_API

    def advance(self, connection: Connection) -> None:
        """Something of the local end is over: what follows from it on the wire."""
        phase = connection.end_phase
        if phase is EndPhase.NONE:
            connection.end_phase = EndPhase.QUEUED
            self._sender.end(connection.key, time.monotonic())
        elif phase is EndPhase.SENT and not connection.is_orderly:
            # It had ended in good order, and now nobody is left to take what still comes.
            self.abort(connection, connection.reason)
        elif phase is EndPhase.SENT and connection.gone:
            self._session.leave_connection(*connection.key[:3])
            self._settle_end(connection)
        elif phase is EndPhase.OVER and connection.gone:
            self._connections.remove(connection)

    def encode_end(self, connection: Connection) -> list[Message]:
        """Make the end of a connection, which was queued behind its bytes, that of the wire."""
        key = connection.key
        connection.end_phase = EndPhase.SENT
        messages, session_events = self._session.reset_connection(
            key.service_id, key.connection_id, is_orderly=connection.is_orderly
        )
        self.api.on_end_taken(key, is_sent=bool(messages))
        if connection.gone:
            self._session.leave_connection(*key[:3])
        self._settle_end(connection)
        self._get_hooks().handle(session_events)
        return messages

    def _settle_end(self, connection: Connection) -> None:
        """After an end of this side: is there another direction left?"""
        if not self._session.is_known(*connection.key[:3]):
            # After an orderly end of the peer the local socket takes its time to write what came.
            end = connection.remote_end or End.BOTH
            self.release(connection, end if connection.is_orderly else End.CUT)
        else:
            self.watch_half_closed(connection)

    def watch_half_closed(self, connection: Connection) -> None:
        """Before V3 nobody may tell a half-closed end that the other one has died."""
        is_v3 = self._session.version is ProtocolVersion.V3
        if not is_v3 and connection.half_close_timer is None:
            seconds = self._common.limits.half_close_seconds
            message = HalfCloseEnded(connection.key)
            connection.half_close_timer = self._get_hooks().schedule(seconds, message)

    def half_close_ended(self, message: HalfCloseEnded) -> None:
        """A connection has been closed in one direction alone for long enough."""
        connection = self._connections.get(message.key)
        if connection is not None and connection.end_phase is not EndPhase.OVER:
            seconds = self._common.limits.half_close_seconds
            self.abort(connection, f"closed in one direction alone for {seconds:g} s")

    def abort_stalled(self, now: float) -> None:
        """Reset the connections that hold up the tunnel and take no byte."""
        for connection in self._connections.stalled(now):
            connection.stalled = True
            self._stats.count_stalled()
            connection.reason = "stalled: the local application took no byte"
            self.abort(connection, connection.reason)

    def abort(self, connection: Connection, reason: str) -> None:
        """End a connection now, whatever it has waiting, and not in good order."""
        key = connection.key
        connection.is_orderly = False
        connection.reason = connection.reason or reason
        connection.ended_by = connection.ended_by or "local"
        if connection.end_phase is EndPhase.OVER:
            # The peer may have used its ids again: only the socket here is left to be cut.
            connection.tell(RemoteEnded(key, End.CUT, reason))
            return
        self.discard(connection)
        messages, session_events = self._session.reset_connection(
            key.service_id, key.connection_id, is_orderly=False
        )
        for message in messages:
            self._sender.control(message)
        self.release(connection, End.CUT)
        self._get_hooks().handle(session_events)

    def discard(self, connection: Connection, error: TunnelError | None = None) -> None:
        """Throw away what a connection has waiting: nobody takes it any more.

        Args:
            connection: which.
            error: what the senders of its messages are told; None: that its stream is over.
        """
        connection.give_credit(self._sender.discard(connection.key).size_bytes)
        self.api.on_discarded(connection.key, error)

    def release(self, connection: Connection, end: End) -> None:
        """Let go of a connection that is over on the wire: its id and its place are free.

        Its socket still writes what came before, and says when it has.
        """
        if connection.end_phase is EndPhase.OVER:
            return
        if connection.half_close_timer is not None:
            connection.half_close_timer.cancel()
        oldest = self._connections.release(connection)
        if oldest is not None:
            text = "too many local connections are slow to end"
            oldest.tell(RemoteEnded(oldest.key, End.CUT, text))
        if connection.gone:
            self._connections.remove(connection)
        else:
            reason = connection.reason or "closed by the peer"
            connection.tell(RemoteEnded(connection.key, end, reason))
        ended_by = connection.ended_by or "local"
        connection.counters.count_connection_ended(ended_by)
        self.tell_closed(connection, connection.reason, ended_by)
        self._get_hooks().count_changed()

    def tell_closed(self, connection: Connection, reason: str, ended_by: str) -> None:
        """Say that a connection has ended, and what it carried."""
        live = connection.live
        self._stats.connections.pop(live.serial, None)
        self._common.publish(
            events.ConnectionClosed(
                self._common.config.name,
                *connection.key[:3],
                reason,
                ended_by,
                live.serial,
                live.peer,
                live.user,
                live.opened_at,
                live.sent_bytes,
                live.received_bytes,
                self._stats.channel_id,
            )
        )

    def let_go(self) -> None:
        """Keep nothing that leads back to the actor, which has ended."""
        self.api = NO_API
        self._hooks = None

    def _get_hooks(self) -> EndHooks:
        assert self._hooks is not None
        return self._hooks


class HelloClock:
    """How long each service's newest stream has waited for a hello.

    It stands still while the WebSocket is not read, as the hello may be there, unread.

    Args:
        hello_seconds: how long each may wait.
    """

    __slots__ = (
        "_due",
        "_held_seconds",
        "_held_since",
        "_hello_seconds",
    )

    def __init__(self, hello_seconds: float) -> None:
        self._hello_seconds = hello_seconds
        self._due: dict[str, tuple[int, float]] = {}
        """service id -> (stream id, when it is overdue, in the time of this clock)"""
        self._held_seconds = 0.0
        self._held_since: float | None = None

    def _time(self, now: float) -> float:
        return (self._held_since if self._held_since is not None else now) - self._held_seconds

    def started(self, service_id: str, stream_id: int, now: float) -> None:
        """The STREAM_START of a stream has left for the kernel."""
        self._due[service_id] = (stream_id, self._time(now) + self._hello_seconds)

    def hold(self, now: float) -> None:
        """The WebSocket is not read."""
        if self._held_since is None:
            self._held_since = now

    def go_on(self, now: float) -> None:
        """It is read again."""
        if self._held_since is not None:
            self._held_seconds += now - self._held_since
            self._held_since = None

    def clear(self) -> None:
        """The link is over, and every stream with it."""
        self._due.clear()
        self._held_since = None

    def take_overdue(self, now: float) -> list[tuple[str, int]]:
        """Return the streams whose time is over, service id and stream id, once each."""
        time = self._time(now)
        overdue = [(service, ids[0]) for service, ids in self._due.items() if ids[1] <= time]
        for service_id, _ in overdue:
            del self._due[service_id]
        return overdue

    def wait_seconds(self, now: float) -> float | None:
        """Return after how long to look again; None while nothing waits, or the clock stands."""
        if not self._due or self._held_since is not None:
            return None
        return max(min(due for _, due in self._due.values()) - self._time(now), 0.0)


class Shown(Enum):
    """What the present link has shown of marks."""

    UNTRIED = auto()
    ON_TRIAL = auto()
    """Marks were sent, and nothing has come from the peer since."""
    SURVIVED = auto()


TRIAL_SECONDS = 5.0
"""A link that drops so soon after the first marked message may have dropped because of it."""
TRIALS = 2
"""After so many such links in a row a tunnel goes on without marks."""


class MarkTrial:
    """Whether links survive marks.

    Attributes:
        shown: what the present link has shown.
    """

    __slots__ = (
        "_sent_at",
        "_suspects",
        "shown",
    )

    def __init__(self) -> None:
        self.shown = Shown.UNTRIED
        self._sent_at = 0.0
        self._suspects = 0

    def sent(self, now: float) -> None:
        """A marked message was sent."""
        if self.shown is Shown.UNTRIED:
            self.shown = Shown.ON_TRIAL
            self._sent_at = now

    def heard(self) -> None:
        """A message of the peer arrived: if it follows marks, they did no harm."""
        if self.shown is Shown.ON_TRIAL:
            self.shown = Shown.SURVIVED
            self._suspects = 0

    def lost(self, now: float) -> bool:
        """The link is lost; return whether to go on without marks from here on."""
        is_early = now - self._sent_at <= TRIAL_SECONDS
        is_suspect = self.shown is Shown.ON_TRIAL and is_early
        self._suspects = self._suspects + 1 if is_suspect else 0
        self.shown = Shown.UNTRIED
        return self._suspects >= TRIALS


class Marking:
    """The marks of one tunnel: the clock of its hellos, and the trial of its links.

    Args:
        session: of the tunnel: it says which streams were asked, and is told what is overdue.
        hello_seconds: how long a stream may wait for its hello once its start has left.

    Attributes:
        queued: by the key under which its start was queued, each stream that asks for a hello and
            whose start has not left yet.
        trial: whether the link survives marks; is told of each message of the peer.
    """

    __slots__ = (
        "_clock",
        "_session",
        "queued",
        "trial",
    )

    def __init__(self, session: Session, hello_seconds: float) -> None:
        self._session = session
        self._clock = HelloClock(hello_seconds)
        self.trial = MarkTrial()
        self.queued: dict[ConnectionKey, tuple[str, int]] = {}

    def sent(self, message: Message, now: float) -> None:
        """A message of this side is queued."""
        if message.ignorable:
            self.trial.sent(now)

    def start_queued(self, start: Message, key: ConnectionKey, now: float) -> None:
        """A STREAM_START or CONNECTION_START is queued under `key`."""
        self.sent(start, now)
        is_stream = start.type is MessageType.STREAM_START
        service_id = start.service_id or key.service_id
        if is_stream and self._session.awaits_hello(service_id, start.stream_id):
            self.queued[key] = (service_id, start.stream_id)

    def left(self, keys: Iterable[ConnectionKey], now: float) -> None:
        """Messages of these connections have left: the time of those that asked begins."""
        for key in keys:
            ids = self.queued.pop(key, None)
            if ids is not None and self._session.awaits_hello(*ids):
                self._clock.started(*ids, now)

    def hold(self, now: float, *, is_held: bool) -> None:
        """The link is not read, or is read again: a hello may be there, unread."""
        if is_held:
            self._clock.hold(now)
        else:
            self._clock.go_on(now)

    def wait_seconds(self, now: float) -> float | None:
        """Return after how long to ask for what is overdue; None: not at present."""
        return self._clock.wait_seconds(now)

    def overdue(self, now: float) -> list[Event]:
        """What the session says to the hellos that have not come in time."""
        found: list[Event] = []
        for ids in self._clock.take_overdue(now):
            found += self._session.hello_overdue(*ids)
        return found

    def link_ended(self, now: float, *, is_lost: bool) -> bool:
        """The link is over, and with it all that waited.

        Returns:
            Whether to go on without marks: so the session does from here on.
        """
        self.queued.clear()
        self._clock.clear()
        if not is_lost or not self.trial.lost(now):
            return False
        self._session.stop_marking()
        return True
