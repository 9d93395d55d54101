"""`is_drained`: whether a socket has more, without the read that finds nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually
from tunnelfleet.actors.net.socket_io import FEW_BYTES
from tunnelfleet.actors.transport.established import is_drained
from tunnelfleet.runtime.service.tls import ensure_certificate, server_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ours = stack.enter_context(socket.create_connection(server.getsockname()))
        theirs = stack.enter_context(server.accept()[0])
        yield ours, theirs


@pytest.mark.parametrize("read_bytes", [0, FEW_BYTES, 10 * FEW_BYTES])
def test_after_nothing_and_after_much_one_reads_again(
    pair: tuple[socket.socket, socket.socket], read_bytes: int
) -> None:
    assert not is_drained(pair[0], read_bytes)


def test_after_a_few_bytes_nothing_is_expected(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"few")
    assert is_drained(ours, len(ours.recv(100)))


def test_a_reset_behind_the_bytes_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()

    def is_told() -> bool:
        try:
            is_drained(ours, 1)
        except ConnectionResetError:
            return True
        return False

    eventually(is_told, "the reset is told")


def test_what_tls_has_taken_apart_is_more(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    client = ssl.create_default_context(cafile=str(files.ca))
    server = server_context(files.certificate, files.private_key)
    with (
        client.wrap_socket(
            pair[0], server_hostname="127.0.0.1", do_handshake_on_connect=False
        ) as ours,
        server.wrap_socket(pair[1], server_side=True, do_handshake_on_connect=False) as theirs,
    ):
        _shake_hands(ours, theirs)
        theirs.sendall(b"few")
        assert not is_drained(ours, len(ours.recv(1)))
        assert is_drained(ours, len(ours.recv(100)))


def _shake_hands(*ends: ssl.SSLSocket) -> None:
    """Both in this thread."""
    left = list(ends)
    for end in ends:
        end.setblocking(False)
    while left:
        for end in tuple(left):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                left.remove(end)
    for end in ends:
        end.setblocking(True)
