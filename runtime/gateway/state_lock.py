"""One gateway at a time on a folder of state.

Owns the lock file. Two gateways with the same state would run the same tunnels, and throw each
other out of them again and again. The kernel lets go of the lock when the process ends, however it
ends; the file stays, and says nothing by being there.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from typing import TYPE_CHECKING

from tunnelfleet.proto import ConfigError

from .config.paths import make_private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LOCK_NAME", "state_lock"]

LOCK_NAME = "gateway.lock"
MAX_PID_DIGITS = 10

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def state_lock(folder: Path) -> Iterator[None]:
    """Hold the folder of a gateway's state while the block runs.

    Args:
        folder: of the state; made if need be.

    Raises:
        ConfigError: another gateway holds it; the message names its process.
    """
    path = folder / LOCK_NAME
    try:
        make_private_folder(folder)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (ConfigError, OSError) as error:
        # Nothing can be kept there, so nobody else can have it either: whoever has to write
        # there says so.
        logger.debug("no lock on %s: %s", folder, error)
        yield
        return
    try:
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = os.pread(descriptor, MAX_PID_DIGITS, 0).decode("ascii", "replace").strip()
        who = f" (process {found})" if found.isdecimal() else ""
        raise ConfigError(
            f"another gateway{who} runs with the state in {folder}: stop it, or give this one a "
            "state of its own by gateway.state or STATE_DIRECTORY"
        ) from None
    except OSError as error:
        # A file system without locks, such as some of the network.
        logger.warning("the state in %s cannot be locked: %s", folder, error.strerror)
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
