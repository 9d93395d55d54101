"""What a demo came to.

Owns the numbers that `--json` prints, the summary for people, and what counts as success. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .units import counted, human_bytes, human_rate, human_seconds

if TYPE_CHECKING:
    from .snapshot import FleetSnapshot

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
        """Whether every byte was right and every tunnel came back, as far as it had the time."""
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
    """Sum up the last snapshot.

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
