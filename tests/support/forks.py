"""Children that a test forks: what they do is bounded, and they leave no trace in the test."""

from __future__ import annotations

import os
import signal
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHILD_SECONDS = 60


def fork() -> int:
    """Fork a process with threads, which Python 3.12 and later warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_child(function: Callable[[], object]) -> str:
    """What `function()` comes to in a forked child: `repr` of its value, or of its exception."""
    reads, writes = os.pipe()
    pid = fork()
    if pid == 0:
        # Its default action ends a child that hangs.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_SECONDS)
        try:
            result = repr(function())
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writes, result.encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended by {status}, having said {said!r}"
    return said


@contextmanager
def idle_child() -> Iterator[None]:
    """A child that holds every descriptor of this process and does nothing."""
    reads, writes = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(writes)
        signal.alarm(10 * CHILD_SECONDS)
        os.read(reads, 1)
        os._exit(0)
    os.close(reads)
    try:
        yield
    finally:
        os.close(writes)
        os.waitpid(pid, 0)
