"""The process, or the system, has no file descriptor or memory left for one more socket.

Owns which errors say so, and the one log line about them. Every connection fails at such a time,
so a line for each would fill the disk: there is one in `LOG_INTERVAL_SECONDS`, with their number.
"""

from __future__ import annotations

import errno
import threading
import time

from tunnelfleet.actors.kernel.log import get_logger

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
LOG_INTERVAL_SECONDS = 30.0

logger = get_logger(__name__)


def is_exhausted(error: BaseException | None) -> bool:
    """Whether `error`, or its cause, says that the system has no descriptor or memory left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return True
        error = error.__cause__
    return False


class ExhaustionLog:
    """Writes a runtime's one log line about exhaustion. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged_at: float | None = None
        self._count = 0

    def note(self, what: str, error: BaseException) -> None:
        """Say that `what` failed because of `error`, unless that was said a moment ago."""
        now = time.monotonic()
        with self._lock:
            self._count += 1
            if self._logged_at is not None and now - self._logged_at < LOG_INTERVAL_SECONDS:
                return
            self._logged_at = now
            count, self._count = self._count, 0
        logger.warning(
            "%s failed: %s (%d such failure(s) since the last line; the next line comes in %g s at "
            "the earliest): raise the limit of open files, or take fewer connections",
            what,
            getattr(error, "strerror", None) or error,
            count,
            LOG_INTERVAL_SECONDS,
        )
