"""Processes that do not outlive the one that has started them, however that one ends.

Owns the way to say so to the kernel, `PR_SET_PDEATHSIG` of prctl(2): a quickstart that is killed
leaves no sshd and no gateway behind. A few lines of Python stand between, as a process with threads
may run nothing of its own between fork and exec.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["owned"]

_LAUNCHER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):  # else it has gone in the meantime
    os.execv(sys.argv[2], sys.argv[2:])
"""


def owned(command: Sequence[str]) -> list[str]:
    """The command, to be run by the calling thread, that gets SIGTERM when this thread has ended.

    Args:
        command: a program by its whole path, and its arguments.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
