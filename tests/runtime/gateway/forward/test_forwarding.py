"""Two gateways that forward to each other, in this process and over real sockets and TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.doors import door_answer, http_request, socks_request
from tests.support.rig import FAST_LIMITS, connect, echo, receive_exactly, receive_rest
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import DispatchedFuture
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway import Revoked
from tunnelfleet.runtime.gateway.config import DoorRule
from tunnelfleet.runtime.gateway.forward.forwarding import _listing_of
from tunnelfleet.runtime.gateway.forward.frames import (
    Ask,
    FrameKind,
    GatewayFrame,
    GatewayFrameReader,
    Question,
    encode_frame,
)
from tunnelfleet.runtime.gateway.placement import shard_of

if TYPE_CHECKING:
    from tests.support.forwarding import Authority
    from tests.support.gateway_pair import GatewayPair, PairFleet

BRIEF = replace(FAST_LIMITS, offline_grace_seconds=0.2)
ABORT = struct.pack("ii", 1, 0)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.02)


@pytest.fixture
def away(pair: GatewayPair) -> str:
    """A tunnel of gateway two; both run."""
    name = pair.add("two")
    pair.open()
    return name


def is_quiet(pair: GatewayPair) -> bool:
    """Whether nothing is open any more between the two, or at their doors."""
    fleets = (pair.one, pair.two)
    return all(
        each.forwarding.counters.open == 0 and each.door.counters.open == 0 for each in fleets
    )


class TestBytes:
    def test_a_client_of_one_reaches_a_tunnel_of_the_other(
        self, pair: GatewayPair, away: str
    ) -> None:
        for request in (http_request(away), http_request(f"ssh.{away}:22")):
            with pair.one.client(request) as sock:
                assert door_answer(sock) == (200, "")
                assert echo(sock, b"x" * 1_000_000) == b"x" * 1_000_000
        with pair.one.client(socks_request(f"{away}:SSH")) as sock:
            receive_exactly(sock, 12)
            assert echo(sock, b"hello") == b"hello"
        eventually(lambda: is_quiet(pair))
        assert pair.one.forwarding.counters.forwarded == 3
        assert pair.two.forwarding.counters.taken == 3
        assert pair.one.forwarding.counters.sent_bytes == 2_000_005

    def test_what_comes_with_the_request_is_the_application_s(
        self, pair: GatewayPair, away: str
    ) -> None:
        with pair.one.client(http_request(away) + b"early" * 10_000) as sock:
            assert door_answer(sock) == (200, "")
            assert receive_exactly(sock, 50_000) == b"early" * 10_000

    def test_the_end_of_each_direction_is_an_end_of_its_own(
        self, pair: GatewayPair, away: str
    ) -> None:
        with pair.one.client(http_request(away)) as sock:
            assert door_answer(sock) == (200, "")
            sock.sendall(b"all" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            assert receive_rest(sock) == b"all" * 100_000
        eventually(lambda: is_quiet(pair))

    def test_a_client_that_does_not_read_holds_up_nobody(
        self, pair: GatewayPair, away: str
    ) -> None:
        with (
            pair.one.client(http_request(away)) as slow,
            pair.one.client(http_request(away)) as sock,
        ):
            assert door_answer(slow) == (200, "")
            assert door_answer(sock) == (200, "")
            slow.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while slow.send(b"x" * 65_536):
                    pass
            assert echo(sock, b"hello") == b"hello"

    def test_who_it_is_and_by_which_gateway_is_told(self, pair: GatewayPair, away: str) -> None:
        with pair.one.client(http_request(away)) as sock:
            assert door_answer(sock) == (200, "")
            host, port = sock.getsockname()
            eventually(lambda: len(pair.two.gateway.connections()) == 1)
            (row,) = pair.two.gateway.connections()
            assert row["peer"] == f"{host}:{port} via one"


class TestCuts:
    """No end is a lie: what is cut is a reset for both applications."""

    @pytest.fixture
    def client(self, pair: GatewayPair, away: str) -> socket.socket:
        sock = connect(pair.one.address, WAIT_SECONDS)
        sock.sendall(http_request(away))
        assert door_answer(sock) == (200, "")
        assert echo(sock, b"hello") == b"hello"
        return sock

    def test_the_tunnel_is_cut(self, pair: GatewayPair, away: str, client: socket.socket) -> None:
        with client:
            pair.move(away, pair.two, pair.one)
            with pytest.raises(ConnectionResetError):
                receive_rest(client)
        eventually(lambda: is_quiet(pair))

    def test_the_other_gateway_ends_in_mid_transfer(
        self, pair: GatewayPair, client: socket.socket
    ) -> None:
        with client:
            pair.two.gateway.stop()
            with pytest.raises(ConnectionResetError):
                receive_rest(client)

    def test_the_forwarding_gateway_ends_in_mid_transfer(
        self, pair: GatewayPair, away: str, client: socket.socket
    ) -> None:
        with client:
            pair.one.gateway.stop()
            with pytest.raises(ConnectionResetError):
                receive_rest(client)
        eventually(lambda: pair.two.row(away).connections == 0)
        (reason,) = [each.stats for each in pair.two.gateway.runtime.tunnels()]
        assert reason.sum("connections_active") == 0

    def test_the_client_resets(self, pair: GatewayPair, away: str, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        client.close()
        eventually(lambda: pair.two.row(away).connections == 0)
        eventually(lambda: is_quiet(pair))


class TestRefusals:
    def test_the_owner_s_refusal_is_told(self, pair: GatewayPair, away: str) -> None:
        assert pair.one.ask(f"{away}:RDP") == (
            404,
            f"tunnel {away} has no service 'RDP', but SSH",
        )
        assert pair.one.forwarding.counters.refused == 1
        eventually(lambda: is_quiet(pair))

    def test_the_rules_of_both_count(self, pair: GatewayPair, away: str) -> None:
        pair.two.rules(DoorRule(("alice",), (), ()))
        status, reason = pair.one.ask(away)
        assert (status, reason) == (
            403,
            f"a client without a name may not reach {away}: no rule allows it",
        )
        assert [each.target for each in pair.two.denied] == [away]
        assert pair.two.denied[0].peer.endswith(" via one")
        pair.two.rules()
        pair.one.rules(DoorRule(("alice",), (), ()))
        assert pair.one.ask(away)[0] == 403
        # It was not asked: who may not reach a name cannot make it cost anything.
        assert pair.one.forwarding.counters.refused == 1

    def test_a_connection_is_forwarded_once_at_the_most(self, pair: GatewayPair) -> None:
        name = pair.add("two", limits=BRIEF)
        pair.open()
        # Each of the two takes the other one for the owner.
        pair.two.engine.tell(Revoked(frozenset({shard_of(name)})))
        pair.two.engine.believes[name] = "one"
        eventually(lambda: name not in pair.two.gateway.state.running)
        status, reason = pair.one.ask(name)
        assert status == 503
        assert f"tunnel {name} is with another gateway of the fleet" in reason
        assert pair.one.forwarding.counters.refused > 0
        assert pair.one.forwarding.counters.taken == 0

    def test_without_a_listener_the_owner_is_named(self, pair: GatewayPair) -> None:
        name = pair.add("two")
        pair.open(forwards=False)
        status, reason = pair.one.ask(name)
        assert status == 503
        assert f"tunnel {name} is with gateway two: ask there" in reason

    def test_an_owner_that_is_not_heard_of_is_waited_for(self, pair: GatewayPair) -> None:
        name = pair.add("two", limits=BRIEF)
        pair.open()
        pair.book.away.add("two")
        status, reason = pair.one.ask(name)
        assert status == 503
        assert "is with gateway two, which was not heard of" in reason


class TestTakeover:
    def test_a_client_waits_until_the_next_owner_has_it(self, pair: GatewayPair, away: str) -> None:
        pair.book.addresses["two"] = "127.0.0.1:1"
        with pair.one.client(http_request(away)) as sock:
            eventually(lambda: pair.one.forwarding.counters.failures["unreachable"] > 0)
            pair.move(away, pair.two, pair.one)
            assert door_answer(sock) == (200, "")
            assert echo(sock, b"hello") == b"hello"


def call(fleet: PairFleet, context: ssl.SSLContext | None = None) -> socket.socket:
    """Connect to where gateways are listened for, with TLS if there is a context."""
    sock = connect(fleet.fleet_address, WAIT_SECONDS)
    return sock if context is None else context.wrap_socket(sock)


def hear(sock: socket.socket) -> list[GatewayFrame]:
    """All that a gateway says until it closes, however it does."""
    reader = GatewayFrameReader()
    frames: list[GatewayFrame] = []
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while data := sock.recv(65_536):
            frames += reader.feed(data)
    return frames


def ask_as(fleet: PairFleet, context: ssl.SSLContext) -> list[GatewayFrame]:
    """Ask a gateway for its tunnels; returns what it says, nothing if it hangs up before."""
    try:
        with call(fleet, context) as sock:
            sock.sendall(encode_frame(FrameKind.HELLO, Question(ask=Ask.TUNNELS).encode()))
            return hear(sock)
    except OSError:
        return []


class TestStrangers:
    """Whoever cannot show a certificate of the fleet gets nowhere."""

    def test_no_certificate(self, pair: GatewayPair, away: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        assert ask_as(pair.two, context) == []
        eventually(lambda: pair.two.forwarding.counters.failures["handshake"] == 1)
        assert pair.two.row(away).connections == 0

    def test_another_authority(
        self, pair: GatewayPair, away: str, other_authority: Authority
    ) -> None:
        context = pair.one.tls(other_authority).client
        context.verify_mode = ssl.CERT_NONE
        assert ask_as(pair.two, context) == []
        eventually(lambda: pair.two.forwarding.counters.failures["handshake"] == 1)
        assert pair.two.row(away).connections == 0

    def test_an_old_version_of_tls(self, pair: GatewayPair, away: str) -> None:
        context = pair.one.tls().client
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        assert ask_as(pair.two, context) == []
        assert pair.two.row(away).connections == 0

    def test_what_answers_is_not_the_gateway_that_is_meant(self, pair: GatewayPair) -> None:
        name = pair.add("two", limits=BRIEF)
        pair.open()
        pair.book.addresses["two"] = pair.book.addresses["one"]
        status, reason = pair.one.ask(name)
        assert status == 503
        assert "gateway two is not what answers there: its certificate is for one" in reason
        assert pair.one.forwarding.counters.failures["stranger"] >= 1

    def test_the_owner_has_another_authority(
        self, pair: GatewayPair, other_authority: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        name = pair.add("two", limits=BRIEF)
        pair.open()
        two = pair.two
        # As after a reload of other files.
        settings = replace(two.files.settings, fleet_tls=two.tls(other_authority))
        two.files.settings = settings
        assert two.gateway.reload().is_good
        status, reason = pair.one.ask(name)
        assert status == 503
        assert "its certificate is refused" in reason
        # It is not the one that called whose certificate is wrong.
        told = "turned away: no handshake: it refuses the certificate of this gateway: unknown ca"
        eventually(lambda: any(told in each for each in caplog.messages))
        two.files.settings = replace(settings, fleet_tls=two.tls())
        assert two.gateway.reload().is_good
        with pair.one.client(http_request(name)) as sock:
            assert door_answer(sock) == (200, "")

    def test_one_that_says_nothing_has_to_go(
        self, pair: GatewayPair, away: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tunnelfleet.runtime.gateway.forward.guest.HANDSHAKE_SECONDS", 0.1)
        for context in (None, pair.one.tls().client):
            with call(pair.two, context) as sock:
                assert hear(sock) == []
        eventually(lambda: pair.two.forwarding.counters.failures["late"] == 2)
        assert pair.one.ask(f"{away}:RDP")[0] == 404

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (encode_frame(FrameKind.DATA, b"hello"), "its first frame is no question"),
            (encode_frame(FrameKind.HELLO, b"{}"), "another version"),
        ],
    )
    def test_a_gateway_that_speaks_nonsense(
        self, pair: GatewayPair, away: str, data: bytes, says: str
    ) -> None:
        with call(pair.two, pair.one.tls().client) as sock:
            sock.sendall(data)
            (frame,) = hear(sock)
        assert frame.kind is FrameKind.CUT
        assert says in frame.payload.decode()
        eventually(lambda: pair.two.forwarding.counters.failures["protocol"] == 1)
        assert pair.two.row(away).connections == 0


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b"[1]", b"[{}, null]", b"\xff", b"[" * 100_000],
    ids=["empty", "object", "number", "null", "bytes", "nested"],
)
def test_a_list_of_another_gateway_that_is_none_is_told_as_such(answer: bytes) -> None:
    told: DispatchedFuture[bytes] = DispatchedFuture()
    told.set(answer)
    with pytest.raises(TunnelError, match="its answer cannot be read"):
        _listing_of(told, WAIT_SECONDS)
