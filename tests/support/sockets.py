"""Ports that are free, what comes out of a socket until its end, and very many descriptors."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

SELECT_DESCRIPTORS = 1_024
"""So many select() takes."""
MANY_DESCRIPTORS = 4_096
LOWEST_FREE_PORT = 10_240
CALLERS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Linux: the ports that callers are given."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, for programs that cannot pick one, and for nobody at all.

    It is below those that the kernel gives to whoever calls or asks for any port, so that it stays
    free until it is used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    below = int(CALLERS_PORTS.read_text().split()[0]) if CALLERS_PORTS.exists() else 32_768
    # Not the seeded one: others run tests on this machine at the same time.
    for port in random.SystemRandom().sample(range(LOWEST_FREE_PORT, max(below, 20_480)), 100):
        with socket.socket(family, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
            sock.bind((host, port))
            return port
    raise AssertionError("no port is free")


def port_of(server: socket.socket) -> int:
    port: int = server.getsockname()[1]
    return port


def read_to_end(sock: socket.socket) -> bytes:
    """Return what comes until the other side ends; a reset is an end."""
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65_536):
            chunks.append(chunk)
    return b"".join(chunks)


def is_closed(sock: Any) -> bool:
    """Whether the other side ends, in good order or with a reset, before it sends a byte."""
    readable, _, _ = select.select([sock], [], [], WAIT_SECONDS)
    if not readable:
        return False
    try:
        return bool(sock.recv(1) == b"")
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """A block in which all those that select() takes are in use, as with 1,000 clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MANY_DESCRIPTORS), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(SELECT_DESCRIPTORS):
            stack.enter_context(Path(os.devnull).open("rb"))
        yield
