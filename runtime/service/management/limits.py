"""How much the management API lets callers have, and how often they may ask.

Owns the numbers, those of AWS among them, and the counting of a rate.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

from tunnelfleet.actors.token_bucket import TokenBucket
from tunnelfleet.proto import ConfigError

from .errors import LimitExceeded, Throttled

MAX_LIFETIME_MINUTES: Final = 720
"""Of the model; the default too, as with AWS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagementLimits:
    """Limits of the management API.

    Attributes:
        open_tunnels: open at once.
        services: of one tunnel.
        tags: of one tunnel.
        opens_per_second: how often OpenTunnel may be called on average; None: as often as one
            likes.
        bandwidth_bytes_per_second: of each direction of each tunnel that is opened so; None: that
            of the service.

    Raises:
        ConfigError: one is not above 0.
    """

    open_tunnels: int = 10_000
    services: int = 256
    tags: int = 50
    opens_per_second: float | None = None
    bandwidth_bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        if self.open_tunnels < 1:
            raise ConfigError(f"at least 1 tunnel may be open, not {self.open_tunnels}")


AWS_SERVICES: Final = 3
AWS_OPENS_PER_SECOND: Final = 1.0
AWS_BANDWIDTH: Final = 100_000.0
"""800 kbit/s."""


def aws_limits(open_tunnels: int = ManagementLimits().open_tunnels) -> ManagementLimits:
    """Return AWS's limits, as docs/protocol.md has them from its public pages."""
    return ManagementLimits(
        open_tunnels=open_tunnels,
        services=AWS_SERVICES,
        opens_per_second=AWS_OPENS_PER_SECOND,
        bandwidth_bytes_per_second=AWS_BANDWIDTH,
    )


class Gate:
    """Lets calls pass at a rate.

    Args:
        per_second: the rate; None lets all pass.
    """

    def __init__(self, per_second: float | None) -> None:
        self._lock = threading.Lock()
        self._bucket = None
        if per_second is not None:
            self._bucket = TokenBucket(per_second, max(per_second, 1.0), time.monotonic())

    def pass_through(self, what: str) -> None:
        """Count a call.

        Raises:
            Throttled: there were too many.
        """
        if self._bucket is None:
            return
        now = time.monotonic()
        with self._lock:
            if self._bucket.wait_seconds(now, 1) > 0:
                raise Throttled(f"Rate exceeded for {what}")
            self._bucket.take(1, now)


def check_count(count: int, limit: int, what: str) -> None:
    """Raise LimitExceeded if there would be too many."""
    if count > limit:
        raise LimitExceeded(f"There may be at most {limit} {what}, not {count}")
