"""How fast a tunnel may send, and how fast it does: a token bucket and a rate meter.

Pure: the time is an argument. Owns no queue (`fair_queue` does) and no timer (TunnelActor does).
"""

from __future__ import annotations

from tunnelfleet.actors.token_bucket import TokenBucket

PACED_FRACTION = 0.95
"""A little below the limit, so that the queue forms here, not in the service.

See docs/architecture.md section 6.
"""
BURST_SECONDS = 0.02
PAYLOAD_SECONDS = 0.02
"""A DATA payload holds the wire for about this long: a keystroke never waits behind more."""
MIN_PAYLOAD_BYTES = 1_024
METER_SECONDS = 0.05
METER_WEIGHT = 0.5
FAST_BYTES_PER_SECOND = 8_000_000.0
"""Above this rate 64 KB leave in less than 10 ms: full payloads and windows cost nobody."""


def pacing_bucket(bytes_per_second: float, now: float) -> TokenBucket:
    """Return the bucket of a tunnel with a bandwidth, whose tokens are bytes on the wire.

    Args:
        bytes_per_second: the rate limit; the bucket fills at `PACED_FRACTION` of it.
        now: monotonic seconds.
    """
    rate = bytes_per_second * PACED_FRACTION
    return TokenBucket(rate, max(rate * BURST_SECONDS, 1.0), now)


class RateMeter:
    """The rate at which a busy link takes bytes; it forgets nothing while the link is idle.

    Attributes:
        bytes_per_second: None until a busy link has been measured for `METER_SECONDS`.
        busy_since: when the present measurement began; None while the link has nothing to send.
    """

    __slots__ = ("_bytes", "busy_since", "bytes_per_second")

    def __init__(self) -> None:
        self.bytes_per_second: float | None = None
        self._bytes = 0
        self.busy_since: float | None = None

    def busy(self, now: float) -> None:
        """The link has bytes waiting at `now`."""
        if self.busy_since is None:
            self.busy_since = now
            self._bytes = 0

    def idle(self) -> None:
        """The link has nothing to send: the count since `busy` says nothing about its speed."""
        self.busy_since = None

    def took(self, size_bytes: int, now: float) -> None:
        """The link took `size_bytes` at `now`."""
        if self.busy_since is None:
            return
        self._bytes += size_bytes
        elapsed = now - self.busy_since
        if elapsed < METER_SECONDS:
            return
        rate = self._bytes / elapsed
        known = self.bytes_per_second
        self.bytes_per_second = rate if known is None else known + METER_WEIGHT * (rate - known)
        self.busy_since = now
        self._bytes = 0


def payload_bytes_for_rate(bytes_per_second: float | None, max_payload_bytes: int) -> int:
    """The largest DATA payload to send over a link of that speed (None: not known, or fast)."""
    if bytes_per_second is None or bytes_per_second >= FAST_BYTES_PER_SECOND:
        return max_payload_bytes
    wanted = int(bytes_per_second * PAYLOAD_SECONDS)
    return max(min(wanted, max_payload_bytes), min(MIN_PAYLOAD_BYTES, max_payload_bytes))
