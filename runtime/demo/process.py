"""What the demo's process uses, and may use: threads, memory, file descriptors.

Owns the few questions to the operating system (Linux). Must not know tunnels beyond their number.
"""

from __future__ import annotations

import resource
import threading
from pathlib import Path
from typing import Final

from tunnelfleet.proto import ConfigError

FILES_PER_TUNNEL: Final = 32
"""Two WebSockets, each with two ends; six listeners; four connections, each with four ends."""
FILES_BESIDE: Final = 128

_STATM = Path("/proc/self/statm")


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def thread_count() -> int:
    """Return how many threads Python knows in this process."""
    return threading.active_count()


def allow_files_for(tunnels: int) -> None:
    """Raise this process's limit of open files to what so many tunnels take.

    Raises:
        ConfigError: the hard limit does not allow it; the message says how many tunnels it allows.
    """
    wanted = FILES_BESIDE + tunnels * FILES_PER_TUNNEL
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        most = max(0, (hard - FILES_BESIDE) // FILES_PER_TUNNEL)
        raise ConfigError(
            f"{tunnels} tunnels in one demo take {wanted} open files and this process may have "
            f"{hard}: use --tunnels {most} or less, or raise the limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
