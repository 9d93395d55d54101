"""Many at once: connections on a service, services of a tunnel, tunnels of a runtime, runtimes."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB, blocks, digest
from tests.support.rig import FAST_LIMITS, Rig, connect, echo, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import ProtocolVersion, TunnelState

if TYPE_CHECKING:
    import socket

    from tests.support.rig import Pair

CONNECTIONS = 200
CONNECTION_BYTES = 20_000
TUNNELS = 8
TOLERATED_DESCRIPTORS = 0


class TestConnections:
    def test_200_at_once_on_one_service(self, rig: Rig) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address})
        contents = [os.urandom(CONNECTION_BYTES) for _ in range(CONNECTIONS)]
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(pair.connect()) for _ in contents]
            server.wait_active(CONNECTIONS)
            half = CONNECTION_BYTES // 2
            for part in (slice(0, half), slice(half, None)):
                exchange_all(clients, [content[part] for content in contents])
            assert pair.source.status().connections_active == CONNECTIONS
            assert pair.source.status().streams_opened == 1
        server.wait_active(0)
        eventually(lambda: pair.source.status().connections_active == 0, "the ends")

    def test_the_limit_makes_callers_wait_and_not_fail(self, rig: Rig) -> None:
        server = rig.backends.echo()
        limits = replace(FAST_LIMITS, max_connections=4)
        pair = rig.pair({"SSH": server.address}, source_limits=limits)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(pair.connect()) for _ in range(4)]
            exchange_all(clients, [b"one", b"two", b"three", b"four"])
            waiting = stack.enter_context(pair.connect())
            waiting.sendall(b"five")
            assert server.accepted == 4
            clients[0].close()
            assert receive_exactly(waiting, 4) == b"five"


def exchange_all(clients: list[socket.socket], contents: list[bytes]) -> None:
    """Send on all, then read from all: each gets back its own bytes."""
    for client, content in zip(clients, contents, strict=True):
        client.sendall(content)
    for client, content in zip(clients, contents, strict=True):
        assert receive_exactly(client, len(content)) == content


class TestServices:
    @pytest.mark.parametrize("version", [ProtocolVersion.V2, ProtocolVersion.V3])
    def test_three_at_once(self, rig: Rig, version: ProtocolVersion) -> None:
        size = 3 * MIB
        echo_server, sink, giver = (
            rig.backends.echo(),
            rig.backends.sink(),
            rig.backends.giver(size, seed=1),
        )
        services = {"ECHO": echo_server.address, "UP": sink.address, "DOWN": giver.address}
        pair = rig.pair(services, version=version)
        uploader = threading.Thread(target=upload, args=[pair, size], name="uploader")
        uploader.start()
        with pair.connect("ECHO") as talk, pair.connect("DOWN") as download:
            received = []
            for _ in range(size // (MIB // 4)):
                received.append(receive_exactly(download, MIB // 4))
                data = os.urandom(64)
                assert echo(talk, data) == data
        uploader.join(WAIT_SECONDS)
        assert digest(received) == digest(blocks(size, seed=1))
        (arrival,) = sink.arrivals()
        assert arrival.sha256 == digest(blocks(size, seed=2))


def upload(pair: Pair, size_bytes: int) -> None:
    with pair.connect("UP") as client:
        for block in blocks(size_bytes, seed=2):
            client.sendall(block)


class TestTunnels:
    def test_many_in_one_runtime_do_not_mix(self, rig: Rig) -> None:
        pairs = [rig.pair({"SSH": rig.backends.echo().address}) for _ in range(TUNNELS)]
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(pair.connect()) for pair in pairs]
            exchange_all(clients, [os.urandom(50_000) for _ in pairs])
        assert len(rig.runtime.tunnels()) == 2 * TUNNELS
        for pair in pairs:
            assert pair.source.status().sent_bytes == 50_000
            assert pair.destination.status().sent_bytes == 50_000

    def test_on_two_dispatchers(self) -> None:
        with Rig(tls=True, dispatchers=2) as rig:
            pairs = [rig.pair({"SSH": rig.backends.echo().address}) for _ in range(4)]
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(pair.connect()) for pair in pairs]
                exchange_all(clients, [os.urandom(50_000) for _ in pairs])
            assert rig.runtime.stats().dispatchers == 2

    def test_closing_one_leaves_the_others_alone(self, rig: Rig) -> None:
        kept = rig.pair({"SSH": rig.backends.echo().address})
        closed = rig.pair({"SSH": rig.backends.echo().address})
        with kept.connect() as client, closed.connect() as other:
            exchange_all([client, other], [b"kept", b"closed"])
            rig.runtime.close_tunnel(closed.source.name)
            rig.runtime.close_tunnel(closed.destination.name)
            data = os.urandom(MIB)
            assert echo(client, data) == data
        assert kept.source.status().reconnects == 0


class TestRuntimes:
    def test_two_in_one_process_do_not_meet(self, rig: Rig) -> None:
        """Each holds its own tunnels, and hears of no other."""
        with rig.make_runtime() as first, rig.make_runtime() as second:
            one = rig.pair({"SSH": rig.backends.echo().address}, runtimes=(first, second))
            two = rig.pair({"SSH": rig.backends.echo().address}, runtimes=(second, first))
            assert [t.name for t in first.tunnels()] == ["tunnel-1 source", "tunnel-2 destination"]
            assert [t.name for t in second.tunnels()] == ["tunnel-1 destination", "tunnel-2 source"]
            with one.connect() as client, two.connect() as other:
                exchange_all([client, other], [os.urandom(200_000), os.urandom(300_000)])
            with pytest.raises(KeyError):
                first.tunnel("tunnel-1 destination")
        assert not rig.events.all()

    def test_stopping_one_leaves_the_other(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address})
        with pair.connect() as client:
            with rig.make_runtime() as other:
                elsewhere = rig.pair({"SSH": rig.backends.echo().address}, runtimes=(other, other))
                with elsewhere.connect() as also:
                    exchange_all([client, also], [b"one", b"two"])
            assert echo(client, b"still") == b"still"
        assert elsewhere.source.status().state is TunnelState.STOPPED
        assert pair.source.status().state is TunnelState.CONNECTED


class TestLeaks:
    def test_nothing_stays_open_when_all_is_stopped(self) -> None:
        run_everything_once()  # what the process opens once and keeps
        gc.collect()
        before = descriptors()
        threads = threading.active_count()
        for _ in range(3):
            run_everything_once()
        gc.collect()
        left = {number: name for number, name in descriptors().items() if number not in before}
        assert len(left) <= TOLERATED_DESCRIPTORS, left
        assert threading.active_count() == threads

    def test_a_running_tunnel_keeps_nothing_of_its_ended_connections(self, rig: Rig) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address})

        def use(count: int) -> None:
            for number in range(count):
                with pair.connect() as client:
                    assert echo(client, b"x" * 1_000) == b"x" * 1_000, number
            server.wait_active(0)
            eventually(lambda: pair.source.status().connections_active == 0, "ends")
            eventually(lambda: pair.destination.status().connections_active == 0, "ends")

        use(5)
        before = len(descriptors())
        use(100)
        eventually(lambda: len(descriptors()) <= before, "descriptors closed")


def run_everything_once() -> None:
    """A rig with traffic, dropped and refused connections, ended in the middle."""
    with Rig(tls=True) as rig, contextlib.ExitStack() as stack:
        pair = rig.pair({"SSH": rig.backends.echo().address})
        lost = rig.pair({"SSH": rig.backends.echo().address})
        clients = [stack.enter_context(pair.connect()) for _ in range(5)]
        exchange_all(clients, [os.urandom(10_000) for _ in clients])
        rig.service.drop(lost.name)
        eventually(lambda: lost.source.status().reconnects > 0, "reconnect")
        rig.wait_connected(lost)
        with connect(lost.address()) as client:
            assert echo(client, b"back") == b"back"


def descriptors() -> dict[int, str]:
    """The open file descriptors of this process, and what they are."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            found[int(path.name)] = str(path.readlink())
    return found
