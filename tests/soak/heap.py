"""What a process has in use of the memory that it holds: of C's allocator, and of Python's.

The resident memory of a process is what its allocators hold, with the holes in it. Where tunnels
come and go the holes grow for long, so whether something leaks is seen in what is in use: bytes of
glibc's malloc, which has what is above 512 bytes and all that OpenSSL takes, and blocks of
Python's own, which has what is smaller. Another process is asked over a Unix socket.
"""

from __future__ import annotations

import ctypes
import json
import socket
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MIB_BYTES = 1_048_576
ASK_SECONDS = 60.0
MAX_ANSWER_BYTES = 4_096
ASKERS = 8

PROGRAM_TEXT = """
import sys
from pathlib import Path
from tests.soak.heap import answer_heap
from tunnelfleet.runtime.cli import main

answer_heap(Path(sys.argv.pop(1)))
sys.exit(main())
"""
"""For `python -c`: the command line of `tunnelfleet` behind the path of the socket."""


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def heap() -> dict[str, float]:
    """What this process has in use: `blocks`; where malloc is glibc's, `heap MiB`.

    And then `held MiB`, which is that with its holes, and in how many `arenas`. What else there is
    of anonymous memory is Python's own allocator's, with holes as well, and stacks.
    """
    found = {"blocks": float(sys.getallocatedblocks())}
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = _Mallinfo2
        info = libc.mallinfo2()
        found["heap MiB"] = (info.uordblks + info.hblkhd) / MIB_BYTES
        found["held MiB"] = (info.arena + info.hblkhd) / MIB_BYTES
        found["arenas"] = float(_arenas(libc))
    return found


def _arenas(libc: ctypes.CDLL) -> int:
    """Among how many heaps the threads are divided: malloc_info(3) says it as XML."""
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    found = ctypes.string_at(text, size.value).count(b"<heap nr=")
    libc.free(text)
    return found


def answer_heap(path: Path) -> None:
    """Answer whoever connects to a Unix socket with `heap()` of this process, until it ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(ASKERS)

    def answer() -> None:
        while True:
            asker, _ = listener.accept()
            with asker:
                asker.sendall(json.dumps(heap()).encode())

    threading.Thread(target=answer, name="heap", daemon=True).start()


def heap_of(path: Path) -> dict[str, float]:
    """Ask a process that answers there.

    Raises:
        OSError: it does not.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ASK_SECONDS)
        sock.connect(str(path))
        text = b""
        while part := sock.recv(MAX_ANSWER_BYTES):
            text += part
    found: dict[str, float] = json.loads(text)
    return found
