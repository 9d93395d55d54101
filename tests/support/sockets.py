"""Ports that are free, and what comes out of a socket until its end."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any

from tests.support.waiting import WAIT_SECONDS


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at the moment, for programs that cannot pick one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return port_of(sock)


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
