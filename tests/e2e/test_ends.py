"""Closing and draining tunnels while bytes are under way: nothing that was read is lost."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB, blocks, digest
from tests.support.rig import connect, echo, receive_exactly, receive_to_end
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.net.socket_io import undelivered_bytes
from tunnelfleet.runtime import Mode, TunnelState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rig import Pair, Rig
    from tunnelfleet.runtime import Address

ENDLESS_BYTES = 10_000 * MIB
SLOW_BYTES_PER_SECOND = 4.0 * MIB
BUFFERED_BYTES = 50_000
"""Fits into the receive buffer of the tunnel's local socket, so that it is there to be read."""


@contextlib.contextmanager
def endless_upload(pair: Pair, service_id: str, seed: int) -> Iterator[None]:
    """A client that sends until it is stopped from the other side."""

    def send() -> None:
        with pair.connect(service_id) as client, contextlib.suppress(OSError):
            for block in blocks(ENDLESS_BYTES, seed):
                client.sendall(block)

    sender = threading.Thread(target=send, name="endless upload")
    sender.start()
    try:
        yield
    finally:
        sender.join(WAIT_SECONDS)


class TestClose:
    def test_all_that_was_read_arrives(self, rig: Rig) -> None:
        server = rig.backends.sink()
        pair = rig.pair({"SSH": server.address})
        rig.service.throttle(pair.name, SLOW_BYTES_PER_SECOND)
        with endless_upload(pair, "SSH", seed=1):
            eventually(lambda: pair.source.status().sent_bytes > MIB, "the first megabyte")
            status = rig.runtime.close_tunnel(pair.source.name)
            assert status.state is TunnelState.STOPPED
            (arrival,) = server.arrivals()
        assert arrival.size_bytes == status.sent_bytes
        assert arrival.sha256 == digest(blocks(arrival.size_bytes, seed=1))

    def test_all_that_was_read_arrives_while_the_other_way_is_full(self, rig: Rig) -> None:
        """Unread bytes in the socket's buffer must not make its end a reset."""
        sink, giver = rig.backends.sink(), rig.backends.giver(ENDLESS_BYTES)
        pair = rig.pair({"UP": sink.address, "DOWN": giver.address})
        rig.service.throttle(pair.name, SLOW_BYTES_PER_SECOND)
        with pair.connect("DOWN") as download, endless_upload(pair, "UP", seed=2):
            receive_exactly(download, 200_000)
            eventually(lambda: pair.source.status().sent_bytes > MIB, "the first megabyte")
            status = rig.runtime.close_tunnel(pair.source.name)
            (arrival,) = sink.arrivals()
        assert arrival.size_bytes == status.sent_bytes
        assert arrival.sha256 == digest(blocks(arrival.size_bytes, seed=2))

    def test_bytes_that_were_sent_just_before_it(self, rig: Rig) -> None:
        server = rig.backends.sink()
        pair = rig.pair({"SSH": server.address})
        data = os.urandom(BUFFERED_BYTES)
        with pair.connect() as client:
            server.wait_active(1)
            send_whole(client, data)
            rig.runtime.close_tunnel(pair.source.name)
            (arrival,) = server.arrivals()
        assert (arrival.size_bytes, arrival.sha256) == (len(data), digest([data]))

    def test_closing_the_destination_delivers_what_its_servers_sent(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.giver(ENDLESS_BYTES, seed=3).address})
        rig.service.throttle(pair.name, SLOW_BYTES_PER_SECOND)
        received: list[bytes] = []
        with pair.connect() as client:
            received.append(receive_exactly(client, MIB))
            closer = threading.Thread(
                target=rig.runtime.close_tunnel, args=[pair.destination.name], name="closer"
            )
            closer.start()
            with contextlib.suppress(ConnectionResetError):
                received.extend(receive_to_end(client))
            closer.join(30.0)
        status = pair.destination.status()
        assert status.state is TunnelState.STOPPED
        size = sum(len(part) for part in received)
        assert size == status.sent_bytes
        assert digest(received) == digest(blocks(size, seed=3))

    def test_its_callers_and_listeners_are_gone_and_its_name_is_free(self, rig: Rig) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address}, name="again")
        address = pair.address()
        with pair.connect() as client:
            assert echo(client, b"hello") == b"hello"
            rig.runtime.close_tunnel(pair.source.name)
            with contextlib.suppress(ConnectionResetError):
                assert not list(receive_to_end(client))
        with pytest.raises(ConnectionRefusedError):
            connect(address)
        server.wait_active(0)
        with pytest.raises(KeyError):
            rig.runtime.tunnel(pair.source.name)
        rig.runtime.close_tunnel(pair.destination.name)
        rig.service.close_tunnel("again")
        anew = rig.pair({"SSH": server.address}, name="again")
        with anew.connect() as client:
            assert echo(client, b"hello") == b"hello"


class TestDrain:
    @pytest.mark.parametrize("mode", list(Mode))
    def test_running_connections_finish_and_no_new_ones_start(self, rig: Rig, mode: Mode) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address})
        address = pair.address()
        drained = pair.source if mode is Mode.SOURCE else pair.destination
        with pair.connect() as client:
            assert echo(client, b"before") == b"before"
            rig.runtime.drain_tunnel(drained.name)
            drained.wait_for(TunnelState.DRAINING, WAIT_SECONDS)
            data = os.urandom(300_000)
            assert echo(client, data) == data
            assert is_refused(address)
            assert echo(client, b"after") == b"after"
            client.shutdown(socket.SHUT_WR)
            assert not list(receive_to_end(client))
        status = drained.wait_for(TunnelState.STOPPED, WAIT_SECONDS)
        assert status.connections_active == 0
        assert server.accepted == 1

    def test_an_idle_tunnel_stops_at_once(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address})
        rig.runtime.drain_tunnel(pair.source.name)
        assert pair.source.wait_for(TunnelState.STOPPED, WAIT_SECONDS).reason == "drained"
        assert rig.runtime.close_tunnel(pair.source.name).state is TunnelState.STOPPED


def send_whole(sock: socket.socket, data: bytes) -> None:
    """Send data, and wait until the kernel has it where the other side reads.

    On a busy machine that comes after `sendall` has returned: what is on its way nobody has read.
    """
    sock.sendall(data)
    eventually(lambda: undelivered_bytes(sock) == 0)


def is_refused(address: Address) -> bool:
    """Whether a caller gets no connection, or one that ends before it gives a byte."""
    try:
        with connect(address) as late:
            late.sendall(b"late")
            return not late.recv(1)
    except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
        return True


class TestStop:
    def test_a_runtime_that_stops_delivers_what_was_read(self, rig: Rig) -> None:
        server = rig.backends.sink()
        other = rig.make_runtime()
        data = os.urandom(BUFFERED_BYTES)
        with other:
            pair = rig.pair({"SSH": server.address}, runtimes=(other, rig.runtime))
            client = pair.connect()
            server.wait_active(1)
            send_whole(client, data)
        with client:
            (arrival,) = server.arrivals()
        assert (arrival.size_bytes, arrival.sha256) == (len(data), digest([data]))


OF_A_CONNECTION = {"WebSocketActor", "StreamActor", "SocketActor"}


def is_actor(thing: object) -> bool:
    """Whether it is one of ours; not by `isinstance`, which asks proxies of all kinds."""
    return issubclass(type(thing), DispatchedActor)


@contextlib.contextmanager
def no_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["closed", "reconnected"])
def test_actors_that_have_ended_leave_the_garbage_collector_nothing(rig: Rig, how: str) -> None:
    """With thousands of tunnels its full turns are the longest that a dispatcher has."""
    server = rig.backends.echo()
    with rig.pair({"SSH": server.address}).connect("SSH") as client:
        # Now the runtime's own actors are there, which stay.
        echo(client, b"x")
    with no_garbage_collector():
        # The actors themselves: the id() of one that is freed may be the next one's.
        before = weakref.WeakSet(each for each in gc.get_objects() if is_actor(each))
        pair = rig.pair({"SSH": server.address})
        with pair.connect("SSH") as client:
            echo(client, b"x" * 200_000)
            # While the connection is open: with it its actors end.
            actors = [
                (type(actor).__name__, weakref.ref(actor))
                for actor in gc.get_objects()
                if is_actor(actor) and actor not in before
            ]
        kinds = {name for name, _ref in actors}
        assert kinds > OF_A_CONNECTION
        if how == "closed":
            rig.runtime.close_tunnel(pair.source.name)
            rig.runtime.close_tunnel(pair.destination.name)
        else:
            kinds = OF_A_CONNECTION
            rig.service.drop(pair.name)

        def left() -> list[str]:
            return [name for name, ref in actors if name in kinds and ref() is not None]

        eventually(lambda: not left(), f"{left()} are left")
