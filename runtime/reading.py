"""Reading what may be no file: a pipe is waited for, though not for ever.

It is for paths that somebody has configured. A loader that waited for a writer that never comes
would hold up every later reload. Owns how long that is; what is in a file is its reader's.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import time
from typing import TypeAlias

PIPE_SECONDS = 5.0
"""How long what is no file, such as a pipe, may keep its reader waiting in all."""
_PART_BYTES = 1_048_576

Path: TypeAlias = "str | os.PathLike[str]"


def open_at_once(path: str, flags: int) -> int:
    """Open a file and wait for nobody; an `opener` of `open`."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_at_once(path: Path, limit_bytes: int) -> bytes:
    """Return what is in a file, or what comes out of a pipe soon.

    Args:
        path: of the file.
        limit_bytes: the most that is wanted. More than that is returned if there is more, and not
            all of it.

    Raises:
        OSError: it cannot be read, or nobody writes into the pipe.
    """
    # A pipe that nobody writes to would be waited for in `open` already.
    with open(path, "rb", buffering=0, opener=open_at_once) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            with io.BufferedReader(file) as reader:
                return reader.read(limit_bytes + 1)
        # No size tells how much comes out of it.
        parts: list[bytes] = []
        poll, until = select.poll(), time.monotonic() + PIPE_SECONDS
        poll.register(file, select.POLLIN)
        while sum(map(len, parts)) <= limit_bytes:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1_000):
                text = f"it is a pipe, and nobody has written all into it for {PIPE_SECONDS:g} s"
                raise OSError(errno.ETIMEDOUT, f"{text}; name a file")
            part = file.read(_PART_BYTES)
            if part == b"":
                break
            parts.append(part or b"")
        return b"".join(parts)
