"""Faults of local applications: nobody listens, nobody reads, everybody resets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.content import MIB, blocks, digest
from tests.support.rig import connect, echo, receive_exactly
from tests.support.sockets import free_port
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.witness import (
    FAULT_LIMITS,
    Witness,
    assert_carries,
    assert_ends,
    assert_is_refused,
    undisturbed,
)
from tunnelfleet.runtime import ConnectionClosed, ProtocolVersion, TcpAddress, UnixAddress
from tunnelfleet.runtime import TunnelState as State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.rig import Pair, Rig

V1, V2, V3 = ProtocolVersion.V1, ProtocolVersion.V2, ProtocolVersion.V3
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
RESETS = 20
STALL_SECONDS = 1.0
MAX_TAKEN_BYTES = 64 * MIB
"""What the kernel's buffers on the way may hold, with room; far from all that is sent."""
STALL_LIMITS = replace(FAULT_LIMITS, stall_timeout_seconds=STALL_SECONDS)


def unused_port() -> TcpAddress:
    """A port of this machine where nobody listens."""
    return TcpAddress("127.0.0.1", free_port())


@contextlib.contextmanager
def upload(client: socket.socket) -> Iterator[list[int]]:
    """Send on a connection until it breaks; yields a list that holds the bytes that it took."""
    taken = [0]

    def send() -> None:
        with contextlib.suppress(OSError):
            for block in blocks(10_000 * MIB):
                view = memoryview(block)
                while view:
                    sent = client.send(view)
                    taken[0] += sent
                    view = view[sent:]

    sender = threading.Thread(target=send, name="upload")
    sender.start()
    try:
        yield taken
    finally:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        sender.join(WAIT_SECONDS)


class TestPortIsRefused:
    @pytest.mark.parametrize("version", [V1, V2, V3])
    def test_the_caller_is_told(self, rig: Rig, version: ProtocolVersion) -> None:
        pair = rig.pair({"SSH": unused_port()}, version=version, limits=FAULT_LIMITS)
        with undisturbed(rig):
            for _ in range(3):
                assert_is_refused(pair.address())
        for tunnel in (pair.source, pair.destination):
            eventually(lambda t=tunnel: t.status().connections_active == 0, "no connection")
            assert tunnel.status().connect_attempts == 1
        closed = rig.events.wait(
            lambda e: isinstance(e, ConnectionClosed) and e.tunnel == pair.destination.name, count=3
        )
        reasons = [e.reason for e in closed]
        assert len(reasons) == 3
        assert all("Connection refused" in reason for reason in reasons), reasons

    @pytest.mark.parametrize("version", [V2, V3])
    def test_another_service_of_the_tunnel_does_not_notice(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        services = {"SSH": unused_port(), "ECHO": rig.backends.echo().address}
        pair = rig.pair(services, version=version, limits=FAULT_LIMITS)
        with Witness(pair.address("ECHO")) as witness:
            for _ in range(3):
                assert_is_refused(pair.address("SSH"))
                witness.check()
        assert pair.destination.status().streams_opened >= 2

    def test_another_connection_of_the_stream_does_not_notice(
        self, rig: Rig, tmp_path: Path
    ) -> None:
        """In V3 only the connection ends: the application went away after the first was made."""
        path = tmp_path / "app.sock"
        server = rig.backends.echo(UnixAddress(str(path)))
        pair = rig.pair({"SSH": server.address}, limits=FAULT_LIMITS)
        with Witness(pair.address()) as witness:
            path.unlink()
            for _ in range(3):
                assert_is_refused(pair.address())
                witness.check()
            status = pair.destination.status()
            assert (status.streams_opened, status.connections_opened) == (1, 4)

    @pytest.mark.parametrize("version", [V1, V2, V3])
    def test_an_application_that_comes_later_is_reached(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        address = unused_port()
        pair = rig.pair({"SSH": address}, version=version, limits=FAULT_LIMITS)
        assert_is_refused(pair.address())
        rig.backends.echo(address)
        assert_carries(pair)

    def test_a_host_that_does_not_exist(self, rig: Rig) -> None:
        pair = rig.pair({"SSH": TcpAddress("no-such-host.invalid", 22)}, limits=FAULT_LIMITS)
        with undisturbed(rig):
            assert_is_refused(pair.address())
        closed = rig.events.wait(
            lambda e: isinstance(e, ConnectionClosed) and e.tunnel == pair.destination.name
        )
        assert "no-such-host.invalid" in closed[0].reason

    def test_a_port_that_does_not_answer(self, rig: Rig) -> None:
        """Its backlog is full, so that a connect hangs until its own time is over."""
        with socket.socket() as listener, contextlib.ExitStack() as stack:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            address = TcpAddress(*listener.getsockname())
            stack.enter_context(connect(address))
            limits = replace(FAULT_LIMITS, local_connect_timeout_seconds=0.5)
            services = {"SSH": address, "ECHO": rig.backends.echo().address}
            pair = rig.pair(services, limits=limits)
            with Witness(pair.address("ECHO")) as witness:
                assert_is_refused(pair.address("SSH"))
                witness.check()
        closed = rig.events.wait(
            lambda e: isinstance(e, ConnectionClosed) and e.tunnel == pair.destination.name
        )
        assert "after 0.5 s" in closed[0].reason


class TestApplicationResets:
    @pytest.mark.parametrize("version", [V1, V2, V3])
    def test_the_reset_of_a_caller_reaches_the_application(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address}, version=version, limits=FAULT_LIMITS)
        with undisturbed(rig):
            client = pair.connect()
            assert echo(client, b"before") == b"before"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
            server.wait_active(0)
            assert_carries(pair)

    @pytest.mark.parametrize("version", [V1, V2, V3])
    def test_the_end_of_the_application_reaches_the_caller(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        server = rig.backends.giver(100_000)
        pair = rig.pair({"SSH": server.address}, version=version, limits=FAULT_LIMITS)
        with undisturbed(rig), pair.connect() as client:
            assert digest([receive_exactly(client, 100_000)]) == digest(blocks(100_000))
            assert_ends(client)

    def test_resets_behind_bytes_are_noticed(self, rig: Rig) -> None:
        """The kernel reports both at once, and libuv reports an error only once."""
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
        with undisturbed(rig):
            for _ in range(RESETS):
                client = pair.connect()
                client.sendall(b"behind")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                client.close()
            for tunnel in (pair.source, pair.destination):
                eventually(
                    lambda tunnel=tunnel: tunnel.status().connections_active == 0,
                    f"{tunnel.status().connections_active} connections of {tunnel.name} are left",
                )
            assert_carries(pair)

    def test_callers_hear_of_an_application_that_answers_and_resets(self, rig: Rig) -> None:
        def answer_and_reset() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted, _ = server.accept()
                    with accepted:
                        accepted.recv(100)
                        accepted.sendall(b"answer")
                        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=answer_and_reset)
            thread.start()
            pair = rig.pair(
                {"SSH": TcpAddress(*server.getsockname())},
                limits=FAULT_LIMITS,
            )
            try:
                for _ in range(RESETS):
                    with pair.connect() as client:
                        client.sendall(b"question")
                        assert_ends(client)
            finally:
                server.shutdown(socket.SHUT_RDWR)
                thread.join(WAIT_SECONDS)


class TestApplicationNeverReads:
    @pytest.mark.parametrize("version", [V1, V2, V3])
    def test_the_stall_timeout_frees_the_tunnel(self, rig: Rig, version: ProtocolVersion) -> None:
        """It holds up its tunnel, for the protocol has no other brake, but not for ever."""
        services = {"HANG": rig.backends.never_reads().address}
        if version is not V1:
            services["ECHO"] = rig.backends.echo().address
        pair = rig.pair(services, version=version, limits=STALL_LIMITS)
        with undisturbed(rig), pair.connect("HANG") as client, upload(client) as taken:
            eventually(lambda: pair.destination.stats.stalled_connections == 1, "a stall")
            assert taken[0] < MAX_TAKEN_BYTES
            assert_ends(client)
            if version is not V1:
                assert_carries(pair, "ECHO")
        for tunnel in (pair.source, pair.destination):
            assert tunnel.status().connect_attempts == 1, tunnel.status()
        closed = rig.events.wait(
            lambda e: isinstance(e, ConnectionClosed) and e.tunnel == pair.destination.name
        )
        assert closed[0].reason.startswith("stalled"), closed[0]

    def test_the_source_does_not_take_a_held_up_tunnel_for_dead(self, rig: Rig) -> None:
        """The service does not read the source meanwhile, so that its pings wait unanswered."""
        # Long enough that a busy machine's pause of a second is not what is looked at.
        stall_seconds = 3 * STALL_SECONDS
        pings: dict[str, Any] = {
            "ping_interval_seconds": 0.1,
            "pong_timeout_seconds": 0.8 * stall_seconds,
            "stall_timeout_seconds": stall_seconds,
        }
        services = {"HANG": rig.backends.never_reads(), "ECHO": rig.backends.echo()}
        pair = rig.pair(
            {name: server.address for name, server in services.items()},
            limits=replace(STALL_LIMITS, **pings),
        )
        with Witness(pair.address("ECHO")) as witness:
            with pair.connect("HANG") as client, upload(client):
                eventually(lambda: pair.destination.stats.stalled_connections == 1, "a stall")
            witness.check()
        for tunnel in (pair.source, pair.destination):
            assert tunnel.status().connect_attempts == 1, tunnel.status()

    def test_nothing_is_lost_when_it_reads_after_all(self, rig: Rig) -> None:
        sink = rig.backends.sink()
        pair = rig.pair({"SSH": sink.address}, limits=FAULT_LIMITS)
        rig.service.stall(pair.name, pair.source.mode)
        with pair.connect() as client:
            done = threading.Thread(
                target=lambda: [client.sendall(b) for b in blocks(20 * MIB)], name="sender"
            )
            done.start()
            done.join(0.5)
            assert done.is_alive(), "20 MB went somewhere"
            rig.service.resume_reading(pair.name, pair.source.mode)
            done.join(WAIT_SECONDS)
            client.shutdown(socket.SHUT_WR)
            (arrival,) = sink.arrivals()
        assert arrival.sha256 == digest(blocks(20 * MIB))

    def test_a_reader_that_pauses_gets_every_byte(self, rig: Rig) -> None:
        giver = rig.backends.giver(20 * MIB)
        pair = rig.pair({"SSH": giver.address}, limits=FAULT_LIMITS)
        with pair.connect() as client:
            eventually(lambda: has_settled(pair), "a full way")
            assert pair.source.status().received_bytes < 16 * MIB
            data = receive_exactly(client, 20 * MIB)
            assert_ends(client)
        assert digest([data]) == digest(blocks(20 * MIB))

    def test_the_tunnel_can_be_closed_meanwhile(self, rig: Rig) -> None:
        pair = rig.pair({"HANG": rig.backends.never_reads().address}, limits=FAULT_LIMITS)
        with undisturbed(rig), pair.connect() as client, upload(client):
            eventually(lambda: has_settled(pair), "a full way")
            for tunnel in (pair.source, pair.destination):
                assert rig.runtime.close_tunnel(tunnel.name).state is State.STOPPED
            assert_ends(client)


def has_settled(pair: Pair) -> bool:
    """Whether bytes have flowed, and for a fifth of a second none have."""

    def seen() -> tuple[int, int]:
        ends = (pair.source.status(), pair.destination.status())
        return (
            sum(end.sent_bytes for end in ends),
            sum(end.received_bytes for end in ends),
        )

    before = seen()
    threading.Event().wait(0.2)
    return before == seen() and before[1] > 0
