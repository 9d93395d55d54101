"""Connector against scripted servers: every way in which an attempt ends, and its cancellation."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log
from tests.support.attempter import Attempter
from tests.support.scripted_server import BINARY, Peer, ScriptedServer, hold_open
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.addresses import HttpProxy
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.actors.transport.connector import (
    Connected,
    ConnectFailed,
    Connector,
    ConnectRequest,
    discard,
)
from tunnelfleet.actors.transport.upgrade import MAX_HEADER_BYTES
from tunnelfleet.proto import Endpoint, HandshakeError, Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., ScriptedServer]

ACCESS_TOKEN = "the-access-token-of-this-test"
CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"


def request_to(endpoint: Endpoint, **changes: Any) -> ConnectRequest:
    request = ConnectRequest(
        endpoint, Mode.SOURCE, ACCESS_TOKEN, CLIENT_TOKEN, None, None, "test/1", 10.0
    )
    return request._replace(**changes)


def attempt(connector: Connector, endpoint: Endpoint, **changes: Any) -> Connected | ConnectFailed:
    log = Log()
    with Dispatcher("attempt") as dispatcher:
        Attempter.start(connector, request_to(endpoint, **changes), log, dispatcher=dispatcher)
        (outcome,) = log.wait(1)
    assert isinstance(outcome, Connected | ConnectFailed)
    return outcome


def failure(connector: Connector, endpoint: Endpoint, **changes: Any) -> HandshakeError:
    outcome = attempt(connector, endpoint, **changes)
    assert isinstance(outcome, ConnectFailed), "it was not to connect"
    assert isinstance(outcome.error, HandshakeError)
    assert ACCESS_TOKEN not in f"{outcome.error!r} {outcome.error}"
    return outcome.error


# -- success


def test_an_upgrade_gives_the_connection_and_its_channel_id(
    serve: Serve, connector: Connector
) -> None:
    server = serve(hold_open)
    outcome = attempt(connector, server.endpoint)
    assert isinstance(outcome, Connected)
    assert outcome.channel_id == "c0ffee"
    outcome.sock.close()


def test_the_request_is_what_the_protocol_says(serve: Serve, connector: Connector) -> None:
    server = serve(hold_open)
    outcome = attempt(connector, server.endpoint)
    assert isinstance(outcome, Connected)
    outcome.sock.close()
    (peer,) = server.peers.items
    first_line = peer.request.split(b"\r\n")[0]
    assert first_line == b"GET /tunnel?local-proxy-mode=source HTTP/1.1"
    assert peer.header("access-token") == ACCESS_TOKEN
    assert peer.header("client-token") == CLIENT_TOKEN
    assert peer.header("Sec-WebSocket-Protocol") == "aws.iot.securetunneling-3.0"
    assert peer.header("User-Agent") == "test/1"
    assert peer.header("Origin") is None
    assert peer.header("Sec-WebSocket-Extensions") is None
    assert len(peer.request) < 4_096


def test_frames_behind_the_answer_are_not_lost(serve: Serve, connector: Connector) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send_frame(BINARY, b"at once")
        peer.wait_closed()

    outcome = attempt(connector, serve(script).endpoint)
    assert isinstance(outcome, Connected)
    sock = outcome.sock
    sock.settimeout(WAIT_SECONDS)
    assert (outcome.first_bytes or sock.recv(100)) == b"\x82\x07at once"
    outcome.sock.close()


def test_tls_is_verified_and_used(
    serve: Serve, connector: Connector, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server_context, client_context = tls
    server = serve(hold_open, tls=server_context)
    outcome = attempt(connector, server.endpoint, ssl_context=client_context)
    assert isinstance(outcome, Connected)
    assert isinstance(outcome.sock, ssl.SSLSocket)
    outcome.sock.close()


# -- refusals


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        ("400 Bad Request", False),
        ("401 Unauthorized", False),
        ("403 Forbidden", False),
        ("404 Not Found", False),
        ("429 Too Many Requests", True),
        ("500 Internal Server Error", True),
        ("503 Service Unavailable", True),
    ],
)
def test_a_status_says_whether_to_try_again(
    serve: Serve, connector: Connector, status: str, retryable: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(status, "channel-id: c0ffee", body=b"the reason")

    error = failure(connector, serve(script).endpoint)
    assert error.status == int(status[:3])
    assert error.retryable is retryable
    assert error.channel_id == "c0ffee"
    assert "the reason" in str(error)


def test_a_body_that_echoes_the_tokens_does_not_show_them(
    serve: Serve, connector: Connector
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("403 Forbidden", body=f"bad {ACCESS_TOKEN} and {CLIENT_TOKEN}".encode())

    error = failure(connector, serve(script).endpoint)
    assert CLIENT_TOKEN not in str(error)
    assert "bad" in str(error)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(serve: Serve, connector: Connector, status: str) -> None:
    """It would carry the token to a host that nobody named."""
    elsewhere = serve(hold_open)

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(status, f"Location: {elsewhere.endpoint.url(Mode.SOURCE)}")

    assert failure(connector, serve(script).endpoint).retryable
    assert elsewhere.peers.items == []


def test_a_success_that_is_no_upgrade_is_a_failure(serve: Serve, connector: Connector) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("200 OK", body=b"hello, I am a web site")

    failure(connector, serve(script).endpoint)


def test_a_wrong_accept_key_is_a_failure(serve: Serve, connector: Connector) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: bm9wZQ==\r\n\r\n"
        )
        peer.wait_closed()

    assert failure(connector, serve(script).endpoint).retryable


GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "nothing": b"",
    "half a line": b"HTTP/1.1 1",
    "binary": bytes(range(256)) + b"\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 101 Switching\r\nnonsense\r\n\r\n",
    "a bad content length": b"HTTP/1.1 403 No\r\nContent-Length: many\r\n\r\n",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_a_failure_that_may_pass(
    serve: Serve, connector: Connector, answer: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    assert failure(connector, serve(script).endpoint).retryable


def test_an_endless_header_is_cut(serve: Serve, connector: Connector) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        try:
            peer.send(b"HTTP/1.1 101 Switching\r\n")
            while True:
                peer.send(b"X-More: " + b"x" * 8_000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass

    assert str(MAX_HEADER_BYTES) in str(failure(connector, serve(script).endpoint))


def test_an_endless_error_body_is_cut(serve: Serve, connector: Connector) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        try:
            peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                peer.send(b"x" * 10_000)
        except (BrokenPipeError, ConnectionResetError):
            pass

    assert len(str(failure(connector, serve(script).endpoint))) < 2_000


def test_a_port_where_nobody_listens_says_so(connector: Connector) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    error = failure(connector, Endpoint("ws", "127.0.0.1", port))
    assert f"ws://127.0.0.1:{port}" in str(error)
    assert "refused" in str(error)
    assert error.retryable


def test_a_host_that_does_not_exist_says_so(connector: Connector) -> None:
    error = failure(connector, Endpoint("ws", "no-such-host.invalid", 80))
    assert "no-such-host.invalid" in str(error)
    assert error.retryable


def test_a_certificate_that_nobody_vouches_for_is_a_failure(
    serve: Serve, connector: Connector, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server = ScriptedServer(hold_open, tls=tls[0])
    server.__enter__()
    try:
        error = failure(connector, server.endpoint, ssl_context=ssl.create_default_context())
    finally:
        server.close()
    assert "certificate" in str(error).lower()
    assert error.retryable


def test_tls_without_a_context_says_what_to_pass(serve: Serve, connector: Connector) -> None:
    server = serve(Peer.wait_closed)
    endpoint = Endpoint("wss", "127.0.0.1", server.port)
    error = failure(connector, endpoint)
    assert "ssl_context" in str(error)
    assert not error.retryable


def test_a_server_that_does_not_speak_tls_is_a_failure(
    serve: Serve, connector: Connector, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    def script(peer: Peer) -> None:
        peer.recv(1)
        peer.send(b"220 mail.example ESMTP\r\n")
        peer.wait_closed()

    endpoint = Endpoint("wss", "127.0.0.1", serve(script).port)
    assert "TLS" in str(failure(connector, endpoint, ssl_context=tls[1]))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_silence_ends_with_the_timeout(
    serve: Serve,
    connector: Connector,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    scheme: str,
) -> None:
    endpoint = Endpoint(scheme, "127.0.0.1", serve(Peer.wait_closed).port)
    error = failure(connector, endpoint, ssl_context=tls[1], timeout_seconds=0.2)
    assert "timed out" in str(error)
    assert error.retryable


# -- proxies


def proxy_to(target_port: Callable[[], int]) -> Callable[[Peer], None]:
    """A proxy that connects to loopback whatever it is asked for."""

    def script(peer: Peer) -> None:
        peer.read_request()
        with socket.create_connection(("127.0.0.1", target_port())) as onward:
            peer.answer("200 Connection established")
            back = threading.Thread(target=copy, args=(onward, peer.sock))
            back.start()
            copy(peer.sock, onward)
            back.join()

    return script


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass
    for sock in (source, target):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def test_a_proxy_is_asked_to_connect(
    serve: Serve, connector: Connector, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server = serve(hold_open, tls=tls[0])
    proxy = serve(proxy_to(lambda: server.port))
    outcome = attempt(
        connector,
        server.endpoint,
        ssl_context=tls[1],
        http_proxy=HttpProxy("127.0.0.1", proxy.port, "user", "p:ss"),
    )
    assert isinstance(outcome, Connected)
    outcome.sock.close()
    (seen,) = proxy.peers.items
    assert seen.request.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
    assert seen.header("Host") == f"127.0.0.1:{server.port}"
    authorization = base64.b64encode(b"user:p:ss").decode()
    assert seen.header("Proxy-Authorization") == f"Basic {authorization}"
    assert ACCESS_TOKEN.encode() not in seen.request


def test_a_proxy_without_credentials_is_given_none(serve: Serve, connector: Connector) -> None:
    server = serve(hold_open)
    proxy = serve(proxy_to(lambda: server.port))
    outcome = attempt(connector, server.endpoint, http_proxy=HttpProxy("127.0.0.1", proxy.port))
    assert isinstance(outcome, Connected)
    outcome.sock.close()
    assert proxy.peers.items[0].header("Proxy-Authorization") is None


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 No"])
def test_a_proxy_that_refuses_is_named_and_may_change_its_mind(
    serve: Serve, connector: Connector, status: str
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(status)

    proxy = HttpProxy("127.0.0.1", serve(script).port, "user", "hidden-password")
    error = failure(connector, Endpoint("ws", "service.example", 80), http_proxy=proxy)
    assert str(proxy) in str(error)
    assert status[:3] in str(error)
    assert "hidden-password" not in str(error)
    assert error.retryable, "only the service's own word is final"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200", b"what?\r\n\r\n", b"x" * (MAX_HEADER_BYTES + 1)]
)
def test_a_proxy_that_talks_garbage_is_a_failure(
    serve: Serve, connector: Connector, answer: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.send(answer)

    proxy = HttpProxy("127.0.0.1", serve(script).port)
    error = failure(connector, Endpoint("ws", "service.example", 80), http_proxy=proxy)
    assert f"proxy {proxy}" in str(error)
    assert error.retryable


def test_an_ipv6_endpoint_has_brackets_in_connect(serve: Serve, connector: Connector) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("502 No")

    proxy = serve(script)
    failure(
        connector,
        Endpoint("ws", "2001:db8::1", 8080),
        http_proxy=HttpProxy("127.0.0.1", proxy.port),
    )
    assert proxy.peers.items[0].request.startswith(b"CONNECT [2001:db8::1]:8080 HTTP/1.1\r\n")


# -- cancelling


@pytest.mark.parametrize("stage", ["proxy", "tls", "upgrade"])
def test_a_cancelled_attempt_ends_at_once_and_closes_its_socket(
    serve: Serve,
    connector: Connector,
    dispatcher: Dispatcher,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    stage: str,
) -> None:
    reached, closed = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.recv(1)
        reached.set()
        peer.wait_closed()
        closed.set()

    server = serve(script)
    changes: dict[str, Any] = {"timeout_seconds": 60.0, "ssl_context": tls[1]}
    if stage == "proxy":
        changes["http_proxy"] = HttpProxy("127.0.0.1", server.port)
    scheme = "wss" if stage == "tls" else "ws"
    request = request_to(Endpoint(scheme, "127.0.0.1", server.port), **changes)
    ref = Attempter.start(connector, request, Log(), dispatcher=dispatcher)
    assert reached.wait(WAIT_SECONDS)
    ref.stop()
    assert closed.wait(WAIT_SECONDS)


def connected_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(WAIT_SECONDS)
    return ours, theirs


def test_a_job_that_is_cancelled_before_it_begins_says_nothing_and_closes() -> None:
    blocker, running = threading.Event(), threading.Event()
    connector = Connector(1)
    ours, theirs = connected_pair()
    try:
        connector._pool.submit(lambda: (running.set(), blocker.wait(WAIT_SECONDS)))
        assert running.wait(WAIT_SECONDS)
        job, outcome = connector.connect(request_to(Endpoint("ws", "127.0.0.1", 1)), ours)
        job.cancel()
        assert theirs.recv(1) == b"", "closed at once, without waiting for a thread"
        blocker.set()
        assert isinstance(outcome.result(WAIT_SECONDS), ConnectFailed)
    finally:
        blocker.set()
        connector.close()
        theirs.close()


def test_after_its_end_a_job_fails_and_its_socket_is_closed() -> None:
    connector = Connector(1)
    connector.close()
    ours, theirs = connected_pair()
    with theirs:
        _job, outcome = connector.connect(request_to(Endpoint("ws", "127.0.0.1", 1)), ours)
        assert isinstance(outcome.result(0), ConnectFailed)
        assert theirs.recv(1) == b""


def test_a_connection_that_nobody_takes_is_closed(serve: Serve, connector: Connector) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.wait_closed()
        closed.set()

    server = serve(script)
    sock = socket.create_connection(("127.0.0.1", server.port))
    _job, outcome = connector.connect(request_to(server.endpoint), sock)
    outcome.result(WAIT_SECONDS)
    discard(outcome)
    assert closed.wait(WAIT_SECONDS)


def test_nothing_is_discarded_of_a_failure_or_a_cancelled_outcome(connector: Connector) -> None:
    ours, theirs = connected_pair()
    theirs.close()
    _job, outcome = connector.connect(request_to(Endpoint("ws", "127.0.0.1", 1)), ours)
    outcome.result(WAIT_SECONDS)
    discard(outcome)
    never: Future[Any] = Future()
    never.cancel()
    discard(never)


def test_the_request_shows_no_token() -> None:
    text = f"{request_to(Endpoint('ws', 'localhost', 80))!r}"
    assert ACCESS_TOKEN not in text
    assert CLIENT_TOKEN not in text
    assert "localhost" in text
