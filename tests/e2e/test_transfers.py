"""Large transfers: every byte arrives, in order, whatever the sender does after its last one."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB, blocks, digest
from tests.support.rig import FAST_LIMITS, receive_to_end
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import ProtocolVersion

if TYPE_CHECKING:
    from tests.support.rig import Pair, Rig

LARGE_BYTES = 100 * MIB
ANSWER_BYTES = 5 * MIB + 17


def send_and_close(pair: Pair, size_bytes: int, seed: int) -> None:
    with pair.connect() as client:
        for block in blocks(size_bytes, seed):
            client.sendall(block)


class TestTheSenderClosesAtOnce:
    def test_100_mb_to_the_destination(self, rig: Rig) -> None:
        server = rig.backends.sink()
        pair = rig.pair({"SSH": server.address})
        send_and_close(pair, LARGE_BYTES, seed=1)
        (arrival,) = server.arrivals(timeout_seconds=60.0)
        assert (arrival.size_bytes, arrival.clean) == (LARGE_BYTES, True)
        assert arrival.sha256 == digest(blocks(LARGE_BYTES, seed=1))

    def test_100_mb_to_the_source(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.giver(LARGE_BYTES, seed=2).address})
        with pair.connect() as client:
            assert digest(receive_to_end(client)) == digest(blocks(LARGE_BYTES, seed=2))

    def test_both_ways_at_the_same_time(self, rig: Rig) -> None:
        size = 20 * MIB
        sink, giver = rig.backends.sink(), rig.backends.giver(size, seed=4)
        pair = rig.pair({"UP": sink.address, "DOWN": giver.address})

        def send() -> None:
            with pair.connect("UP") as client:
                for block in blocks(size, seed=3):
                    client.sendall(block)

        sender = threading.Thread(target=send, name="sender")
        sender.start()
        try:
            with pair.connect("DOWN") as client:
                assert digest(receive_to_end(client)) == digest(blocks(size, seed=4))
        finally:
            sender.join(60.0)
        (arrival,) = sink.arrivals()
        assert arrival.sha256 == digest(blocks(size, seed=3))

    def test_many_short_transfers_one_after_another(self, plain_rig: Rig) -> None:
        server = plain_rig.backends.sink()
        pair = plain_rig.pair({"SSH": server.address})
        for seed in range(50):
            send_and_close(pair, 70_000 + seed, seed)
        arrived = server.arrivals(50)
        assert all(arrival.clean for arrival in arrived)
        assert {arrival.sha256 for arrival in arrived} == {
            digest(blocks(70_000 + seed, seed)) for seed in range(50)
        }


@pytest.mark.parametrize("version", list(ProtocolVersion))
class TestHalfClose:
    def test_a_client_that_ends_its_side_still_gets_a_long_answer(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        server = rig.backends.answerer(ANSWER_BYTES, seed=5)
        pair = rig.pair({"SSH": server.address}, version=version)
        with pair.connect() as client:
            client.sendall(b"question" * 10_000)
            client.shutdown(socket.SHUT_WR)
            assert digest(receive_to_end(client)) == digest(blocks(ANSWER_BYTES, seed=5))
        (question,) = server.arrivals()
        assert question.size_bytes == 80_000

    def test_the_answer_may_take_longer_than_the_linger_time(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        """The linger time bounds silence, not the length of an answer."""
        limits = replace(FAST_LIMITS, linger_seconds=0.5)
        server = rig.backends.answerer(ANSWER_BYTES, seed=7)
        pair = rig.pair({"SSH": server.address}, version=version, limits=limits)
        rig.service.throttle(pair.name, ANSWER_BYTES / 1.5)
        with pair.connect() as client:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert digest(receive_to_end(client)) == digest(blocks(ANSWER_BYTES, seed=7))

    def test_a_server_that_ends_its_side_still_gets_the_rest(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        ended = threading.Event()
        server = rig.backends.half_closer(b"greeting", ended)
        pair = rig.pair({"SSH": server.address}, version=version)
        with pair.connect() as client:
            assert b"".join(receive_to_end(client)) == b"greeting"
            assert ended.wait(WAIT_SECONDS)
            for block in blocks(ANSWER_BYTES, seed=6):
                client.sendall(block)
        (arrival,) = server.arrivals()
        assert (arrival.size_bytes, arrival.clean) == (ANSWER_BYTES, True)
        assert arrival.sha256 == digest(blocks(ANSWER_BYTES, seed=6))
