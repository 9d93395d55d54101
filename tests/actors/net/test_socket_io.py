"""The small pieces of non-blocking input and output."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.support.forks import idle_child, in_child
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.net.socket_io import (
    READ_BYTES,
    TCP_NOTSENT_LOWAT,
    AcceptedSocket,
    abort_quietly,
    close_quietly,
    close_socket,
    discard_some,
    has_hung_up,
    is_would_block,
    peer_of,
    read_some,
    set_notsent_low_water,
    undelivered_bytes,
    wrap_tls,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.settimeout(WAIT_SECONDS)
    yield ours, theirs
    ours.close()
    theirs.close()


def wait_readable(sock: socket.socket) -> None:
    sock.settimeout(WAIT_SECONDS)
    sock.recv(1, socket.MSG_PEEK)
    sock.setblocking(False)


def test_the_peer_of_a_tcp_socket_is_its_address(pair: Pair) -> None:
    ours, theirs = pair
    host, port = ours.getsockname()
    assert peer_of(theirs, (host, port)) == (f"{host}:{port}", "")
    assert peer_of(theirs, ("::1", 22, 0, 0)) == ("[::1]:22", "")


def test_the_peer_of_a_unix_socket_is_its_process_and_user() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours, "") == (f"pid={os.getpid()}", f"uid={os.getuid()}")


def test_nothing_there_is_not_the_end(pair: Pair) -> None:
    ours, theirs = pair
    assert read_some(ours) is None
    theirs.close()
    wait_readable(ours)
    assert read_some(ours) == b""


def test_what_is_thrown_away_is_bounded_and_its_end_is_told(pair: Pair) -> None:
    ours, theirs = pair
    assert not discard_some(ours, READ_BYTES), "nothing is there, and more may come"
    theirs.sendall(b"x")
    wait_readable(ours)
    assert not discard_some(ours, READ_BYTES * 4)
    assert read_some(ours) is None, "it was read"
    theirs.sendall(b"x")
    theirs.close()
    wait_readable(ours)
    assert not discard_some(ours, READ_BYTES), "the limit comes before the end"
    assert discard_some(ours, READ_BYTES)


def test_what_stands_in_front_of_a_reset_is_thrown_away_before_it(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(bytes(READ_BYTES + 1))
    abort_quietly(theirs)
    eventually(lambda: has_hung_up(ours), "the reset is there")
    assert not discard_some(ours, READ_BYTES), "the limit comes before the reset"
    assert discard_some(ours, 2 * READ_BYTES)


def test_a_broken_connection_has_no_more_to_throw_away(pair: Pair) -> None:
    ours, theirs = pair
    abort_quietly(theirs)
    ready, _, _ = select.select([ours], [], [], 10)
    assert ready
    assert discard_some(ours, READ_BYTES)


def test_no_more_is_read_than_asked_for_nor_than_the_shared_buffer_holds(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"x" * 10)
    wait_readable(ours)
    assert read_some(ours, 4) == b"xxxx"
    assert read_some(ours, READ_BYTES * 10) == b"xxxxxx"


def test_what_was_read_stays_when_the_buffer_is_used_again(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"first")
    wait_readable(ours)
    first = read_some(ours)
    theirs.sendall(b"SECOND")
    wait_readable(ours)
    assert (first, read_some(ours)) == (b"first", b"SECOND")


def test_a_broken_connection_is_an_error(pair: Pair) -> None:
    ours, theirs = pair
    abort_quietly(theirs)
    with pytest.raises(ConnectionResetError):
        wait_readable(ours)
    theirs2, ours2 = socket.socketpair()
    theirs2.close()
    ours2.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_some(ours2)


def test_an_ordinary_close_is_an_ordinary_end(pair: Pair) -> None:
    ours, theirs = pair
    close_quietly(ours)
    assert theirs.recv(1) == b""
    close_quietly(ours)


def test_an_abort_is_a_reset_also_of_what_is_closed(pair: Pair) -> None:
    ours, theirs = pair
    abort_quietly(ours)
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)
    abort_quietly(ours)


def test_an_accepted_socket_that_is_dropped_is_reset(pair: Pair) -> None:
    ours, theirs = pair
    message = [AcceptedSocket(ours)]
    assert ours.fileno() < 0, "the descriptor is the other one's"
    del message[:]
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)


def test_an_accepted_socket_that_is_closed_ends_as_any_other(pair: Pair) -> None:
    ours, theirs = pair
    with AcceptedSocket(ours) as accepted:
        accepted.sendall(b"all")
    del accepted
    assert theirs.recv(3) == b"all"
    assert theirs.recv(1) == b""


def test_a_forked_child_that_drops_an_accepted_socket_ends_nothing(pair: Pair) -> None:
    ours, theirs = pair
    message = [AcceptedSocket(ours)]

    def drop() -> str:
        del message[:]
        return "dropped"

    assert in_child(drop) == "'dropped'"
    message[0].sendall(b"still here")
    assert theirs.recv(10) == b"still here"
    message[0].close()
    assert theirs.recv(1) == b"", "an ordinary end"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BlockingIOError(), True),
        (ssl.SSLWantWriteError(), True),
        (ssl.SSLWantReadError(), True),
        (ConnectionResetError(), False),
        (BrokenPipeError(), False),
        (ssl.SSLError(), False),
    ],
)
def test_would_block_is_told_from_broken(error: OSError, expected: bool) -> None:
    assert is_would_block(error) is expected


def test_the_low_water_mark_is_set_where_there_is_one(pair: Pair) -> None:
    ours, _ = pair
    set_notsent_low_water(ours, 12_345)
    assert ours.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 12_345
    unix, other = socket.socketpair()
    with unix, other:
        set_notsent_low_water(unix, 12_345)


@pytest.mark.parametrize("end", [close_socket, abort_quietly])
def test_an_end_is_one_although_a_child_holds_the_descriptor(
    end: Callable[[socket.socket], None],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname(), timeout=WAIT_SECONDS)
        theirs, _ = server.accept()
    theirs.settimeout(WAIT_SECONDS)
    with theirs, idle_child():
        end(ours)
        if end is close_socket:
            assert theirs.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                theirs.recv(1)


def test_a_listener_is_closed_although_a_child_holds_it() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    with idle_child():
        close_socket(listener)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=WAIT_SECONDS)


def test_a_unix_socket_too() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(WAIT_SECONDS)
    with theirs, idle_child():
        abort_quietly(ours)
        assert theirs.recv(1) == b""


# -- what is under way, and who has gone


@pytest.fixture(params=["tcp", "unix"])
def either(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A pair of TCP sockets, then one of Unix sockets."""
    if request.param == "tcp":
        yield request.getfixturevalue("pair")
        return
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(WAIT_SECONDS)
    with ours, theirs:
        yield ours, theirs


def test_what_was_written_is_undelivered_until_the_other_side_has_room_for_it(pair: Pair) -> None:
    ours, theirs = pair
    assert undelivered_bytes(ours) == 0
    written = 0
    with contextlib.suppress(BlockingIOError):
        while written < 50_000_000:
            written += ours.send(b"x" * 65_536)
    held_bytes = undelivered_bytes(ours)
    assert 0 < held_bytes < written, "some is in the buffer of the other side already"
    read = 0
    while read < written:
        read += len(theirs.recv(1_048_576))
    eventually(lambda: undelivered_bytes(ours) == 0)


def test_a_unix_socket_has_nothing_undelivered() -> None:
    unix, other = socket.socketpair()
    with unix, other:
        unix.send(b"x" * 1_000)
        assert undelivered_bytes(unix) == 0


def test_what_nobody_can_be_given_any_more_is_not_waited_for(pair: Pair) -> None:
    ours, theirs = pair
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(b"x" * 65_536)
    abort_quietly(theirs)
    eventually(lambda: undelivered_bytes(ours) == 0)


def test_who_is_there_has_not_hung_up(either: Pair) -> None:
    ours, theirs = either
    assert not has_hung_up(ours)
    theirs.sendall(b"x")
    assert not has_hung_up(ours)
    theirs.shutdown(socket.SHUT_WR)
    wait_readable(ours)
    assert not has_hung_up(ours), "it sends no more, and still takes"
    ours.send(b"y")
    assert theirs.recv(1) == b"y"


def test_who_has_reset_or_closed_both_directions_has_hung_up(either: Pair) -> None:
    ours, theirs = either
    theirs.shutdown(socket.SHUT_WR)
    abort_quietly(theirs)
    eventually(lambda: has_hung_up(ours))
    assert has_hung_up(ours), "to look at it takes nothing away"


def test_who_has_closed_after_both_ends_has_hung_up(either: Pair) -> None:
    ours, theirs = either
    ours.shutdown(socket.SHUT_WR)
    theirs.close()
    eventually(lambda: has_hung_up(ours))


def test_tls_with_who_has_reset_the_connection_leaves_no_socket_behind(pair: Pair) -> None:
    ours, theirs = pair
    abort_quietly(theirs)
    eventually(lambda: not _has_peer(ours), "the reset")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(OSError, match="not connected"):
        wrap_tls(context, ours, server_side=True)
    assert ours.fileno() >= 0, "still its owner's to close"


class Reset(socket.socket):
    """Is told of a reset only after it was asked whether there is one."""

    def getpeername(self) -> object:
        return "somebody"


def test_a_reset_while_tls_begins_leaves_no_socket_behind(pair: Pair) -> None:
    ours, theirs = pair
    abort_quietly(theirs)
    eventually(lambda: not _has_peer(ours), "the reset")
    descriptor = ours.detach()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ConnectionResetError) as caught:
        wrap_tls(context, Reset(fileno=descriptor), server_side=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert caught.value.__traceback__ is not None, "which would have kept it"


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
