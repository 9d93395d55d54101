"""Local addresses of both ends, and of the service: Unix sockets, IPv4, IPv6, host names."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.backends import LOOPBACK, LOOPBACK_V6
from tests.support.content import MIB
from tests.support.rig import Rig, connect, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import (
    ListenerClosed,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelState,
    UnixAddress,
)

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from tests.support.rig import Pair


def assert_echoes(pair: Pair, service_id: str = "APP") -> None:
    data = os.urandom(MIB + 1)
    with pair.connect(service_id) as client:
        assert echo(client, data) == data


class TestUnixSockets:
    def test_as_the_target(self, rig: Rig, tmp_path: Path) -> None:
        server = rig.backends.echo(UnixAddress(str(tmp_path / "app.sock")))
        assert_echoes(rig.pair({"APP": server.address}))

    def test_as_the_listener(self, rig: Rig, tmp_path: Path) -> None:
        path = tmp_path / "listen.sock"
        listen = UnixAddress(str(path))
        pair = rig.pair({"APP": rig.backends.echo().address}, listen={"APP": listen})
        assert pair.address() == listen
        assert_echoes(pair)
        rig.runtime.close_tunnel(pair.source.name)
        assert not path.exists()

    def test_at_both_ends(self, rig: Rig, tmp_path: Path) -> None:
        server = rig.backends.echo(UnixAddress(str(tmp_path / "app.sock")))
        listen = {"APP": UnixAddress(str(tmp_path / "listen.sock"))}
        assert_echoes(rig.pair({"APP": server.address}, listen=listen))

    def test_a_socket_left_behind_is_replaced(self, rig: Rig, tmp_path: Path) -> None:
        path = tmp_path / "listen.sock"
        with listening(path):
            pass
        assert stat.S_ISSOCK(path.stat().st_mode)
        listen = {"APP": UnixAddress(str(path))}
        assert_echoes(rig.pair({"APP": rig.backends.echo().address}, listen=listen))

    def test_a_socket_in_use_and_a_file_are_left_alone(self, rig: Rig, tmp_path: Path) -> None:
        server = rig.backends.echo(UnixAddress(str(tmp_path / "used.sock")))
        file = tmp_path / "file"
        file.write_text("precious")
        listen = {"USED": server.address, "FILE": UnixAddress(str(file))}
        pair = rig.pair({"USED": server.address, "FILE": server.address}, listen=listen, wait=False)
        rig.wait_connected(pair)
        for service_id, path in (("USED", "used.sock"), ("FILE", "file")):
            (closed, *_more) = rig.events.wait(
                lambda event, wanted=service_id: (
                    isinstance(event, ListenerClosed) and event.service_id == wanted
                )
            )
            assert path in closed.reason
            assert "in use" in closed.reason
        assert file.read_text() == "precious"
        with connect(server.address) as client:
            assert echo(client, b"still here") == b"still here"


def listening(path: Path) -> socket.socket:
    """A listening Unix socket; when it is closed its file stays."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    return sock


class TestIPv6:
    def test_as_the_target(self, rig: Rig) -> None:
        assert_echoes(rig.pair({"APP": rig.backends.echo(LOOPBACK_V6).address}))

    def test_as_the_listener(self, rig: Rig) -> None:
        pair = rig.pair({"APP": rig.backends.echo().address}, listen={"APP": LOOPBACK_V6})
        assert pair.tcp().host == "::1"
        assert_echoes(pair)

    def test_as_the_service(self) -> None:
        with Rig(tls=True, host="::1") as rig:
            assert rig.service.endpoint.startswith("wss://[::1]:")
            pair = rig.pair(
                {"APP": rig.backends.echo(LOOPBACK_V6).address}, listen={"APP": LOOPBACK_V6}
            )
            assert_echoes(pair)


class TestHostNames:
    def test_localhost_as_target_and_listener(self, rig: Rig) -> None:
        server = rig.backends.echo(LOOPBACK)
        assert isinstance(server.address, TcpAddress)
        target = TcpAddress("localhost", server.address.port)
        assert_echoes(rig.pair({"APP": target}, listen={"APP": TcpAddress("localhost", 0)}))

    def test_a_name_that_does_not_exist_ends_the_connection_only(self, rig: Rig) -> None:
        services = {
            "APP": rig.backends.echo().address,
            "LOST": TcpAddress("no-such-host.invalid", 1),
        }
        pair = rig.pair(services)
        with pair.connect("APP") as client:
            assert echo(client, b"before") == b"before"
            with pair.connect("LOST") as lost:
                assert_reset_or_end(lost)
            assert echo(client, b"after") == b"after"


def assert_reset_or_end(sock: socket.socket) -> None:
    try:
        assert sock.recv(1) == b""
    except ConnectionResetError:
        return


class TestFreePorts:
    def test_a_source_without_services_listens_for_each_that_is_announced(self, rig: Rig) -> None:
        servers = {name: rig.backends.echo().address for name in ("SSH", "HTTP")}
        pair = rig.pair(servers)
        rig.runtime.close_tunnel(pair.source.name)
        tokens = rig.service.rotate(pair.name, Mode.SOURCE)
        source = rig.runtime.open_tunnel(
            TunnelConfig(
                name="free ports",
                mode=Mode.SOURCE,
                endpoint=rig.endpoint,
                access_token=tokens.source_token,
            )
        )
        source.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        for service_id in servers:
            with connect(source.wait_listening(service_id, WAIT_SECONDS)) as client:
                assert echo(client, service_id.encode()) == service_id.encode()

    def test_a_port_that_is_taken_is_tried_again_until_it_is_free(self, rig: Rig) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = TcpAddress("127.0.0.1", taken.getsockname()[1])
            pair = rig.pair(
                {"APP": rig.backends.echo().address}, listen={"APP": listen}, wait=False
            )
            rig.wait_connected(pair)
            rig.events.wait(
                lambda event: isinstance(event, ListenerClosed) and "in use" in event.reason
            )
        assert pair.address("APP") == listen
        eventually(lambda: bool(pair.source.status().listening), "the listener")
        assert_echoes(pair)


@pytest.mark.parametrize("address", ["127.0.0.2", "127.0.0.3"])
def test_the_address_that_local_connects_come_from(rig: Rig, address: str) -> None:
    async def tell_peer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("peername")[0].encode())

    pair = rig.pair({"APP": rig.backends.serve(tell_peer).address}, local_bind=address)
    with pair.connect() as client:
        assert client.recv(100).decode() == address
