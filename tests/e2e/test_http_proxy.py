"""Tunnels through an HTTP proxy: CONNECT, credentials, and what is said when it refuses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.content import MIB
from tests.support.programs import require_program, running_program, wait_for_port
from tests.support.rig import Rig, echo
from tests.support.sockets import free_port
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import HttpProxy, TcpAddress, TunnelState, make_ssl_context
from tunnelfleet.runtime.service.tls import ensure_certificate, server_context

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.backends import Server

USER, PASSWORD = "press", "open:sesame"
READ_BYTES = 65_536


class ConnectProxy:
    """A proxy that knows only CONNECT.

    Args:
        credentials: "user:password" that it wants, or None.
    """

    def __init__(self, credentials: str | None = None) -> None:
        self.requests: list[str] = []
        self._wanted = None
        if credentials is not None:
            self._wanted = "Basic " + base64.b64encode(credentials.encode()).decode()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.split("\r\n")
        self.requests.append(request)
        headers = dict(line.split(": ", 1) for line in lines if line)
        assert headers["Host"] in request
        if self._wanted is not None and headers.get("Proxy-Authorization") != self._wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = request.split(" ")[1].rpartition(":")
        upstream_reader, upstream = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        try:
            await asyncio.gather(pipe(reader, upstream), pipe(upstream_reader, writer))
        finally:
            upstream.close()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


def proxy_of(
    server: Server, username: str = "", password: str = "", *, is_tls: bool = False
) -> HttpProxy:
    assert isinstance(server.address, TcpAddress)
    return HttpProxy(server.address.host, server.address.port, username, password, is_tls)


def assert_carries_through(rig: Rig, proxy: HttpProxy) -> None:
    pair = rig.pair({"SSH": rig.backends.echo().address}, http_proxy=proxy)
    data = os.urandom(MIB)
    with pair.connect() as client:
        assert echo(client, data) == data


class TestConnect:
    def test_without_credentials(self, rig: Rig) -> None:
        proxy = ConnectProxy()
        assert_carries_through(rig, proxy_of(rig.backends.serve(proxy)))
        expected = f"CONNECT 127.0.0.1:{rig.service.port} HTTP/1.1"
        assert proxy.requests == [expected, expected]

    def test_to_a_plain_service(self, plain_rig: Rig) -> None:
        assert_carries_through(plain_rig, proxy_of(plain_rig.backends.serve(ConnectProxy())))

    def test_with_credentials(self, rig: Rig) -> None:
        server = rig.backends.serve(ConnectProxy(f"{USER}:{PASSWORD}"))
        assert_carries_through(rig, proxy_of(server, USER, PASSWORD))

    def test_over_ipv6(self, rig: Rig) -> None:
        server = rig.backends.serve(ConnectProxy(), TcpAddress("::1", 0))
        assert_carries_through(rig, proxy_of(server))


@pytest.mark.parametrize("is_tls", [True, False], ids=["to wss", "to ws"])
def test_with_tls_to_the_proxy_itself(tmp_path: Path, is_tls: bool) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    context = server_context(files.own())
    own: Any = (
        {"certificate": files.certificate, "private_key": files.private_key} if is_tls else {}
    )
    with Rig(tls=is_tls, **own, ssl_context=make_ssl_context(files.ca)) as rig:
        proxy = ConnectProxy(f"{USER}:{PASSWORD}")
        server = rig.backends.serve(proxy, tls=context)
        pair = rig.pair(
            {"SSH": rig.backends.echo().address},
            http_proxy=proxy_of(server, USER, PASSWORD, is_tls=True),
        )
        # More than all buffers on the way hold, then idle: nothing may lie in one of them.
        data = os.urandom(8 * MIB)
        with pair.connect() as client:
            assert echo(client, data) == data
            assert echo(client, b"x") == b"x"
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        assert len(proxy.requests) == 2
        assert pair.source.status().reconnects == 0


class TestTrouble:
    def test_a_proxy_whose_certificate_is_not_trusted(self, rig: Rig, tmp_path: Path) -> None:
        files = ensure_certificate(tmp_path, "127.0.0.1")
        context = server_context(files.own())
        proxy = ConnectProxy()
        server = rig.backends.serve(proxy, tls=context)
        at = proxy_of(server, is_tls=True)
        pair = rig.pair({"SSH": TcpAddress("127.0.0.1", 9)}, http_proxy=at, wait=False)
        status = pair.source.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
        assert f"proxy {at}" in status.reason
        assert "certificate verify failed" in status.reason
        assert proxy.requests == []

    def test_wrong_credentials_are_told_and_tried_again(self, rig: Rig) -> None:
        proxy = ConnectProxy(f"{USER}:{PASSWORD}")
        server = rig.backends.serve(proxy)
        pair = rig.pair(
            {"SSH": rig.backends.echo().address},
            http_proxy=proxy_of(server, USER, "wrong"),
            wait=False,
        )
        server.wait_for(lambda: server.accepted > 2, 10.0, "second try")
        status = pair.source.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
        assert "407" in status.reason
        assert "credentials" in status.reason
        assert "wrong" not in repr(rig.events.all())

    def test_no_proxy_there(self, rig: Rig) -> None:
        proxy = HttpProxy("127.0.0.1", free_port())
        pair = rig.pair({"SSH": TcpAddress("127.0.0.1", 9)}, http_proxy=proxy, wait=False)
        status = pair.source.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
        assert f"cannot reach the proxy {proxy}: " in status.reason
        assert "refused" in status.reason.lower()

    def test_a_proxy_that_hangs_up(self, rig: Rig) -> None:
        async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")

        proxy = proxy_of(rig.backends.serve(hang_up))
        pair = rig.pair({"SSH": TcpAddress("127.0.0.1", 9)}, http_proxy=proxy, wait=False)
        status = pair.source.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
        assert "CONNECT" in status.reason


@pytest.mark.parametrize("password", [None, PASSWORD.replace(":", "-")])
def test_tinyproxy(rig: Rig, tmp_path: Path, password: str | None) -> None:
    tinyproxy, port = require_program("tinyproxy"), free_port()
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 600", "MaxClients 20"]
    if password is not None:
        lines.append(f"BasicAuth {USER} {password}")
    config = tmp_path / "tinyproxy.conf"
    config.write_text("\n".join([*lines, ""]))
    with running_program([tinyproxy, "-d", "-c", config]) as process:
        wait_for_port(port, process)
        username = USER if password is not None else ""
        assert_carries_through(rig, HttpProxy("127.0.0.1", port, username, password or ""))
