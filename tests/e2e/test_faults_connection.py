"""Faults of the WebSocket connection: what the tunnel loses with it, and how it comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB, blocks, digest
from tests.support.faulty_server import ScriptedService
from tests.support.rig import Rig, echo
from tests.support.service_client import TunnelClient
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.witness import (
    FAULT_LIMITS,
    FORGED_TOKEN,
    assert_carries,
    assert_ends,
    open_alone,
    reasons_of,
    undisturbed,
    wait_reconnected,
)
from tunnelfleet.runtime import Mode, ProtocolVersion, SessionWasReset
from tunnelfleet.runtime import TunnelState as State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.faulty_server import FaultyPeer
    from tests.support.rig import Pair

ENDLESS_BYTES = 10_000 * MIB
PING_LIMITS = replace(FAULT_LIMITS, ping_interval_seconds=0.1, pong_timeout_seconds=1.0)


@contextlib.contextmanager
def endless_upload(pair: Pair) -> Iterator[threading.Event]:
    """A client that sends until the tunnel ends its connection, which sets the event."""
    ended = threading.Event()

    def send() -> None:
        with pair.connect() as client, contextlib.suppress(OSError):
            for block in blocks(ENDLESS_BYTES):
                client.sendall(block)
        ended.set()

    sender = threading.Thread(target=send, name="endless upload")
    sender.start()
    yield ended
    sender.join(WAIT_SECONDS)
    assert ended.is_set()


class TestServiceIsKilled:
    def test_in_the_middle_of_a_transfer(self, rig: Rig) -> None:
        """All tunnels of the service are lost and come back; those of another service stay."""
        sink = rig.backends.sink()
        pair = rig.pair({"SSH": sink.address}, limits=FAULT_LIMITS)
        address = pair.address()
        with Rig(tls=False) as elsewhere, undisturbed(elsewhere):
            with endless_upload(pair) as ended:
                eventually(lambda: pair.destination.status().received_bytes > MIB, "a megabyte")
                rig.service.kill()
                for tunnel in (pair.source, pair.destination):
                    tunnel.wait_for({State.CONNECTING, State.BACKOFF}, WAIT_SECONDS)
                    eventually(lambda t=tunnel: t.status().streams_active == 0, "no stream")
                assert ended.wait(WAIT_SECONDS), "the client was not told"
            (arrival,) = sink.arrivals()
            assert arrival.sha256 == digest(blocks(arrival.size_bytes))
            eventually(lambda: "cannot reach" in pair.source.status().reason, "why it is not back")
            rig.service.start()
            rig.wait_connected(pair)
        assert pair.source.status().reconnects == pair.destination.status().reconnects == 1
        assert pair.address() == address
        data = bytes(range(256)) * 40_000
        with pair.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert sink.arrivals(2)[1].sha256 == digest([data])

    def test_many_times(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        for time in range(1, 6):
            rig.service.restart()
            for tunnel in (pair.source, pair.destination):
                wait_reconnected(tunnel, "lost", time)
            assert_carries(pair)

    def test_while_it_connects(self, rig: Rig) -> None:
        rig.service.kill()
        tokens = rig.service.open_tunnel("early", ["SSH"])
        tunnel = open_alone(
            rig, rig.endpoint, mode=Mode.DESTINATION, token=tokens.destination_token
        )
        eventually(lambda: tunnel.status().connect_failures >= 3, "three failures")
        status = tunnel.wait_for({State.BACKOFF, State.CONNECTING}, WAIT_SECONDS)
        assert "Connection refused" in status.reason
        assert rig.endpoint.host in status.reason
        rig.service.start()
        tunnel.wait_for(State.CONNECTED, WAIT_SECONDS)
        assert tunnel.status().reason == ""
        assert tunnel.status().reconnects == 0


class TestDrop:
    @pytest.mark.parametrize("mode", [Mode.SOURCE, Mode.DESTINATION, None])
    def test_a_dropped_connection_comes_back(self, rig: Rig, mode: Mode | None) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address}, limits=FAULT_LIMITS)
        dropped = [t for t in (pair.source, pair.destination) if mode in (None, t.mode)]
        with undisturbed(rig), pair.connect() as client:
            assert echo(client, b"before") == b"before"
            rig.service.drop(pair.name, mode)
            assert_ends(client)
            server.wait_active(0)
            for tunnel in dropped:
                wait_reconnected(tunnel, "lost")
            rig.wait_connected(pair)
            assert_carries(pair)
        kept = [t for t in (pair.source, pair.destination) if t not in dropped]
        for tunnel in kept:
            assert tunnel.status().connect_attempts == 1, "the other end lost its WebSocket, too"
        for tunnel in (pair.source, pair.destination):
            eventually(lambda t=tunnel: t.status().connections_active == 0, "no connection")

    def test_a_close_of_the_service(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        with undisturbed(rig):
            rig.service.send_close(pair.name, Mode.SOURCE)
            wait_reconnected(pair.source, "closed")
            assert_carries(pair)

    def test_reconnects_send_the_same_tokens(self) -> None:
        def lose(peer: FaultyPeer) -> None:
            peer.upgrade()
            peer.announce("SSH")

        def keep(peer: FaultyPeer) -> None:
            lose(peer)
            peer.wait_closed()

        with Rig(tls=False) as rig, ScriptedService(lose, lose, keep) as service:
            tunnel = open_alone(rig, service.endpoint)
            wait_reconnected(tunnel, "lost", 2)
            sent = [tokens_of(peer) for peer in service.peers]
        assert len(sent) == 3
        assert set(sent) == {(FORGED_TOKEN, sent[0][1])}
        assert len(sent[0][1]) >= 32


def tokens_of(peer: FaultyPeer) -> tuple[str, str]:
    lines = dict(line.split(": ", 1) for line in peer.request.split("\r\n")[1:] if ": " in line)
    headers = {name.lower(): value for name, value in lines.items()}
    return headers["access-token"], headers["client-token"]


class TestBlackHole:
    @pytest.mark.parametrize("mode", list(Mode))
    def test_a_ping_without_an_answer_ends_the_connection(self, rig: Rig, mode: Mode) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=PING_LIMITS)
        silenced = pair.source if mode is Mode.SOURCE else pair.destination
        with undisturbed(rig), pair.connect() as client:
            assert echo(client, b"before") == b"before"
            rig.service.black_hole(pair.name, mode)
            assert_ends(client)
            wait_reconnected(silenced, "ping_timeout")
            assert_carries(pair)
        assert "not answered a ping for 1 s" in reasons_of(rig, silenced)[0]

    def test_while_it_sends_without_end(self, rig: Rig) -> None:
        """The ping waits behind a full socket, and its answer is missed all the same."""
        limits = replace(PING_LIMITS, stall_timeout_seconds=1.0)
        pair = rig.pair({"SSH": rig.backends.sink().address}, limits=limits)
        with undisturbed(rig), endless_upload(pair) as ended:
            eventually(lambda: pair.source.status().sent_bytes > MIB, "a megabyte")
            rig.service.black_hole(pair.name, Mode.SOURCE)
            assert ended.wait(WAIT_SECONDS)
            wait_reconnected(pair.source, "ping_timeout")

    def test_an_idle_connection_that_answers_stays(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=PING_LIMITS)
        eventually(
            lambda: pair.source.stats.ping_seconds.count >= 12,
            "twelve answers, longer than the timeout",
        )
        assert pair.source.status().connect_attempts == 1
        assert_carries(pair)


class TestSessionReset:
    def test_streams_end_and_the_websocket_stays(self, rig: Rig) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address, "HTTP": server.address}, limits=FAULT_LIMITS)
        channels = [t.status().channel_id for t in (pair.source, pair.destination)]
        with undisturbed(rig), pair.connect("SSH") as ssh, pair.connect("HTTP") as http:
            for client in (ssh, http):
                assert echo(client, b"before") == b"before"
            rig.service.session_reset(pair.name)
            assert_ends(ssh)
            assert_ends(http)
            for service_id in ("SSH", "HTTP"):
                assert_carries(pair, service_id)
        for tunnel, channel in zip((pair.source, pair.destination), channels, strict=True):
            status = tunnel.status()
            assert (status.session_resets, status.connect_attempts) == (1, 1)
            assert status.channel_id == channel
            was_told = rig.events.wait(lambda e, t=tunnel: e == SessionWasReset(t.name))
            assert len(was_told) == 1
            eventually(lambda t=tunnel: t.status().streams_active <= 2, "old streams are over")

    @pytest.mark.parametrize("version", [ProtocolVersion.V1, ProtocolVersion.V2])
    def test_in_v1_and_v2(self, rig: Rig, version: ProtocolVersion) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address}, version=version, limits=FAULT_LIMITS)
        with undisturbed(rig), pair.connect() as client:
            assert echo(client, b"before") == b"before"
            rig.service.session_reset(pair.name)
            assert_ends(client)
            server.wait_active(0)
            assert_carries(pair)
        for tunnel in (pair.source, pair.destination):
            assert (tunnel.status().session_resets, tunnel.status().connect_attempts) == (1, 1)

    def test_in_the_middle_of_a_transfer(self, rig: Rig) -> None:
        """What arrived is the beginning of what was sent, and never called complete."""
        sink = rig.backends.sink()
        pair = rig.pair({"SSH": sink.address}, limits=FAULT_LIMITS)
        with undisturbed(rig), endless_upload(pair) as ended:
            eventually(lambda: pair.destination.status().received_bytes > MIB, "a megabyte")
            rig.service.session_reset(pair.name)
            assert ended.wait(WAIT_SECONDS)
        (arrival,) = sink.arrivals()
        assert arrival.sha256 == digest(blocks(arrival.size_bytes))
        assert not arrival.clean

    def test_a_hundred_of_them(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        with undisturbed(rig):
            for _ in range(100):
                rig.service.session_reset(pair.name)
            eventually(lambda: pair.source.status().session_resets == 100, "all resets")
            assert_carries(pair)


class TestPeerIsReplaced:
    def test_the_other_end_resets_its_streams_and_waits_for_the_next(self, rig: Rig) -> None:
        """Somebody else connects with the source's tokens: the newer one has the tunnel."""
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address}, limits=FAULT_LIMITS)
        token, client_token = pair.source._context.credentials.current()
        with undisturbed(rig), pair.connect() as client:
            assert echo(client, b"before") == b"before"
            usurper = TunnelClient(rig.service, Mode.SOURCE, token, client_token)
            assert_ends(client)
            server.wait_active(0)
            wait_reconnected(pair.source, "lost")
            usurper.assert_ended()
            usurper.close()
            assert_carries(pair)
        assert pair.destination.status().connect_attempts == 1
