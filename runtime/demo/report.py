"""What the demo saw: a picture of the fleet at one moment, and the report at its end.

Owns the figures, how they are judged, and how they are written for people and as JSON.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import counted
from tunnelfleet.runtime.figures import human_bytes, human_rate, human_seconds
from tunnelfleet.runtime.tunnel import TunnelStatus

if TYPE_CHECKING:
    from .fleet import TunnelPair


RATE_WINDOW_SECONDS: Final = 2.0
HISTORY_LENGTH: Final = 120


class DemoPhase(StrEnum):
    """What the demo is doing."""

    CONNECTING = "connecting"
    RUNNING = "running"
    RECOVERING = "waiting for every tunnel to come back"
    FINISHING = "finishing the last transfers"
    KEEPING = "yours: stop with Ctrl-C"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One tunnel, both its ends.

    `sent_bytes` went from source to destination, `received_bytes` back, as the source counts them.
    """

    name: str
    state: TunnelState
    streams: int
    connections: int
    sent_bytes: int
    received_bytes: int
    bytes_per_second: float
    streams_opened: int
    reconnects: int
    session_resets: int
    last_event: str
    event_age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """All tunnels, and the totals, at one moment."""

    phase: DemoPhase
    tunnels: int
    """How many tunnels there will be; `rows` has those that have been opened."""
    elapsed_seconds: float
    """The time since the demo began."""
    phase_seconds: float
    """The time since the phase began."""
    duration_seconds: float
    """How long the phase of the traffic lasts."""
    rows: tuple[TableRow, ...]
    history: tuple[float, ...] = ()
    """Bytes a second of the fleet, oldest first."""
    verified_bytes: int = 0
    mismatched_bytes: int = 0
    exchanges_completed: int = 0
    exchanges_broken: int = 0
    threads: int = 0
    rss_bytes: int = 0

    @property
    def connected(self) -> int:
        """Tunnels whose two ends are both connected."""
        return sum(row.state is TunnelState.CONNECTED for row in self.rows)

    @property
    def bytes_per_second(self) -> float:
        """Return the rate of the fleet, both directions added."""
        return sum(row.bytes_per_second for row in self.rows)

    def total(self, field: str) -> int:
        """Return the sum of an integer field over the rows."""
        return sum(getattr(row, field) for row in self.rows)


class TrafficRate:
    """The rate at which a count has grown in the last `RATE_WINDOW_SECONDS`."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, count: int) -> float:
        """Note that the count is `count` at `now`, and return what it grew by in a second."""
        samples = self._samples
        samples.append((now, count))
        # The oldest value that is kept lies outside the window, so that the window is full.
        while len(samples) > 2 and samples[1][0] <= now - RATE_WINDOW_SECONDS:
            samples.popleft()
        (since, before), seconds = samples[0], now - samples[0][0]
        return (count - before) / seconds if now > since and seconds > 0 else 0.0


SEVERITY: Final = {
    state: number
    for number, state in enumerate(
        (
            TunnelState.CONNECTED,
            TunnelState.DRAINING,
            TunnelState.CONNECTING,
            TunnelState.BACKOFF,
            TunnelState.STOPPED,
            TunnelState.QUARANTINED,
            TunnelState.REFUSED,
        )
    )
}
"""The states, the worst first. Of a tunnel's two ends the worse one is shown."""


class PairSampler:
    """Turns one pair's statuses into its row, and notices what happened between two looks.

    Args:
        pair: the tunnel.
    """

    def __init__(self, pair: TunnelPair) -> None:
        self._pair = pair
        self._rate = TrafficRate()
        self._event = "opened"
        self._event_at: float | None = None
        self._broken_at: float | None = None
        self._was_up = False
        self._just_struck = False
        self._reconnects = 0
        self._session_resets = 0

    def strike(self, what: str, now: float) -> None:
        """Note that the tunnel is broken on purpose.

        Args:
            what: how, for people.
            now: in seconds of the Unix epoch, as the statuses have it.
        """
        self._note(f"chaos: {what}", now)
        self._broken_at = now
        self._just_struck = True

    def sample(self, now: float) -> TableRow:
        """Look at both ends; `now` is in seconds of the Unix epoch."""
        source, destination = self._pair.source.status(), self._pair.destination.status()
        worse = max(source, destination, key=lambda status: SEVERITY[status.state])
        reconnects = source.reconnects + destination.reconnects
        session_resets = max(source.session_resets, destination.session_resets)
        up_since = max(source.since, destination.since)
        if self._just_struck:
            # A strike is shown once, even if the tunnel was back at the next look.
            self._just_struck = False
        else:
            self._notice(worse, up_since, reconnects, session_resets, now)
        return TableRow(
            name=self._pair.name,
            state=worse.state,
            streams=source.streams_active,
            connections=source.connections_active,
            sent_bytes=source.sent_bytes,
            received_bytes=source.received_bytes,
            bytes_per_second=self._rate.update(now, source.sent_bytes + source.received_bytes),
            streams_opened=source.streams_opened,
            reconnects=reconnects,
            session_resets=session_resets,
            last_event=self._event,
            event_age_seconds=now - (self._event_at if self._event_at is not None else now),
        )

    def _notice(
        self, worse: TunnelStatus, up_since: float, reconnects: int, session_resets: int, now: float
    ) -> None:
        is_up = worse.state is TunnelState.CONNECTED
        was_away = is_up and (reconnects > self._reconnects or not self._was_up)
        was_reset = session_resets > self._session_resets
        if not is_up:
            self._lost(worse, now)
        elif was_away:
            self._note(self._came_back(up_since) if reconnects else "connected", now)
        elif was_reset:
            self._note("back after a session reset", now)
        if was_away or was_reset:
            self._broken_at = None
        self._was_up, self._session_resets = is_up, session_resets
        if is_up:
            self._reconnects = reconnects

    def _lost(self, worse: TunnelStatus, now: float) -> None:
        if self._was_up and self._broken_at is None:
            self._broken_at = worse.since
        self._note(f"{worse.mode}: {worse.reason or worse.state}", now)

    def _came_back(self, up_since: float) -> str:
        if self._broken_at is None or up_since < self._broken_at:
            return "back again"
        return f"back after {human_seconds(up_since - self._broken_at)}"

    def _note(self, event: str, now: float) -> None:
        if event != self._event:
            self._event, self._event_at = event, now


class FleetSampler:
    """Takes the rows of all pairs, and the history of the fleet's rate."""

    def __init__(self) -> None:
        self._samplers: dict[str, PairSampler] = {}
        self._history: deque[float] = deque(maxlen=HISTORY_LENGTH)

    def add(self, pair: TunnelPair) -> None:
        """Add `pair`."""
        self._samplers[pair.name] = PairSampler(pair)

    def strike(self, tunnel: str, what: str, now: float) -> None:
        """Note that `tunnel` is broken on purpose."""
        self._samplers[tunnel].strike(what, now)

    def rows(self, now: float) -> tuple[TableRow, ...]:
        """Look at all tunnels."""
        rows = tuple(sampler.sample(now) for sampler in self._samplers.values())
        self._history.append(sum(row.bytes_per_second for row in rows))
        return rows

    @property
    def history(self) -> tuple[float, ...]:
        """The fleet's rate at the last looks, oldest first."""
        return tuple(self._history)


MAX_NAMES = 5
"""How many tunnels are named when some did not come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a demo.

    Attributes:
        tunnels: how many there were.
        connected: those whose two ends were both connected at the end.
        streams_opened: by the sources.
        bytes_sent: from sources to destinations.
        bytes_received: from destinations to sources.
        bytes_mismatched: wrong ones, and missing ones of connections that nothing had disturbed.
        reconnects: of both ends.
        session_resets: that a tunnel went through.
        threads: the most there were.
        rss_bytes: resident memory at the end.
        seconds: from start to end.
        bytes_verified: compared at either end and found right.
        exchanges_completed: requests, transfers and conversations that ran to their end.
        exchanges_broken: those that chaos ended early.
        missing: each tunnel that was not connected at the end, and why.
        fault: the first wrong bytes, for people.
        interrupted: whether the user ended it, so that tunnels may have been on their way back.
    """

    tunnels: int
    connected: int
    streams_opened: int
    bytes_sent: int
    bytes_received: int
    bytes_mismatched: int
    reconnects: int
    session_resets: int
    threads: int
    rss_bytes: int
    seconds: float
    bytes_verified: int = 0
    exchanges_completed: int = 0
    exchanges_broken: int = 0
    missing: tuple[str, ...] = ()
    fault: str = ""
    interrupted: bool = False

    @property
    def is_good(self) -> bool:
        """Whether every byte was right and every tunnel that had the time came back."""
        came_back = self.interrupted or not self.missing
        return self.bytes_mismatched == 0 and came_back

    def to_json(self) -> str:
        """Return the numbers as one JSON object on one line."""
        fields = {
            "tunnels": self.tunnels,
            "connected": self.connected,
            "streams_opened": self.streams_opened,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "bytes_mismatched": self.bytes_mismatched,
            "reconnects": self.reconnects,
            "session_resets": self.session_resets,
            "threads": self.threads,
            "rss_bytes": self.rss_bytes,
            "seconds": round(self.seconds, 3),
        }
        return json.dumps(fields)

    def lines(self) -> list[str]:
        """Return the summary for people."""
        moved = self.bytes_sent + self.bytes_received
        rate = human_rate(moved / self.seconds if self.seconds else 0)
        outcome = (
            f"{self.connected} of {counted(self.tunnels, 'tunnel')} connected",
            f"{counted(self.bytes_mismatched, 'byte')} wrong",
        )
        traffic = (
            f"{human_bytes(self.bytes_sent)} sent, {human_bytes(self.bytes_received)} received",
            f"{rate} on average",
            f"{human_bytes(self.bytes_verified)} verified",
        )
        transfers = (
            f"{counted(self.exchanges_completed, 'transfer')} done",
            f"{self.exchanges_broken:,} broken by chaos",
        )
        runtime = (
            f"{counted(self.streams_opened, 'stream')} opened",
            counted(self.reconnects, "reconnect"),
            counted(self.session_resets, "session reset"),
        )
        process = (
            counted(self.threads, "thread"),
            f"{human_bytes(self.rss_bytes)} of memory",
        )
        head = f"{self._verdict()} after {human_seconds(self.seconds)}: {', '.join(outcome)}."
        return [
            head,
            *(f"  {', '.join(words)}" for words in (traffic, transfers, runtime, process)),
            *self._complaints(),
        ]

    def _verdict(self) -> str:
        if not self.is_good:
            return "FAILED"
        return "Stopped" if self.interrupted else "Good"

    def _complaints(self) -> list[str]:
        lines = [f"  wrong: {self.fault}"] if self.fault else []
        lines += [f"  not connected: {text}" for text in self.missing[:MAX_NAMES]]
        if len(self.missing) > MAX_NAMES:
            lines.append(f"  and {len(self.missing) - MAX_NAMES} more")
        return lines


def make_report(
    snapshot: FleetSnapshot,
    *,
    seconds: float,
    threads: int,
    missing: tuple[str, ...] = (),
    fault: str = "",
    interrupted: bool = False,
) -> Report:
    """Make the report from the last snapshot.

    Args:
        snapshot: the last one.
        seconds: from start to end.
        threads: the most there were.
        missing: each tunnel that did not come back, and why.
        fault: the first wrong bytes, for people.
        interrupted: whether the user ended it.
    """
    return Report(
        tunnels=snapshot.tunnels,
        connected=snapshot.connected,
        streams_opened=snapshot.total("streams_opened"),
        bytes_sent=snapshot.total("sent_bytes"),
        bytes_received=snapshot.total("received_bytes"),
        bytes_mismatched=snapshot.mismatched_bytes,
        reconnects=snapshot.total("reconnects"),
        session_resets=snapshot.total("session_resets"),
        threads=threads,
        rss_bytes=snapshot.rss_bytes,
        seconds=seconds,
        bytes_verified=snapshot.verified_bytes,
        exchanges_completed=snapshot.exchanges_completed,
        exchanges_broken=snapshot.exchanges_broken,
        missing=missing,
        fault=fault,
        interrupted=interrupted,
    )
