"""Times that people write: `2h` ago, or a date. Pure."""

from __future__ import annotations

import datetime
import re
from typing import Final

from tunnelfleet.proto import ConfigError

__all__ = ["read_time"]

_AGO: Final = re.compile(r"(\d+)\s*([smhdw])(?:\s+ago)?", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def read_time(text: str, now: float, option: str) -> float:
    """Read a time, in seconds of the Unix epoch.

    Args:
        text: `90s`, `15m`, `2h`, `7d` or `1w` before now; an ISO date, of the local time zone
            unless it names one; or seconds of the Unix epoch.
        now: in seconds of the Unix epoch.
        option: for the message.

    Raises:
        ConfigError: it is none of them.
    """
    if found := _AGO.fullmatch(text.strip()):
        return now - int(found[1]) * _UNITS[found[2]]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option} {text}: write 90s, 15m, 2h, 7d, or a date as 2026-01-31T12:00"
        ) from None
