"""Both ends agree on how a connection ended: whole, or cut (docs/protocol.md section 3a).

The test is both applications: it holds the client's socket and the server's, so that nothing
depends on time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest

from tests.support.processes import RuntimeProcess
from tests.support.rig import FAST_LIMITS, Pair, Rig, connect, receive_exactly, receive_rest
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.witness import actor, crash_and_wait
from tunnelfleet.actors.kernel import kill
from tunnelfleet.runtime import Mode, ProtocolVersion, TcpAddress, TunnelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

RST_ON_CLOSE = struct.pack("ii", 1, 0)
IMPATIENT = replace(FAST_LIMITS, linger_seconds=0.1, half_close_seconds=0.2, hello_seconds=0.3)
"""Times that a connection which is merely quiet outlasts in these tests."""

every_version = pytest.mark.parametrize("version", list(ProtocolVersion))
both_ways = pytest.mark.parametrize("sender", ["client", "server"])


class Ends(NamedTuple):
    """Both applications of one connection."""

    client: socket.socket
    server: socket.socket

    def of(self, name: str) -> tuple[socket.socket, socket.socket]:
        """The application of this name, and the other one."""
        return (self.client, self.server) if name == "client" else (self.server, self.client)


class Applications:
    """A server that accepts when told to, behind a pair of tunnels."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.settimeout(WAIT_SECONDS)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._listener.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    @property
    def address(self) -> TcpAddress:
        return TcpAddress(*self._listener.getsockname())

    def accept(self) -> socket.socket:
        server, _ = self._listener.accept()
        server.settimeout(WAIT_SECONDS)
        self._stack.callback(server.close)
        return server

    def connect(self, pair: Pair) -> Ends:
        """A connection through the tunnel, on which both directions have carried bytes."""
        client = pair.connect()
        client.settimeout(WAIT_SECONDS)
        self._stack.callback(client.close)
        server = self.accept()
        client.sendall(b"ping")
        assert receive_exactly(server, 4) == b"ping"
        server.sendall(b"pong")
        assert receive_exactly(client, 4) == b"pong"
        return Ends(client, server)


@pytest.fixture
def applications() -> Iterator[Applications]:
    with Applications() as made:
        yield made


def reset(sock: socket.socket) -> None:
    """End as a process that is killed with unread bytes, or wants to: by a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    sock.close()


def is_cut(sock: socket.socket) -> bool:
    """Wait for the end; say whether it was a reset."""
    try:
        receive_rest(sock)
    except ConnectionResetError:
        return True
    return False


def is_cut_at_once(pair: Pair, request: bytes = b"") -> bool:
    """Whether a new connection ends with a reset, which may come before it has done anything."""
    try:
        with pair.connect() as client:
            client.sendall(request)
            receive_rest(client)
    except ConnectionResetError:
        return True
    return False


def pair_of(
    rig: Rig,
    applications: Applications,
    version: ProtocolVersion = ProtocolVersion.V3,
    **more: object,
) -> Pair:
    options = {"version": version, "limits": IMPATIENT, **more}
    return rig.pair({"SSH": applications.address}, **options)  # type: ignore[arg-type]


# -- ends in good order


@every_version
@both_ways
def test_a_half_closed_connection_carries_the_other_direction(
    rig: Rig, applications: Applications, version: ProtocolVersion, sender: str
) -> None:
    limits = replace(IMPATIENT, half_close_seconds=60.0)
    ends = applications.connect(pair_of(rig, applications, version, limits=limits))
    ours, theirs = ends.of(sender)
    ours.sendall(b"request")
    ours.shutdown(socket.SHUT_WR)
    assert receive_rest(theirs) == b"request"
    reply = os.urandom(3_000_000)
    theirs.settimeout(WAIT_SECONDS)
    with theirs:
        for start in range(0, len(reply), 300_000):
            theirs.sendall(reply[start : start + 300_000])
            assert receive_exactly(ours, 300_000) == reply[start : start + 300_000]
    assert receive_rest(ours) == b""


@both_ways
def test_no_clock_ends_a_direction_that_is_merely_quiet(
    rig: Rig, applications: Applications, sender: str
) -> None:
    """V3. The limits are over several times before the reply; other connections show it."""
    pair = pair_of(rig, applications)
    ends = applications.connect(pair)
    ours, theirs = ends.of(sender)
    ours.shutdown(socket.SHUT_WR)
    assert receive_rest(theirs) == b""
    # Stalled for the times of all limits: the service holds a byte back for longer than each.
    rig.service.delay(pair.name, 0.6)
    theirs.sendall(b"late")
    theirs.close()
    assert receive_rest(ours) == b"late"


@every_version
def test_a_half_closed_end_is_noticed_when_its_application_is_gone(
    rig: Rig, applications: Applications, version: ProtocolVersion
) -> None:
    pair = pair_of(rig, applications, version, limits=replace(IMPATIENT, half_close_seconds=60.0))
    ends = applications.connect(pair)
    ends.client.close()
    assert receive_rest(ends.server) == b""
    # As TCP does it: whoever writes to an application that has closed is told by a reset.
    assert is_cut_when_written(ends.server)
    eventually(lambda: pair.source.status().connections_active == 0, "the source lets it go")
    eventually(lambda: pair.destination.status().connections_active == 0, "and the destination")


@pytest.mark.parametrize("version", [ProtocolVersion.V1, ProtocolVersion.V2])
@both_ways
def test_before_v3_a_half_closed_connection_has_an_end(
    rig: Rig, applications: Applications, version: ProtocolVersion, sender: str
) -> None:
    ends = applications.connect(pair_of(rig, applications, version))
    ours, theirs = ends.of(sender)
    ours.shutdown(socket.SHUT_WR)
    assert receive_rest(theirs) == b""
    assert is_cut(ours)
    assert is_cut_when_written(theirs)


def is_cut_when_written(sock: socket.socket) -> bool:
    """Whether a socket whose input has ended was reset: writing tells."""
    try:
        while True:
            sock.sendall(b"x" * 65_536)
    except (ConnectionResetError, BrokenPipeError):
        return True


# -- ends that are cuts


@every_version
@both_ways
def test_a_reset_of_an_application_is_a_reset_for_the_other(
    rig: Rig, applications: Applications, version: ProtocolVersion, sender: str
) -> None:
    ends = applications.connect(pair_of(rig, applications, version))
    ours, theirs = ends.of(sender)
    ours.sendall(b"twelve bytes")
    assert receive_exactly(theirs, 12) == b"twelve bytes"
    reset(ours)
    assert is_cut(theirs)


@every_version
@both_ways
def test_a_reset_in_mid_transfer(
    rig: Rig, applications: Applications, version: ProtocolVersion, sender: str
) -> None:
    """The receiver breaks off; the sender learns it from its own writes."""
    ends = applications.connect(pair_of(rig, applications, version))
    ours, theirs = ends.of(sender)
    ours.settimeout(WAIT_SECONDS)
    ours.sendall(b"x" * 200_000)
    receive_exactly(theirs, 1_000)
    reset(theirs)
    assert is_cut_when_written(ours)


@every_version
@pytest.mark.parametrize("side", ["source", "destination"])
@both_ways
def test_a_close_in_mid_transfer(
    rig: Rig, applications: Applications, version: ProtocolVersion, side: str, sender: str
) -> None:
    """Whichever end of the tunnel is closed: what arrived is right, and does not look whole."""
    pair = pair_of(rig, applications, version)
    ends = applications.connect(pair)
    ours, theirs = ends.of(sender)
    data = os.urandom(100_000)
    ours.sendall(data)
    assert receive_exactly(theirs, 50_000) == data[:50_000]
    rig.runtime.close_tunnel(getattr(pair, side).name)
    assert is_cut(theirs)
    assert is_cut(ours)


@every_version
@pytest.mark.parametrize("side", ["source", "destination"])
def test_the_time_of_a_close_is_over(
    rig: Rig, applications: Applications, version: ProtocolVersion, side: str
) -> None:
    """The wire is too slow for what was read: cut at the deadline, at both ends."""
    limits = replace(IMPATIENT, stop_timeout_seconds=0.5)
    pair = pair_of(rig, applications, version, limits=limits)
    ends = applications.connect(pair)
    ours, theirs = ends.of("client" if side == "source" else "server")
    # In the half second a third of what is on the way.
    rig.service.throttle(pair.name, 150_000)
    ours.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        for _ in range(1_000):
            ours.sendall(b"x" * 65_536)
    rig.runtime.close_tunnel(getattr(pair, side).name)
    assert is_cut(theirs)
    assert is_cut(ours)


@every_version
@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("how", ["crashed", "killed"])
def test_a_socket_actor_that_ends_by_force(
    rig: Rig, applications: Applications, version: ProtocolVersion, side: str, how: str
) -> None:
    pair = pair_of(rig, applications, version)
    ends = applications.connect(pair)
    ours, theirs = ends.of("client" if side == "source" else "server")
    tunnel = getattr(pair, side)
    if how == "killed":
        kill(actor(rig.runtime, "SocketActor", tunnel.name))
    else:
        crash_and_wait(actor(rig.runtime, "SocketActor", tunnel.name))
    assert is_cut(theirs)
    assert is_cut(ours)


@every_version
def test_a_server_that_is_not_there_is_a_reset_for_the_client(
    rig: Rig, version: ProtocolVersion
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = TcpAddress(*closed.getsockname())
    pair = rig.pair({"SSH": address}, version=version)
    assert is_cut_at_once(pair)


@every_version
@pytest.mark.parametrize("marks", [True, False])
def test_a_destination_that_is_not_there_is_a_reset_for_the_client(
    rig: Rig, applications: Applications, version: ProtocolVersion, marks: bool
) -> None:
    """It was cut and is not back: the service resets what starts in the meantime."""
    pair = pair_of(rig, applications, version, marks=marks)
    rig.runtime.close_tunnel(pair.destination.name)
    eventually(lambda: not rig.service.tunnel(pair.name).destination_connected)
    assert is_cut_at_once(pair)
    assert is_cut_at_once(pair, b"request")


def test_nor_is_it_an_end_for_a_client_that_has_said_all(
    rig: Rig, applications: Applications
) -> None:
    pair = pair_of(rig, applications)
    rig.runtime.close_tunnel(pair.destination.name)
    eventually(lambda: not rig.service.tunnel(pair.name).destination_connected)
    # What it says and that this is all arrive at the service before the answer leaves it.
    rig.service.delay(pair.name, 0.2)
    with pair.connect() as client:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert is_cut(client)


@every_version
@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_lost_connection_is_a_reset_for_both(
    rig: Rig, applications: Applications, version: ProtocolVersion, side: str
) -> None:
    pair = pair_of(rig, applications, version)
    ends = applications.connect(pair)
    rig.service.drop(pair.name, Mode(side))
    assert is_cut(ends.client)
    assert is_cut(ends.server)


def test_a_killed_process_is_a_reset_for_both(rig: Rig, applications: Applications) -> None:
    """The kernel ends its sockets, and a killed process has no say in how."""
    with RuntimeProcess(rig, {"SSH": applications.address}) as process:
        client = connect(process.listening["SSH"])
        server = applications.accept()
        with client:
            client.sendall(b"ping")
            assert receive_exactly(server, 4) == b"ping"
            server.sendall(b"pong")
            assert receive_exactly(client, 4) == b"pong"
            process.kill()
            assert is_cut(client)
            assert is_cut(server)


# -- peers that do not mark


@every_version
@pytest.mark.parametrize("unmarked", ["source", "destination", "both"])
@both_ways
def test_with_a_peer_that_does_not_mark_an_end_is_the_end_of_both_directions(
    rig: Rig, applications: Applications, version: ProtocolVersion, unmarked: str, sender: str
) -> None:
    pair = unmarked_pair(rig, applications, version, unmarked)
    ends = applications.connect(pair)
    ours, theirs = ends.of(sender)
    ours.sendall(b"request")
    ours.shutdown(socket.SHUT_WR)
    assert receive_rest(theirs) == b"request"
    # At once, though the other application has not ended.
    assert receive_rest(ours) == b""
    eventually(lambda: pair.source.status().connections_active == 0, "its place is free")
    eventually(lambda: pair.destination.status().connections_active == 0, "at both ends")


def unmarked_pair(
    rig: Rig,
    applications: Applications,
    version: ProtocolVersion,
    unmarked: str,
    **limits: object,
) -> Pair:
    """A pair of which one end, or both, do not mark."""
    name = f"unmarked {unmarked} {version}"
    tokens = rig.service.open_tunnel(name, ["SSH"])
    config = TunnelConfig(
        name=f"{name} destination",
        mode=Mode.DESTINATION,
        endpoint=rig.endpoint,
        access_token=tokens.destination_token,
        services={"SSH": applications.address},
        limits=replace(FAST_LIMITS, **limits),  # type: ignore[arg-type]
        marks=unmarked not in ("destination", "both"),
    )
    source = replace(
        config,
        name=f"{name} source",
        mode=Mode.SOURCE,
        access_token=tokens.source_token,
        services={"SSH": TcpAddress("127.0.0.1", 0)},
        version=version,
        marks=unmarked not in ("source", "both"),
    )
    pair = Pair(name, tokens, rig.runtime.open_tunnel(source), rig.runtime.open_tunnel(config))
    rig.wait_connected(pair)
    pair.address()
    return pair


@pytest.mark.parametrize("unmarked", ["source", "destination", "both"])
def test_connections_one_after_the_other_wait_for_nothing(
    rig: Rig, applications: Applications, unmarked: str
) -> None:
    """More than may be open at once, to a peer that answers no reset."""
    pair = unmarked_pair(
        rig, applications, ProtocolVersion.V3, unmarked, max_connections=4, linger_seconds=30.0
    )
    servers = []
    for number in range(40):
        ends = applications.connect(pair)
        ends.client.shutdown(socket.SHUT_WR)
        assert receive_rest(ends.client) == b"", number
        ends.client.close()
        servers.append(ends.server)
    assert all(receive_rest(server) == b"" for server in servers)


@both_ways
def test_unread_input_does_not_destroy_the_tail_of_what_was_written(
    rig: Rig, applications: Applications, sender: str
) -> None:
    """The peer's reset comes while the local application still sends."""
    pair = unmarked_pair(rig, applications, ProtocolVersion.V3, "both")
    ends = applications.connect(pair)
    ours, theirs = ends.of(sender)
    theirs.sendall(b"y" * 300_000)
    tail = os.urandom(200_000)
    ours.sendall(tail)
    ours.shutdown(socket.SHUT_WR)
    theirs.sendall(b"y" * 100_000)
    assert receive_exactly(theirs, len(tail)) == tail
    assert receive_rest(theirs) == b""
