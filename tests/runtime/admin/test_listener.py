"""Clients that take their time, or all connections, lock nobody out of the admin server."""

from __future__ import annotations

import logging
import resource
import socket
import ssl
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.runtime.admin.test_server import get
from tests.support.sockets import read_to_end
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.admin import AdminOptions, AdminServer, listener
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HALF = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"\r\n"


@pytest.fixture
def serve() -> Iterator[Callable[..., AdminServer]]:
    """Return a maker of servers; a test gives the limits that it reaches."""
    with ExitStack() as stack:
        runtime = stack.enter_context(TunnelRuntime())

        def make(**options: object) -> AdminServer:
            made = AdminServer(runtime, AdminOptions(port=0, **options))  # type: ignore[arg-type]
            return stack.enter_context(made)

        yield make


@contextmanager
def client(server: AdminServer, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as sock:
        sock.sendall(sent)
        yield sock


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", HALF, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n123"],
    ids=["nothing", "a byte", "half a head", "half a body"],
)
def test_a_client_that_does_not_go_on_is_let_go(
    serve: Callable[..., AdminServer], sent: bytes
) -> None:
    with client(serve(request_seconds=0.3), sent) as sock:
        read_to_end(sock)


def test_half_of_a_second_request_has_its_time_too(serve: Callable[..., AdminServer]) -> None:
    server = serve(request_seconds=0.3, idle_seconds=600.0)
    with client(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        sock.sendall(HALF)
        read_to_end(sock)


def test_a_connection_that_is_idle_is_kept_for_a_while(
    serve: Callable[..., AdminServer],
) -> None:
    server = serve(request_seconds=0.3, idle_seconds=600.0)
    with client(server, WHOLE) as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        sock.settimeout(1.0)
        with pytest.raises(TimeoutError):
            read_to_end(sock)
    with client(serve(idle_seconds=0.3), WHOLE) as sock:
        assert read_to_end(sock).startswith(b"HTTP/1.1 200 ")


def test_a_response_that_nobody_reads_is_given_up(
    serve: Callable[..., AdminServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is larger than what the kernel takes, so it stays in the server's memory."""
    server = serve(response_seconds=0.5)
    monkeypatch.setattr("tunnelfleet.runtime.admin.server.INDEX", "x" * 40_000_000)
    with client(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as sock:
        sock.recv(1)
        eventually(lambda: listening(server).connections == 0)
        assert len(read_to_end(sock)) < 40_000_000


def test_tls_that_is_never_spoken_is_given_up(
    serve: Callable[..., AdminServer], tmp_path: Path
) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    server = serve(
        request_seconds=0.3, certificate=files.certificate, private_key=files.private_key
    )
    with client(server) as silent, client(server, b"GET / HTTP/1.1\r\n\r\n") as plain:
        assert b"HTTP" not in read_to_end(plain)
        assert read_to_end(silent) == b""
    eventually(lambda: listening(server).connections == 0)


def test_too_many_connections_lock_nobody_out(serve: Callable[..., AdminServer]) -> None:
    """Whoever has kept the server waiting for the longest makes room."""
    server = serve(max_connections=8, request_seconds=600.0)
    with ExitStack() as stack:
        waiting = [stack.enter_context(client(server, HALF)) for _ in range(40)]
        assert get(server, "/healthz").status == 200
        assert listening(server).connections <= 8
        for sock in waiting[:32]:
            assert read_to_end(sock) == b""
        assert get(server, "/metrics").status == 200


def test_those_that_have_gone_take_nobody_s_place(serve: Callable[..., AdminServer]) -> None:
    server = serve(max_connections=4)
    with client(server, HALF) as waiting:
        # More than there may be, all between two looks at the clocks.
        for _ in range(20):
            assert get(server, "/healthz").status == 200
        waiting.sendall(b"\r\n")
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")


NO_REQUEST = b"NO SENSE\r\n\r\n"


def answer_to(sock: socket.socket, refused: bytes) -> bytes:
    """Send what is refused, and much behind it, and only then read the answer to its end."""
    sock.sendall(refused)
    for _ in range(100):
        sock.sendall(bytes(20_000))
    found = b""
    while data := sock.recv(65_536):
        found += data
    return found


class TestTheLastAnswer:
    """The kernel resets a socket that is closed with unread bytes, and may lose an answer."""

    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listener, "LINGER_SECONDS", WAIT_SECONDS)

    @pytest.mark.parametrize(
        "refused",
        [NO_REQUEST, b"POST / HTTP/9.9\r\nHost: x\r\nContent-Length: 400000\r\n\r\n"],
        ids=["no request", "version"],
    )
    def test_is_read_by_a_client_that_has_sent_more(
        self, serve: Callable[..., AdminServer], refused: bytes
    ) -> None:
        server = serve()
        with client(server) as sock:
            assert b" 400 " in answer_to(sock, refused)
        eventually(lambda: listening(server).connections == 0)

    def test_is_read_under_tls(self, serve: Callable[..., AdminServer], tmp_path: Path) -> None:
        files = ensure_certificate(tmp_path, "127.0.0.1")
        server = serve(certificate=files.certificate, private_key=files.private_key)
        context = ssl.create_default_context(cafile=files.ca)
        with (
            client(server) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            assert b" 400 " in answer_to(sock, NO_REQUEST)
        eventually(lambda: listening(server).connections == 0)

    def test_is_not_waited_for_by_a_server_that_ends(
        self, serve: Callable[..., AdminServer]
    ) -> None:
        server = serve()
        with client(server, NO_REQUEST) as sock:
            assert b" 400 " in read_to_end(sock)
            assert listening(server).connections == 1
            server.stop()
            assert listening(server).connections == 0

    def test_may_be_taken_for_a_moment_only(
        self, serve: Callable[..., AdminServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listener, "LINGER_SECONDS", 0.05)
        server = serve()
        with client(server, NO_REQUEST) as sock:
            assert b" 400 " in read_to_end(sock)
            eventually(lambda: listening(server).connections == 0)

    def test_makes_place_for_others(self, serve: Callable[..., AdminServer]) -> None:
        server = serve(max_connections=1)
        with client(server, NO_REQUEST) as sock:
            assert b" 400 " in read_to_end(sock)
            assert get(server, "/healthz").status == 200


def test_without_descriptors_it_rests_and_says_so_once(
    serve: Callable[..., AdminServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listener, "ACCEPT_PAUSE_SECONDS", 0.02)
    server = serve()
    tries = 0
    rest = listener.Listener._rest

    def counted(self: listener.Listener, error: OSError) -> None:
        nonlocal tries
        tries += 1
        rest(self, error)

    monkeypatch.setattr(listener.Listener, "_rest", counted)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.DEBUG), socket.socket() as sock:
        sock.settimeout(WAIT_SECONDS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            sock.connect(("127.0.0.1", server.port))
            eventually(lambda: tries >= 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        sock.sendall(WHOLE)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    records = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each.getMessage().split(":")[0] for each in records] == [
        "the administration server cannot accept a connection"
    ]
    assert records[0].exc_info is None


def listening(server: AdminServer) -> listener.Listener:
    assert server._http is not None
    assert server._http.listener is not None
    return server._http.listener
