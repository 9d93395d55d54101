"""Faults of the handshake: what is retried, what is refused for good, and what people are told."""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.faulty_server import ScriptedService
from tests.support.rig import Rig, connect, echo
from tests.support.sockets import free_port
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.witness import (
    FAULT_LIMITS,
    FORGED_TOKEN,
    assert_carries,
    assert_ends,
    assert_is_refused,
    open_alone,
    reasons_of,
    undisturbed,
    wait_reconnected,
)
from tunnelfleet.runtime import Endpoint, Mode
from tunnelfleet.runtime import TunnelState as State

if TYPE_CHECKING:
    from tests.support.faulty_server import FaultyPeer
    from tests.support.rig import Pair
    from tunnelfleet.runtime import Tunnel

USED_TOKEN_TEXT = (
    "Invalid access token: The access token was previously used and cannot be used again"
)
NOTHING_MORE_SECONDS = 0.5
CONNECT_LIMITS = replace(FAULT_LIMITS, connect_timeout_seconds=1.0)


def assert_no_more_attempts(tunnel: Tunnel) -> None:
    """It does not try again: many backoffs long nothing changes."""
    before = tunnel.status().connect_attempts
    threading.Event().wait(NOTHING_MORE_SECONDS)
    assert tunnel.status().connect_attempts == before
    assert tunnel.status().state is State.REFUSED


def assert_no_token_is_shown(rig: Rig, pair: Pair) -> None:
    tokens = {pair.tokens.source_token, pair.tokens.destination_token}
    for tunnel in (pair.source, pair.destination):
        tokens |= set(tunnel._context.credentials.current())
    shown = repr((rig.events.all(), rig.service_events.all(), pair))
    shown += repr([tunnel.status() for tunnel in (pair.source, pair.destination)])
    assert not any(token in shown for token in tokens)


class TestRefusedForGood:
    @pytest.mark.parametrize("status", [400, 401, 403, 404])
    def test_a_refusal_is_not_retried_and_says_why(self, rig: Rig, status: int) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        address = pair.address()
        with undisturbed(rig), pair.connect() as client:
            assert echo(client, b"before") == b"before"
            rig.service.refuse_next(pair.name, status, USED_TOKEN_TEXT, count=1_000)
            rig.service.drop(pair.name, Mode.SOURCE)
            refused = pair.source.wait_for(State.REFUSED, WAIT_SECONDS)
            assert f"HTTP {status}" in refused.reason
            assert USED_TOKEN_TEXT in refused.reason
            assert_ends(client)
            assert_no_more_attempts(pair.source)
            assert_is_refused(address)
            assert pair.destination.status().state is State.CONNECTED
            assert pair.destination.status().connect_attempts == 1
        assert_no_token_is_shown(rig, pair)

    def test_callers_wait_for_the_grace_time_and_are_then_refused(self, rig: Rig) -> None:
        limits = replace(FAULT_LIMITS, offline_grace_seconds=0.6)
        tunnel = open_alone(rig, rig.endpoint, limits=limits, token="b" * 64)
        address = tunnel.wait_listening("SSH", WAIT_SECONDS)
        started = time.monotonic()
        with connect(address) as early:
            tunnel.wait_for(State.REFUSED, WAIT_SECONDS)
            assert_ends(early)
        assert time.monotonic() - started >= 0.3
        assert_is_refused(address)

    def test_a_new_token_brings_it_back(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        address = pair.address()
        with undisturbed(rig):
            tokens = rig.service.rotate(pair.name, Mode.SOURCE)
            refused = pair.source.wait_for(State.REFUSED, WAIT_SECONDS)
            assert "Invalid access token" in refused.reason
            assert_is_refused(address)
            rig.runtime.replace_token(pair.source.name, tokens.source_token)
            status = pair.source.wait_for(State.CONNECTED, WAIT_SECONDS)
            assert status.reason == ""
            assert pair.address() == address
            assert_carries(pair)
        assert_no_token_is_shown(rig, pair)

    def test_a_wrong_new_token_is_refused_again(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        for mode, tunnel in ((Mode.SOURCE, pair.source), (Mode.DESTINATION, pair.destination)):
            tokens = rig.service.rotate(pair.name, mode)
            tunnel.wait_for(State.REFUSED, WAIT_SECONDS)
            attempts = tunnel.status().connect_attempts
            rig.runtime.replace_token(tunnel.name, "c" * 64)
            eventually(lambda t=tunnel, n=attempts: t.status().connect_attempts > n, "an attempt")
            tunnel.wait_for(State.REFUSED, WAIT_SECONDS)
            token = tokens.source_token if mode is Mode.SOURCE else tokens.destination_token
            rig.runtime.replace_token(tunnel.name, token)
            tunnel.wait_for(State.CONNECTED, WAIT_SECONDS)
        assert_carries(pair)

    @pytest.mark.parametrize("mode", [Mode.SOURCE, Mode.DESTINATION, None])
    def test_a_rotation_whose_token_comes_at_once(self, rig: Rig, mode: Mode | None) -> None:
        """The new token races with the refusal of the old one; many times, to meet every order."""
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        for _ in range(20):
            tokens = rig.service.rotate(pair.name, mode)
            if mode is not Mode.DESTINATION:
                rig.runtime.replace_token(pair.source.name, tokens.source_token)
            if mode is not Mode.SOURCE:
                rig.runtime.replace_token(pair.destination.name, tokens.destination_token)
            eventually(
                lambda: (
                    tuple(
                        (snapshot.source_connected, snapshot.destination_connected)
                        for snapshot in rig.service.tunnels()
                    )
                    == ((True, True),)
                ),
                f"both ends: {pair.source.status()} {pair.destination.status()}",
            )
        rig.wait_connected(pair)
        assert_carries(pair)

    def test_a_token_that_was_used_without_a_client_token(self, rig: Rig) -> None:
        """Two runtimes are given the same token: the second one learns that it is spent."""
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        with rig.make_runtime() as other, undisturbed(rig):
            config = replace(pair.source.config, name="thief")
            thief = other.open_tunnel(config)
            refused = thief.wait_for(State.REFUSED, WAIT_SECONDS)
            assert (
                "Invalid client token: The provided client token does not match" in refused.reason
            )
        assert_carries(pair)

    def test_the_token_of_the_other_mode(self, rig: Rig) -> None:
        tokens = rig.service.open_tunnel("swapped", ["SSH"])
        tunnel = open_alone(rig, rig.endpoint, token=tokens.destination_token)
        assert "HTTP 400" in tunnel.wait_for(State.REFUSED, WAIT_SECONDS).reason


class TestRetried:
    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_a_passing_refusal(self, rig: Rig, status: int) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        with undisturbed(rig):
            rig.service.refuse_next(pair.name, status, "busy, come back", count=4)
            rig.service.drop(pair.name, Mode.SOURCE)
            wait_reconnected(pair.source, "lost")
            assert_carries(pair)
        status_seen = pair.source.status()
        assert status_seen.connect_failures == 4
        assert pair.source.stats.connect_failures == {f"http_{status}": 4}
        reasons = reasons_of(rig, pair.source)
        assert any(f"HTTP {status}" in r and "busy, come back" in r for r in reasons), reasons
        assert all("retry in" in reason for reason in reasons), reasons

    def test_garbage(self, plain_rig: Rig) -> None:
        self.assert_comes_back_after(plain_rig, lambda: plain_rig.service.garbage_next(3), 3)

    def test_garbage_under_tls(self, rig: Rig) -> None:
        self.assert_comes_back_after(rig, lambda: rig.service.garbage_next(3), 3)

    def test_silence(self, rig: Rig) -> None:
        pair = self.assert_comes_back_after(rig, lambda: rig.service.silence_next(2), 2)
        silences = [r for r in reasons_of(rig, pair.source) if "after 1 s" in r]
        assert len(silences) == 2, reasons_of(rig, pair.source)

    def assert_comes_back_after(self, rig: Rig, fault: object, failures: int) -> Pair:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=CONNECT_LIMITS)
        assert callable(fault)
        with undisturbed(rig):
            fault()
            rig.service.drop(pair.name, Mode.SOURCE)
            wait_reconnected(pair.source, "lost")
            assert_carries(pair)
        assert pair.source.status().connect_failures == failures
        return pair

    def test_a_refused_connection(self, rig: Rig) -> None:
        endpoint = Endpoint.parse(f"ws://127.0.0.1:{free_port()}")
        with undisturbed(rig):
            tunnel = open_alone(rig, endpoint)
            eventually(lambda: tunnel.status().connect_failures >= 3, "three failures")
            reason = tunnel.wait_for({State.BACKOFF, State.CONNECTING}, WAIT_SECONDS).reason
        assert str(endpoint.port) in reason
        assert "Connection refused" in reason
        assert tunnel.stats.connect_failures.keys() == {"connect_failed"}

    def test_a_host_that_does_not_exist(self, rig: Rig) -> None:
        with undisturbed(rig):
            tunnel = open_alone(rig, Endpoint.parse("wss://no-such-host.invalid"))
            eventually(lambda: tunnel.status().connect_failures >= 2, "two failures")
        assert "no-such-host.invalid" in tunnel.status().reason

    def test_a_certificate_that_is_not_trusted(self, rig: Rig) -> None:
        with Rig(tls=True, ssl_context=ssl.create_default_context()) as stranger:
            stranger.service.open_tunnel("t", ["SSH"])
            tunnel = open_alone(stranger, stranger.endpoint)
            eventually(lambda: tunnel.status().connect_failures >= 2, "two failures")
            reason = tunnel.status().reason
        assert "TLS" in reason
        assert "certificate" in reason.lower()


class TestScriptedAnswers:
    """What only a service can say that is not one."""

    @pytest.fixture
    def rig(self, plain_rig: Rig) -> Rig:
        return plain_rig

    def failure_of(self, rig: Rig, script: object) -> str:
        """Why the first attempt failed; the second one is answered as it should be."""
        assert callable(script)

        def well(peer: FaultyPeer) -> None:
            peer.upgrade()
            peer.announce("SSH")
            peer.wait_closed()

        with undisturbed(rig), ScriptedService(script, well) as service:
            tunnel = open_alone(rig, service.endpoint, limits=CONNECT_LIMITS)
            tunnel.wait_for(State.CONNECTED, WAIT_SECONDS)
            assert tunnel.status().connect_attempts == 2
            assert tunnel.status().connect_failures == 1
            assert len(service.peers) == 2
        reasons = reasons_of(rig, tunnel)
        assert FORGED_TOKEN not in "".join(reasons)
        return reasons[0]

    def test_an_end_without_an_answer(self, rig: Rig) -> None:
        assert self.failure_of(rig, lambda _peer: None)

    def test_half_an_answer_and_then_nothing(self, rig: Rig) -> None:
        def script(peer: FaultyPeer) -> None:
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: webso")
            peer.wait_closed()

        assert "after 1 s" in self.failure_of(rig, script)

    def test_an_answer_that_drips(self, rig: Rig) -> None:
        """Each byte comes in time, the whole does not."""

        def script(peer: FaultyPeer) -> None:
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\nx: ")
            while True:
                peer.send(b"x")
                threading.Event().wait(0.05)

        assert "after 1 s" in self.failure_of(rig, script)

    def test_headers_without_end(self, rig: Rig) -> None:
        def script(peer: FaultyPeer) -> None:
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
            while True:
                peer.send(b"x: " + b"y" * 60_000 + b"\r\n")

        assert self.failure_of(rig, script)

    def test_a_body_without_end(self, rig: Rig) -> None:
        def script(peer: FaultyPeer) -> None:
            peer.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 1000000000000\r\n\r\n")
            while True:
                peer.send(b"y" * 60_000)

        assert self.failure_of(rig, script)

    def test_a_wrong_accept_key(self, rig: Rig) -> None:
        def script(peer: FaultyPeer) -> None:
            peer.upgrade(sec_websocket_accept="d3Jvbmc=")
            peer.announce("SSH")
            peer.wait_closed()

        assert self.failure_of(rig, script)

    def test_a_redirect_is_not_followed(self, rig: Rig) -> None:
        """The access token is for the endpoint that was named and for no other."""
        with ScriptedService(lambda peer: peer.wait_closed()) as elsewhere:

            def script(peer: FaultyPeer) -> None:
                location = elsewhere.endpoint.url(Mode.SOURCE)
                head = f"HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
                peer.send(head.encode())
                peer.wait_closed()

            assert "redirect" in self.failure_of(rig, script).lower()
            assert not elsewhere.peers

    def test_a_subprotocol_that_was_not_offered(self, rig: Rig) -> None:
        def script(peer: FaultyPeer) -> None:
            peer.upgrade(sec_websocket_protocol="chat")
            peer.announce("SSH")
            peer.wait_closed()

        assert self.failure_of(rig, script)

    def test_a_refusal_that_repeats_the_token(self, rig: Rig) -> None:
        """What the service says is shown, but not the secret in it."""

        def script(peer: FaultyPeer) -> None:
            body = "bad token " + FORGED_TOKEN
            head = f"HTTP/1.1 403 Forbidden\r\nchannel-id: c-1\r\ncontent-length: {len(body)}\r\n"
            peer.send((head + "\r\n" + body).encode())
            peer.wait_closed()

        with undisturbed(rig), ScriptedService(script) as service:
            tunnel = open_alone(rig, service.endpoint)
            reason = tunnel.wait_for(State.REFUSED, WAIT_SECONDS).reason
        assert "HTTP 403" in reason
        assert "bad token" in reason
        assert FORGED_TOKEN not in reason
