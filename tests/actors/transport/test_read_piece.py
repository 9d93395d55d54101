"""What is read at once: records that are joined, and whether there is more.

Without the read that finds nothing, where that can be known.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import socket
import ssl
import struct
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually
from tunnelfleet.actors.net.socket_io import (
    FEW_BYTES,
    discard_some,
    forget_tls_errors,
    has_hung_up,
    undelivered_bytes,
)
from tunnelfleet.actors.transport.established import (
    RECORD_BYTES,
    RECORDS_JOINED,
    FrameWriter,
    ReadEnd,
    read_piece,
    true_end,
)
from tunnelfleet.runtime.service.tls import ensure_certificate, server_context

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ours = stack.enter_context(socket.create_connection(server.getsockname()))
        theirs = stack.enter_context(server.accept()[0])
        yield ours, theirs


@pytest.mark.parametrize("size_bytes", [1, FEW_BYTES, 10 * FEW_BYTES])
def test_a_read_that_is_not_full_was_the_last(
    pair: tuple[socket.socket, socket.socket], size_bytes: int
) -> None:
    ours, theirs = pair
    theirs.sendall(bytes(size_bytes))
    eventually(lambda: waiting_bytes(ours) == size_bytes)
    assert read_piece(ours, size_bytes + 1) == (bytes(size_bytes), 1, ReadEnd.DRAINED, None)


def test_behind_a_full_read_there_may_be_more(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(bytes(10))
    eventually(lambda: waiting_bytes(ours) == 10)
    assert read_piece(ours, 10).end is ReadEnd.FULL


def test_a_reset_behind_the_bytes_is_read_behind_them(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.sendall(b"few")
    reset(ours, theirs)
    assert read_piece(ours, 100) == (b"few", 1, ReadEnd.DRAINED, None)
    piece = read_piece(ours, 100)
    assert piece[:3] == (b"", 0, ReadEnd.BROKEN)
    assert isinstance(piece.error, ConnectionResetError)
    assert piece.error.__traceback__ is None, "it would hold the frames that it came through"


def reset(ours: socket.socket, theirs: socket.socket) -> None:
    """Break the connection from the other side, behind all that it has sent."""
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: undelivered_bytes(theirs) == 0, "the reset destroys none of it")
    socket.socket.close(theirs)
    eventually(lambda: has_hung_up(ours), "the reset is there")


@pytest.fixture
def tls_pair(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    with with_tls(pair, tmp_path) as made:
        yield made


@contextlib.contextmanager
def with_tls(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    client = ssl.create_default_context(cafile=str(files.ca))
    server = server_context(files.own())
    with (
        client.wrap_socket(
            pair[0], server_hostname="127.0.0.1", do_handshake_on_connect=False
        ) as ours,
        server.wrap_socket(pair[1], server_side=True, do_handshake_on_connect=False) as theirs,
    ):
        _shake_hands(ours, theirs)
        yield ours, theirs


def test_what_tls_has_taken_apart_is_more(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    ours, theirs = tls_pair
    theirs.sendall(b"few")
    assert read_piece(ours, 1) == (b"f", 1, ReadEnd.FULL, None)
    assert read_piece(ours, 100) == (b"ew", 1, ReadEnd.DRAINED, None)


LIMIT_BYTES = 4 * RECORD_BYTES
RECORD_OVERHEAD_BYTES = 22
"""Of a record of TLS 1.3: header, type, tag."""


def waiting_bytes(sock: socket.socket) -> int:
    """How much the kernel has for a socket: it may deliver later than `send` returns."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_records_that_are_there_are_joined(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    ours, theirs = tls_pair
    theirs.sendall(b"a" * RECORD_BYTES + b"b" * 9_000)
    theirs.sendall(b"c")
    has_all = RECORD_BYTES + 9_000 + 1 + 3 * RECORD_OVERHEAD_BYTES
    eventually(lambda: waiting_bytes(ours) >= has_all, "all is there")
    ours.setblocking(False)
    assert read_piece(ours, LIMIT_BYTES) == (
        b"a" * RECORD_BYTES + b"b" * 9_000 + b"c",
        3,
        ReadEnd.DRAINED,
        None,
    )


MESSAGE = b"m" * (LIMIT_BYTES - 1_000)


@pytest.mark.parametrize("limit_bytes", [len(MESSAGE), LIMIT_BYTES], ids=["known", "guessed"])
def test_a_piece_ends_where_a_message_does(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket], limit_bytes: int
) -> None:
    ours, theirs = tls_pair
    for _ in range(3):
        theirs.sendall(MESSAGE)
    for _ in range(3):
        assert read_piece(ours, limit_bytes) == (MESSAGE, 4, ReadEnd.FULL, None)
    assert not ours.pending()


def test_records_of_a_byte_are_not_joined_without_end(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    ours, theirs = tls_pair
    theirs.sendall(b"x" * FEW_BYTES)
    for _ in range(2 * RECORDS_JOINED):
        theirs.sendall(b"x")
    piece = read_piece(ours, LIMIT_BYTES)
    assert (piece.reads, piece.end) == (RECORDS_JOINED, ReadEnd.FULL)


def test_less_than_a_record_may_be_asked_for(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    ours, theirs = tls_pair
    theirs.sendall(b"x" * 300)
    assert read_piece(ours, 100) == (b"x" * 100, 1, ReadEnd.FULL, None)
    assert ours.pending() == 200


def test_nothing_is_an_empty_piece(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].setblocking(False)
    assert read_piece(pair[0], 100) == (b"", 0, ReadEnd.DRAINED, None)


def test_without_tls_one_read_is_a_piece(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"x" * (2 * FEW_BYTES))
    assert read_piece(ours, FEW_BYTES) == (b"x" * FEW_BYTES, 1, ReadEnd.FULL, None)


def test_an_end_behind_records_comes_with_them(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    ours, theirs = tls_pair
    theirs.sendall(b"x" * FEW_BYTES)
    theirs.shutdown(socket.SHUT_WR)
    assert read_piece(ours, LIMIT_BYTES) == (b"x" * FEW_BYTES, 1, ReadEnd.CLOSED, None)


@pytest.mark.parametrize(
    ("size_bytes", "pieces"),
    [
        pytest.param(10, [1, 1, 1, 0], id="small ones each by itself"),
        pytest.param(FEW_BYTES, [3], id="large ones together, and the end with them"),
    ],
)
def test_records_in_front_of_a_reset_are_read(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket], size_bytes: int, pieces: list[int]
) -> None:
    ours, theirs = tls_pair
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sent = [bytes([number]) * size_bytes for number in range(3)]
    for each in sent:
        theirs.sendall(each)
    reset(ours, theirs)
    found = [read_piece(ours, LIMIT_BYTES) for _ in pieces]
    assert [piece.reads for piece in found] == pieces
    assert b"".join(piece.data for piece in found) == b"".join(sent)
    assert all(piece.end is ReadEnd.DRAINED for piece in found[:-1])
    # Releases of OpenSSL differ in what they make of it.
    last = true_end(ours, found[-1])
    assert last[:3] == (found[-1].data, found[-1].reads, ReadEnd.BROKEN)
    assert isinstance(last.error, ConnectionResetError)


def test_an_end_is_no_reset_while_the_other_side_may_hear_us(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    ours, theirs = tls_pair
    theirs.sendall(b"last")
    theirs.shutdown(socket.SHUT_WR)
    read = [read_piece(ours, LIMIT_BYTES) for _ in range(2)]
    assert read == [(b"last", 1, ReadEnd.DRAINED, None), (b"", 0, ReadEnd.CLOSED, None)]
    assert [true_end(ours, piece) for piece in read] == read


def test_a_break_behind_records_comes_with_them(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    ours, theirs = tls_pair
    theirs.sendall(b"x" * FEW_BYTES)
    with socket.socket(fileno=theirs.detach()) as plain:
        plain.sendall(b"this is no record of TLS")
        piece = read_piece(ours, LIMIT_BYTES)
    assert piece[:3] == (b"x" * FEW_BYTES, 1, ReadEnd.BROKEN)
    assert isinstance(piece.error, ssl.SSLError)
    assert piece.error.__traceback__ is None, "it would hold the frames that it came through"


@pytest.fixture
def sound(tmp_path: Path) -> Iterator[ssl.SSLSocket]:
    """One end of another connection, which has nothing to read."""
    # Not TCP, on which an error may be looked for.
    ours, theirs = socket.socketpair()
    with ours, theirs, with_tls((ours, theirs), tmp_path) as (sound, _):
        sound.setblocking(False)
        assert read_piece(sound, LIMIT_BYTES).end is ReadEnd.DRAINED
        yield sound


class TestOneThatBroke:
    """It is no matter of another one of the same thread, which OpenSSL's errors belong to."""

    @staticmethod
    def break_it(ours: ssl.SSLSocket, theirs: ssl.SSLSocket) -> None:
        """A reset, which is taken note of: TLS comes to an end, and can tell nobody of it."""
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.close(theirs)
        eventually(lambda: ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0, "the reset")
        ours.setblocking(False)

    def test_by_a_read(
        self, tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket], sound: ssl.SSLSocket
    ) -> None:
        self.break_it(*tls_pair)
        assert read_piece(tls_pair[0], LIMIT_BYTES) == (b"", 0, ReadEnd.CLOSED, None)
        assert read_piece(sound, LIMIT_BYTES) == (b"", 0, ReadEnd.DRAINED, None)

    def test_by_throwing_away(
        self, tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket], sound: ssl.SSLSocket
    ) -> None:
        self.break_it(*tls_pair)
        assert discard_some(tls_pair[0], LIMIT_BYTES)
        assert read_piece(sound, LIMIT_BYTES) == (b"", 0, ReadEnd.DRAINED, None)

    def test_by_a_write(
        self, tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket], sound: ssl.SSLSocket
    ) -> None:
        self.break_it(*tls_pair)
        writer = FrameWriter()
        writer.add(b"x")
        with pytest.raises(OSError, match=r"Broken pipe|EOF occurred"):
            writer.write(tls_pair[0])
        assert read_piece(sound, LIMIT_BYTES) == (b"", 0, ReadEnd.DRAINED, None)

    def test_whatever_it_leaves_is_forgotten(self, sound: ssl.SSLSocket) -> None:
        """Not every release of Python leaves something; here it is left by hand."""
        leave_tls_error(errno.EPIPE)
        with pytest.raises(OSError, match=r".+"):
            sound.read(1)
        leave_tls_error(errno.EPIPE)
        forget_tls_errors()
        assert read_piece(sound, LIMIT_BYTES) == (b"", 0, ReadEnd.DRAINED, None)


OF_THE_SYSTEM = 2
"""ERR_LIB_SYS in OpenSSL's err.h."""


def leave_tls_error(number: int) -> None:
    """Leave an error of the system in OpenSSL's list of this thread."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    library = ctypes.CDLL(next(word for word in maps.split() if "libcrypto.so" in word))
    library.ERR_new()
    library.ERR_set_error(OF_THE_SYSTEM, number, None)


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
