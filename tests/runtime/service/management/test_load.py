"""A service with many tunnels and many strangers: what it takes, and that nobody is held up."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.support.aws_service import WAIT_SECONDS, ServiceProcess, aws_client
from tests.support.frames import masked
from tests.support.service_client import SUBPROTOCOL
from tests.support.wire import data, stream_start
from tunnelfleet.proto import encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TUNNELS = 1_000
STRANGERS = 5_000
MAX_BYTES = 250e6
PAYLOAD = b"x" * 1_000
SERVICE_ID = "SSH"


@pytest.fixture
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * TUNNELS + STRANGERS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("this user may not open as many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class UpgradedEnd:
    """One end of a tunnel: a socket on which an upgrade was accepted."""

    def __init__(
        self, where: tuple[str, int], mode: str, token: str, tls: ssl.SSLContext | None
    ) -> None:
        self.sock = socket.create_connection(where, timeout=WAIT_SECONDS)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="127.0.0.1")
        lines = [
            f"GET /tunnel?local-proxy-mode={mode} HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
            f"access-token: {token}",
        ]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.rest = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[2]

    def read_until(self, end: bytes) -> bytes:
        found = b""
        while end not in found:
            chunk = self.sock.recv(65_536)
            assert chunk, found
            found += chunk
        return found


def relays(source: UpgradedEnd, destination: UpgradedEnd) -> bool:
    source.sock.sendall(masked(2, encode_frame(data(PAYLOAD))))
    return PAYLOAD in destination.read_until(PAYLOAD)


HALF_A_HANDSHAKE = {
    "plain": b"GET /tunnel?local-proxy-mode=source HTTP/1.1\r\nHost: localhost\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.long
@pytest.mark.usefixtures("_many_files")
@pytest.mark.parametrize("wire", HALF_A_HANDSHAKE)
def test_a_thousand_tunnels_and_five_thousand_half_open_handshakes(
    wire: str, tmp_path: Path
) -> None:
    options = ["--plain"] if wire == "plain" else []
    with (
        ServiceProcess(
            *options, "--management", "127.0.0.1:0", "--state", str(tmp_path)
        ) as process,
        contextlib.ExitStack() as stack,
    ):
        ca = None if process.ready["ca"] is None else str(process.ready["ca"])
        context = None if ca is None else ssl.create_default_context(cafile=ca)
        reader = threading.Thread(target=drain, args=(process,))
        reader.start()
        stack.callback(reader.join)
        stack.callback(process.popen.terminate)
        aws = aws_client(process.url, verify=ca)
        destination = {"thingName": "press", "services": [SERVICE_ID]}
        opened = [aws.open_tunnel(destinationConfig=destination) for _ in range(TUNNELS)]
        host, port = process.endpoint.partition("://")[2].split(":")
        where = host, int(port)

        def connect(mode: str, tunnel: dict[str, Any]) -> UpgradedEnd:
            peer = UpgradedEnd(where, mode, tunnel[f"{mode}AccessToken"], context)
            stack.callback(peer.sock.close)
            return peer

        ends = [(connect("source", each), connect("destination", each)) for each in opened]
        for source, _ in ends:
            source.sock.sendall(masked(2, encode_frame(stream_start())))
        for _ in range(3):
            assert all(relays(*each) for each in ends)
        memory = psutil.Process(process.popen.pid).memory_info().rss
        print(f"{TUNNELS} tunnels: {memory / 1e6:.0f} MB")
        assert memory < MAX_BYTES, f"{memory / 1e6:.0f} MB"
        for number in range(STRANGERS):
            stranger = socket.socket()
            stack.callback(stranger.close)
            stranger.setblocking(False)
            stranger.connect_ex(where)
            # Half of them say a part of what is expected, as far as they got through.
            if number % 2:
                with contextlib.suppress(OSError):
                    stranger.send(HALF_A_HANDSHAKE[wire])
        # Those that have a place keep it for three seconds; then newcomers have their turn.
        for each in ends[:20]:
            assert relays(*each)
        assert relays_anew(aws, connect)
        memory = psutil.Process(process.popen.pid).memory_info().rss
        print(f"and {STRANGERS} half-open handshakes: {memory / 1e6:.0f} MB")
        assert memory < MAX_BYTES, f"{memory / 1e6:.0f} MB"
        aws.close()


def relays_anew(aws: Any, connect: Any) -> bool:
    opened = aws.open_tunnel(destinationConfig={"services": [SERVICE_ID]})
    source, destination = connect("source", opened), connect("destination", opened)
    source.sock.sendall(masked(2, encode_frame(stream_start())))
    return relays(source, destination)


def drain(process: ServiceProcess) -> None:
    """Take what it prints, so that it never waits for us."""
    assert process.popen.stdout is not None
    while process.popen.stdout.read1(65_536):  # type: ignore[attr-defined]
        pass
