"""V1, V2 and V3: bytes of every size come through, whichever side speaks first."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.content import BLOCK_BYTES, blocks, digest
from tests.support.rig import connect, echo, receive_to_end
from tunnelfleet.proto import MAX_PAYLOAD_BYTES
from tunnelfleet.runtime import ANY_SERVICE, ProtocolVersion, StreamOpened

if TYPE_CHECKING:
    from tests.support.rig import Rig

SIZES = (0, 1, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1, BLOCK_BYTES)


def random_sizes(seed: int) -> list[int]:
    """Sizes around and far from a message's limit, the same in every run."""
    rng = random.Random(seed)
    return [int(2 ** rng.uniform(0, 19)) for _ in range(12)]


@pytest.mark.parametrize("version", list(ProtocolVersion))
class TestEveryVersion:
    def test_one_connection_after_another_of_each_size(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address}, version=version)
        for count, size in enumerate(SIZES, start=1):
            data = random.Random(size).randbytes(size)
            with pair.connect() as client:
                assert echo(client, data) == data
                client.shutdown(socket.SHUT_WR)
                assert not list(receive_to_end(client))
            server.wait_for(lambda n=count: server.accepted == n, 10.0, f"connection {count}")
            server.wait_active(0)

    def test_random_sizes_on_one_connection(self, rig: Rig, version: ProtocolVersion) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, version=version)
        with pair.connect() as client:
            for size in random_sizes(seed=7):
                data = random.Random(size).randbytes(size)
                assert echo(client, data) == data

    @pytest.mark.parametrize("size", SIZES)
    def test_the_destination_speaks_and_closes_at_once(
        self, rig: Rig, version: ProtocolVersion, size: int
    ) -> None:
        pair = rig.pair({"SSH": rig.backends.giver(size, seed=3).address}, version=version)
        with pair.connect() as client:
            assert digest(receive_to_end(client)) == digest(blocks(size, seed=3))

    @pytest.mark.parametrize("size", SIZES)
    def test_the_source_speaks_and_closes_at_once(
        self, rig: Rig, version: ProtocolVersion, size: int
    ) -> None:
        server = rig.backends.sink()
        pair = rig.pair({"SSH": server.address}, version=version)
        with pair.connect() as client:
            for block in blocks(size, seed=4):
                client.sendall(block)
        (arrival,) = server.arrivals()
        assert (arrival.size_bytes, arrival.clean) == (size, True)
        assert arrival.sha256 == digest(blocks(size, seed=4))


class TestV1:
    def test_a_tunnel_without_service_ids(self, rig: Rig) -> None:
        pair = rig.pair({ANY_SERVICE: rig.backends.echo().address}, version=ProtocolVersion.V1)
        assert pair.source.status().service_ids == ()
        with pair.connect() as client:
            assert echo(client, b"hello") == b"hello"

    def test_a_tunnel_with_one_service_that_neither_end_names(self, rig: Rig) -> None:
        any_address = {ANY_SERVICE: rig.backends.echo().address}
        pair = rig.pair(any_address, version=ProtocolVersion.V1, service_ids=["SSH"])
        assert pair.source.status().service_ids == ("SSH",)
        with pair.connect() as client:
            assert echo(client, b"hello") == b"hello"


@pytest.mark.parametrize("version", [ProtocolVersion.V1, ProtocolVersion.V2])
def test_a_second_caller_takes_the_place_of_the_first(rig: Rig, version: ProtocolVersion) -> None:
    server = rig.backends.echo()
    pair = rig.pair({"SSH": server.address}, version=version)
    with pair.connect() as first:
        assert echo(first, b"first") == b"first"
        with pair.connect() as second:
            assert echo(second, b"second") == b"second"
            with pytest.raises(ConnectionResetError):
                first.recv(1)
            server.wait_active(1)
            assert echo(second, b"still") == b"still"


def test_v3_puts_all_callers_on_one_stream(rig: Rig) -> None:
    server = rig.backends.echo()
    pair = rig.pair({"SSH": server.address})
    with pair.connect() as first, pair.connect() as second, pair.connect() as third:
        for number, client in enumerate([first, second, third, first]):
            data = bytes([number]) * 1_000
            assert echo(client, data) == data
    opened = [event for event in rig.events.all() if isinstance(event, StreamOpened)]
    # In no order: the ends are told each by itself.
    assert {event.tunnel for event in opened} == {pair.source.name, pair.destination.name}
    assert len(opened) == 2
    assert len({event.stream_id for event in opened}) == 1
    assert pair.source.status().connections_opened == 3


def test_v2_serves_two_services_at_once(rig: Rig) -> None:
    ssh, http = rig.backends.echo(), rig.backends.echo()
    pair = rig.pair({"SSH": ssh.address, "HTTP": http.address}, version=ProtocolVersion.V2)
    with connect(pair.address("SSH")) as one, connect(pair.address("HTTP")) as two:
        for number in range(20):
            assert echo(one, b"one %d" % number) == b"one %d" % number
            assert echo(two, b"two %d" % number) == b"two %d" % number
    assert (ssh.accepted, http.accepted) == (1, 1)
