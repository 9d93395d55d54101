"""When to give up on marks: the peer's hello is overdue, or a link does not survive them.

Pure; the time is an argument (docs/protocol.md section 3a). What marks are is in `proto.ends`; here
is how long a tunnel waits for a sign that its peer has them, and when it does better without.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING

from tunnelfleet.proto import Event, Message, MessageType, Session

if TYPE_CHECKING:
    from .messages import ConnectionKey


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
