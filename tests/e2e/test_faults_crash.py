"""Actors that crash: what ends what (docs/architecture.md section 4), and what does not notice.

An exception is raised in the turn of a live actor; the tunnel must come back by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.rig import Rig, connect, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.witness import (
    FAULT_LIMITS,
    Witness,
    actor,
    actors,
    assert_carries,
    assert_ends,
    crash_and_wait,
    kill_and_wait,
    reasons_of,
    undisturbed,
    wait_reconnected,
)
from tunnelfleet.runtime import ConnectionClosed, Mode, ProtocolVersion, TunnelStateChanged
from tunnelfleet.runtime import TunnelState as State

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

    from tests.support.backends import Server
    from tests.support.rig import Pair
    from tunnelfleet.runtime import Tunnel

V1, V2, V3 = ProtocolVersion.V1, ProtocolVersion.V2, ProtocolVersion.V3
BOTH = pytest.mark.parametrize("mode", list(Mode))
MANY_CRASHES = 12


@pytest.fixture
def server(rig: Rig) -> Server:
    return rig.backends.echo()


@pytest.fixture
def pair(rig: Rig, server: Server) -> Pair:
    services = {"SSH": server.address, "ECHO": rig.backends.echo().address}
    return rig.pair(services, limits=FAULT_LIMITS)


def end_of(pair: Pair, mode: Mode) -> Tunnel:
    return pair.source if mode is Mode.SOURCE else pair.destination


def assert_connected_once(*pairs: Pair) -> None:
    for pair in pairs:
        for tunnel in (pair.source, pair.destination):
            status = tunnel.status()
            assert (status.state, status.connect_attempts) == (State.CONNECTED, 1), status


class TestSocketActor:
    @BOTH
    def test_its_connection_ends_and_no_other(
        self, rig: Rig, pair: Pair, server: Server, mode: Mode
    ) -> None:
        tunnel = end_of(pair, mode)
        with undisturbed(rig), Witness(pair.address("SSH")) as witness:
            first = actor(rig.runtime, "SocketActor", tunnel.name)
            with pair.connect("SSH") as client:
                assert echo(client, b"before") == b"before"
                second = [a for a in actors(rig.runtime, "SocketActor", tunnel.name) if a != first]
                crash_and_wait(second[0])
                assert_ends(client)
            server.wait_active(1)
            witness.check()
            assert_carries(pair, "SSH")
        assert tunnel.status().streams_opened == 1
        assert_connected_once(pair)
        rig.events.wait(
            lambda e: (
                isinstance(e, ConnectionClosed)
                and e.tunnel == tunnel.name
                and "its actor failed" in e.reason
            )
        )

    @pytest.mark.parametrize("version", [V1, V2])
    @BOTH
    def test_in_v1_and_v2_its_stream_ends_with_it(
        self, rig: Rig, server: Server, version: ProtocolVersion, mode: Mode
    ) -> None:
        pair = rig.pair({"SSH": server.address}, version=version, limits=FAULT_LIMITS)
        with undisturbed(rig), pair.connect() as client:
            assert echo(client, b"before") == b"before"
            crash_and_wait(actor(rig.runtime, "SocketActor", end_of(pair, mode).name))
            assert_ends(client)
            server.wait_active(0)
            assert_carries(pair)
        assert_connected_once(pair)


class TestStreamActor:
    @pytest.mark.parametrize("version", [V2, V3])
    @BOTH
    def test_its_stream_is_reset_and_no_other(
        self, rig: Rig, server: Server, version: ProtocolVersion, mode: Mode
    ) -> None:
        services = {"SSH": server.address, "ECHO": rig.backends.echo().address}
        pair = rig.pair(services, version=version, limits=FAULT_LIMITS)
        tunnel = end_of(pair, mode)
        with undisturbed(rig), Witness(pair.address("ECHO")) as witness:
            others = actors(rig.runtime, "StreamActor", tunnel.name)
            with pair.connect("SSH") as client:
                assert echo(client, b"before") == b"before"
                streams = actors(rig.runtime, "StreamActor", tunnel.name)
                crash_and_wait(next(ref for ref in streams if ref not in others))
                assert_ends(client)
            server.wait_active(0)
            for end in (pair.source, pair.destination):
                eventually(
                    lambda t=end: (
                        (t.status().connections_active, t.status().streams_active) == (1, 1)
                    ),
                    "one connection",
                )
            witness.check()
            assert_carries(pair, "SSH")
        assert_connected_once(pair)

    def test_all_connections_of_it_end(self, rig: Rig, pair: Pair, server: Server) -> None:
        with undisturbed(rig):
            clients = [pair.connect("SSH") for _ in range(5)]
            for client in clients:
                assert echo(client, b"before") == b"before"
            crash_and_wait(actor(rig.runtime, "StreamActor", pair.destination.name))
            for client in clients:
                assert_ends(client)
                client.close()
            server.wait_active(0)
            assert_carries(pair, "SSH")
        assert_connected_once(pair)


class TestWebSocketActor:
    @BOTH
    def test_it_counts_as_a_lost_connection(
        self, rig: Rig, pair: Pair, server: Server, mode: Mode
    ) -> None:
        tunnel = end_of(pair, mode)
        with undisturbed(rig), pair.connect("SSH") as client:
            assert echo(client, b"before") == b"before"
            crash_and_wait(actor(rig.runtime, "WebSocketActor", tunnel.name))
            assert_ends(client)
            server.wait_active(0)
            wait_reconnected(tunnel, "crashed")
            assert_carries(pair, "SSH")
        assert any("actor failed" in reason for reason in reasons_of(rig, tunnel))


class TestTunnelActor:
    @BOTH
    def test_its_tree_goes_down_and_up_again(
        self, rig: Rig, pair: Pair, server: Server, mode: Mode
    ) -> None:
        tunnel = end_of(pair, mode)
        address = pair.address("SSH")
        with undisturbed(rig), pair.connect("SSH") as client:
            assert echo(client, b"before") == b"before"
            crash_and_wait(actor(rig.runtime, "TunnelActor", tunnel.name))
            assert_ends(client)
            server.wait_active(0)
            eventually(lambda: tunnel.status().connect_attempts == 2, "a second connect")
            rig.wait_connected(pair)
            assert pair.address("SSH") == address
            assert_carries(pair, "SSH")
        eventually(lambda: tunnel.status().connections_active == 0, "no connection")
        assert tunnel.status().connections_opened >= 2, "counters never go back"
        assert any("tunnel actor failed" in reason for reason in reasons_of(rig, tunnel))

    def test_many_times_in_a_row(self, rig: Rig, pair: Pair) -> None:
        with undisturbed(rig):
            for times in range(1, 4):
                crash_and_wait(actor(rig.runtime, "TunnelActor", pair.source.name))
                eventually(
                    lambda n=times: pair.source.status().connect_attempts > n, "one more connect"
                )
                rig.wait_connected(pair)
                assert_carries(pair, "SSH")
        assert pair.destination.status().connect_attempts == 1

    def test_a_new_token_meanwhile_is_not_lost(self, rig: Rig, pair: Pair) -> None:
        tokens = rig.service.rotate(pair.name, Mode.SOURCE)
        pair.source.wait_for(State.REFUSED, WAIT_SECONDS)
        crash_and_wait(actor(rig.runtime, "TunnelActor", pair.source.name))
        rig.runtime.replace_token(pair.source.name, tokens.source_token)
        pair.source.wait_for(State.CONNECTED, WAIT_SECONDS)
        assert_carries(pair, "SSH")


class TestListenerActor:
    def test_its_connections_go_on_and_its_port_stays(self, rig: Rig, pair: Pair) -> None:
        address = pair.address("SSH")
        with undisturbed(rig), Witness(address) as witness:
            listeners = actors(rig.runtime, "ListenerActor", pair.source.name)
            assert len(listeners) == 2
            for listener in listeners:
                crash_and_wait(listener)
            witness.check()
            for service_id in ("SSH", "ECHO"):
                eventually(lambda s=service_id: s in pair.source.status().listening, "a listener")
                assert_carries(pair, service_id)
            assert pair.address("SSH") == address
            witness.check()
        assert_connected_once(pair)

    def test_an_address_in_use_is_said_and_tried_again(self, rig: Rig, server: Server) -> None:
        with Rig(tls=False) as other:
            holder = other.pair({"SSH": server.address}, limits=FAULT_LIMITS)
            taken = holder.address()
            pair = rig.pair(
                {"SSH": server.address}, listen={"SSH": taken}, limits=FAULT_LIMITS, wait=False
            )
            rig.wait_connected(pair)
            eventually(lambda: "in use" in pair.source.status().last_event, "the reason")
            assert str(taken) in pair.source.status().last_event
            assert not pair.source.status().listening
            other.runtime.close_tunnel(holder.source.name)
            assert pair.address() == taken
            assert_carries(pair)


class TestSupervisors:
    @BOTH
    @pytest.mark.parametrize("end", [crash_and_wait, kill_and_wait])
    def test_of_the_transport(
        self,
        rig: Rig,
        pair: Pair,
        server: Server,
        mode: Mode,
        end: Callable[[ActorRef[Any]], None],
    ) -> None:
        tunnel = end_of(pair, mode)
        with undisturbed(rig), pair.connect("SSH") as client:
            assert echo(client, b"before") == b"before"
            end(actor(rig.runtime, "TransportSupervisor", tunnel.name))
            assert_ends(client)
            server.wait_active(0)
            eventually(lambda: tunnel.status().connect_attempts == 2, "a second connect")
            rig.wait_connected(pair)
            assert_carries(pair, "SSH")
            eventually(
                lambda: (
                    (tunnel.status().connections_active, tunnel.status().streams_active) == (0, 1)
                ),
                "no connection",
            )
        assert not rig.runtime.dispatchers[0].stats.actor_failures.get("TunnelActor")

    def test_of_the_transport_where_a_source_listens_for_what_is_announced(
        self, rig: Rig, server: Server
    ) -> None:
        """It listens again, and its TunnelActor, which knows of the end, does not fail as well."""
        pair = rig.pair({"SSH": server.address}, limits=FAULT_LIMITS)
        rig.runtime.close_tunnel(pair.source.name)
        token = rig.service.rotate(pair.name, Mode.SOURCE).source_token
        config = replace(pair.source.config, services=None, access_token=token, client_token=None)
        source = rig.runtime.open_tunnel(config)
        source.wait_listening("SSH", WAIT_SECONDS)
        with undisturbed(rig), connect(source.listening["SSH"]) as client:
            assert echo(client, b"before") == b"before"
            survivor = actor(rig.runtime, "TunnelActor", source.name)
            crash_and_wait(actor(rig.runtime, "TransportSupervisor", source.name))
            assert_ends(client)
            eventually(lambda: source.status().connect_attempts == 2, "a second connect")
            with connect(source.wait_listening("SSH", WAIT_SECONDS)) as another:
                eventually(lambda: source.status().state is State.CONNECTED, "connected")
                assert echo(another, b"after") == b"after"
            assert survivor.is_alive()

    @BOTH
    def test_of_the_tunnel(self, rig: Rig, pair: Pair, server: Server, mode: Mode) -> None:
        tunnel = end_of(pair, mode)
        with undisturbed(rig), pair.connect("SSH") as client:
            assert echo(client, b"before") == b"before"
            crash_and_wait(actor(rig.runtime, "TunnelSupervisor", tunnel.name))
            assert_ends(client)
            server.wait_active(0)
            eventually(lambda: tunnel.status().connect_attempts == 2, "a second connect")
            rig.wait_connected(pair)
            assert_carries(pair, "SSH")
        assert any("its supervisor failed" in each for each in reasons_of(rig, tunnel))
        tokens = rig.service.rotate(pair.name, mode)
        token = tokens.source_token if mode is Mode.SOURCE else tokens.destination_token
        tunnel.wait_for(State.REFUSED, WAIT_SECONDS)
        rig.runtime.replace_token(tunnel.name, token)
        tunnel.wait_for(State.CONNECTED, WAIT_SECONDS)
        rig.runtime.close_tunnel(tunnel.name)


class TestSharedActors:
    def test_the_governor(self, rig: Rig, pair: Pair) -> None:
        """Running tunnels go on, and those that wait to connect ask the next one."""
        with undisturbed(rig):
            for times in range(1, 6):
                rig.service.drop(pair.name, Mode.SOURCE)
                crash_and_wait(actor(rig.runtime, "ConnectGovernor"))
                eventually(
                    lambda n=times: pair.source.status().reconnects == n, f"reconnect {times}"
                )
                rig.wait_connected(pair)
            assert_carries(pair, "SSH")

    def test_the_event_relay(self, rig: Rig, pair: Pair) -> None:
        with undisturbed(rig):
            crash_and_wait(actor(rig.runtime, "EventRelay"))
            eventually(lambda: len(actors(rig.runtime, "EventRelay")) == 1, "the next one")
            rig.service.drop(pair.name, Mode.SOURCE)
            rig.events.wait(
                lambda e: (
                    isinstance(e, TunnelStateChanged)
                    and (e.tunnel, e.state) == (pair.source.name, State.BACKOFF)
                )
            )
            wait_reconnected(pair.source, "lost")


class TestQuarantine:
    def test_a_tunnel_that_crashes_again_and_again_is_set_aside(self, rig: Rig) -> None:
        """It is visible as such, harms nobody else, and can be closed."""
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        with undisturbed(rig):
            for _ in range(MANY_CRASHES):
                eventually(
                    lambda: (
                        bool(actors(rig.runtime, "TunnelActor", pair.source.name))
                        or pair.source.stats.state is State.QUARANTINED
                    ),
                    "its next life",
                    30.0,
                )
                for ref in actors(rig.runtime, "TunnelActor", pair.source.name):
                    crash_and_wait(ref)
                if pair.source.stats.state is State.QUARANTINED:
                    break
            status = pair.source.wait_for(State.QUARANTINED, WAIT_SECONDS)
            assert "keeps failing" in status.reason
            assert pair.destination.status().state is State.CONNECTED
            assert rig.runtime.close_tunnel(pair.source.name).state is State.STOPPED
