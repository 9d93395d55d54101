"""Rates: a token bucket, the throttle of a service, and how people write a bandwidth.

Pure. It knows no socket and no timer: the caller passes the time in, and waits as long as it is
told.
"""

from __future__ import annotations

import re
from typing import Final

from tunnelfleet.proto import ConfigError

_ROUNDING: Final = 1e-3
"""A part of what is wanted that may be missing: who has waited as told must not have to wait again
because a time was rounded. It is taken from the level all the same, so the rate is kept."""


class TokenBucket:
    """A level that rises at a rate up to a capacity, and may be overdrawn.

    Args:
        rate_per_second: tokens that it gains; more than 0.
        capacity: the most that it holds.
        now: seconds on the clock that later calls use.
        level: what it starts with; `capacity` when None.
    """

    __slots__ = ("_level", "_updated", "capacity", "rate_per_second")

    def __init__(
        self, rate_per_second: float, capacity: float, now: float, level: float | None = None
    ) -> None:
        self.rate_per_second = rate_per_second
        self.capacity = capacity
        self._level = capacity if level is None else level
        self._updated = now

    def wait_seconds(self, now: float, wanted: float = 1.0) -> float:
        """Return how long to wait until `wanted` tokens are there; 0 when they are."""
        self._refill(now)
        missing = wanted - self._level
        return missing / self.rate_per_second if missing > wanted * _ROUNDING else 0.0

    def take(self, tokens: float, now: float) -> None:
        """Take tokens. The level may fall below 0: then the debt is waited out first."""
        self._refill(now)
        self._level -= tokens

    def _refill(self, now: float) -> None:
        gained = (now - self._updated) * self.rate_per_second
        self._level = min(self.capacity, self._level + gained)
        self._updated = now


BURST_SECONDS = 0.05
"""How much unused allowance is kept; more would let a queue build behind the bucket."""

QUANTUM_SECONDS = 0.02
"""How much is read at a time: a fine grain keeps the queue with the sender."""

MIN_QUANTUM_BYTES = 512
MAX_QUANTUM_BYTES = 16_384


class Throttle:
    """Allowance for one direction of a throttled tunnel.

    Args:
        bytes_per_second: the rate; more than 0.
        now_seconds: the current time on the clock that later calls use.

    Attributes:
        bytes_per_second: the rate.
        quantum_bytes: how much is read at a time.

    Raises:
        ConfigError: the rate is not above 0.
    """

    __slots__ = ("_bucket", "bytes_per_second", "quantum_bytes")

    def __init__(self, bytes_per_second: float, now_seconds: float) -> None:
        if not bytes_per_second > 0:
            raise ConfigError(f"a bandwidth must be above 0 bytes a second, not {bytes_per_second}")
        self.bytes_per_second = float(bytes_per_second)
        wanted = int(self.bytes_per_second * QUANTUM_SECONDS)
        self.quantum_bytes = min(max(wanted, MIN_QUANTUM_BYTES), MAX_QUANTUM_BYTES)
        burst_bytes = max(self.bytes_per_second * BURST_SECONDS, self.quantum_bytes)
        self._bucket = TokenBucket(
            self.bytes_per_second, burst_bytes, now_seconds, self.quantum_bytes
        )

    def wait_seconds(self, now_seconds: float) -> float:
        """Return how long to wait before the next quantum may be read; 0 when it may be now."""
        return self._bucket.wait_seconds(now_seconds, self.quantum_bytes)

    def spend(self, count_bytes: int, now_seconds: float) -> None:
        """Take what was read off the level, which may fall below 0: a debt is waited out."""
        self._bucket.take(count_bytes, now_seconds)


KERNEL_BUFFER_SECONDS = 0.1
"""How much of a throttled rate the kernel may take in advance."""
MIN_KERNEL_BUFFER_BYTES = 32_768
"""With 16 KiB a sender on loopback, whose segments are as large, stalls (measured)."""
MAX_KERNEL_BUFFER_BYTES = 262_144


def kernel_buffer_bytes(bytes_per_second: float | None) -> int:
    """Return the kernel's receive buffer for a bandwidth; None for no limit."""
    if bytes_per_second is None:
        return MAX_KERNEL_BUFFER_BYTES
    wanted = int(bytes_per_second * KERNEL_BUFFER_SECONDS)
    return min(max(wanted, MIN_KERNEL_BUFFER_BYTES), MAX_KERNEL_BUFFER_BYTES)


_RATE = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?:(?P<prefix>[kKMG]?)(?P<unit>bit|B)/s)?$")
_PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}


def parse_rate(text: str) -> float:
    """Return a rate in bytes per second from ``12500``, ``100kB/s`` or ``800kbit/s``.

    Raises:
        ConfigError: it is not a rate, or it is 0.
    """
    match = _RATE.match(text.strip())
    if match is None:
        raise ConfigError(f"not a rate: {text!r}; write it as 12500 (bytes/s), 100kB/s, 800kbit/s")
    rate = float(match["number"]) * _PREFIXES[match["prefix"] or ""]
    rate = rate / 8 if match["unit"] == "bit" else rate
    if rate <= 0:
        raise ConfigError("a rate must be above 0; leave it out for no limit")
    return rate
