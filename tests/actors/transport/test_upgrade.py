"""The upgrade to a WebSocket: what is asked, what counts as an answer, that nothing is kept."""

from __future__ import annotations

import base64
import hashlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
import websocket

from tests.support.scripted_server import ACCEPT_GUID, Peer
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.transport.upgrade import MAX_HEADER_BYTES, UpgradeAnswer, read_head, upgrade
from tunnelfleet.proto import Endpoint, Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.scripted_server import ScriptedServer

    Serve = Callable[..., ScriptedServer]

TOKEN = "the-access-token-of-this-test"
GOOD = {
    "Upgrade": "WebSocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Protocol": "aws.iot.securetunneling-3.0",
}


@pytest.fixture
def dial() -> Iterator[Callable[[ScriptedServer], socket.socket]]:
    made: list[socket.socket] = []

    def connect(server: ScriptedServer) -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS))
        return made[-1]

    yield connect
    for sock in made:
        sock.close()


def ask(sock: socket.socket, endpoint: Endpoint | None = None) -> UpgradeAnswer:
    where = endpoint or Endpoint("ws", "tunnels.example", 8080)
    return upgrade(sock, where, Mode.SOURCE, [("access-token", TOKEN)])


def answering(changes: dict[str, str | None], status: str = "101 Switching Protocols") -> Any:
    """A script that answers the upgrade with `GOOD`, changed."""

    def script(peer: Peer) -> None:
        peer.read_request()
        key = (peer.header("Sec-WebSocket-Key") or "").encode()
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT_GUID).digest()).decode()
        headers = {**GOOD, "Sec-WebSocket-Accept": accept, **changes}
        lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
        peer.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())
        peer.wait_closed()

    return script


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        (Endpoint("ws", "tunnels.example", 80), "tunnels.example"),
        (Endpoint("ws", "tunnels.example", 8080), "tunnels.example:8080"),
        (Endpoint("wss", "tunnels.example", 443), "tunnels.example"),
        (Endpoint("ws", "::1", 8080), "[::1]:8080"),
    ],
)
def test_the_request(serve: Serve, dial: Any, endpoint: Endpoint, host: str) -> None:
    server = serve(answering({}))
    assert ask(dial(server), endpoint).status == 101
    (peer,) = server.peers.items
    assert peer.request.startswith(b"GET /tunnel?local-proxy-mode=source HTTP/1.1\r\n")
    assert peer.header("Host") == host
    assert peer.header("Upgrade") == "websocket"
    assert peer.header("Sec-WebSocket-Version") == "13"
    assert len(base64.b64decode(peer.header("Sec-WebSocket-Key") or "")) == 16
    assert peer.header("access-token") == TOKEN
    assert peer.header("Cookie") is None
    assert peer.header("Origin") is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"Upgrade": None}, "does not upgrade to a WebSocket"),
        ({"Upgrade": "h2c"}, "does not upgrade to a WebSocket"),
        ({"Connection": "close"}, "does not upgrade the connection"),
        ({"Sec-WebSocket-Accept": "bm9wZQ=="}, "accept key is wrong"),
        ({"Sec-WebSocket-Accept": None}, "accept key is wrong"),
        ({"Sec-WebSocket-Protocol": None}, "subprotocol"),
        ({"Sec-WebSocket-Protocol": "chat"}, "subprotocol"),
    ],
)
def test_an_answer_that_is_no_upgrade(
    serve: Serve, dial: Any, changes: dict[str, str | None], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        ask(dial(serve(answering(changes))))


def test_what_follows_the_answer_comes_with_it_or_is_left_to_read(serve: Serve, dial: Any) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(b"\x82\x02hi")
        peer.wait_closed()

    sock = dial(serve(script))
    answer = ask(sock)
    assert answer.headers["channel-id"] == "c0ffee"
    assert (answer.body or sock.recv(100)) == b"\x82\x02hi"


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n"])
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 100])
def test_a_head_ends_at_its_first_empty_line_however_it_comes(end: bytes, piece_bytes: int) -> None:
    answer = b"HTTP/1.1 101 Yes\r\na: b" + end + b"first\n\nsecond"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        pieces = _Slow(ours, piece_bytes)
        lines, rest = read_head(pieces)  # type: ignore[arg-type]
        assert lines == ["HTTP/1.1 101 Yes", "a: b"]
        assert rest + ours.recv(100) == b"first\n\nsecond"


class _Slow:
    """A socket that gives out a few bytes at a time."""

    def __init__(self, sock: socket.socket, piece_bytes: int) -> None:
        self._socket = sock
        self._piece_bytes = piece_bytes

    def recv(self, limit_bytes: int) -> bytes:
        return self._socket.recv(min(limit_bytes, self._piece_bytes))


def test_another_status_comes_with_the_beginning_of_its_body(serve: Serve, dial: Any) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("403 Forbidden", "channel-id: c0ffee", body=b"x" * 10_000)

    answer = ask(dial(serve(script)))
    assert (answer.status, answer.headers["channel-id"]) == (403, "c0ffee")
    assert answer.body == b"x" * 4_096


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-" + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 " + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 403 No\r\n" + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: " + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 101 Yes\r\nUpgrade: " + TOKEN.encode() + b"\r\n\r\n",
        TOKEN.encode(),
    ],
)
def test_no_error_repeats_what_the_service_echoed(serve: Serve, dial: Any, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    with pytest.raises((OSError, ValueError)) as caught:
        ask(dial(serve(script)))
    assert TOKEN not in f"{caught.value!r} {caught.value}"


def test_a_header_without_an_end_is_cut(serve: Serve, dial: Any) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"x" * (MAX_HEADER_BYTES + 1))
        peer.wait_closed()

    with pytest.raises(OSError, match=str(MAX_HEADER_BYTES)):
        read_head(dial(serve(script)))


# -- nothing of one upgrade is seen in another, nor in the host's own connections


@pytest.mark.parametrize("status", ["101 Switching Protocols", "302 Found", "403 Forbidden"])
def test_no_cookie_is_kept_or_sent(serve: Serve, dial: Any, status: str) -> None:
    cookie = f"x={'y' * 4_000}; domain=127.0.0.1"
    first = serve(answering({"Set-Cookie": cookie}, status))
    ask(dial(first), first.endpoint)
    second = serve(answering({}))
    ask(dial(second), second.endpoint)
    (peer,) = second.peers.items
    assert peer.header("Cookie") is None
    third = serve(answering({}))
    host = websocket.create_connection(
        third.endpoint.url(Mode.SOURCE), subprotocols=["aws.iot.securetunneling-3.0"]
    )
    host.shutdown()
    (peer,) = third.peers.items
    assert peer.header("Cookie") is None, "the host's own connections get none either"


def test_a_cookie_of_the_hosts_own_connections_is_not_sent(serve: Serve, dial: Any) -> None:
    jar = websocket._handshake.CookieJar
    jar.set("host=secret; domain=127.0.0.1")
    try:
        server = serve(answering({}))
        ask(dial(server), server.endpoint)
    finally:
        jar.jar.clear()
    (peer,) = server.peers.items
    assert peer.header("Cookie") is None


def test_the_trace_of_the_library_shows_no_token(
    serve: Serve, dial: Any, caplog: pytest.LogCaptureFixture
) -> None:
    websocket.enableTrace(True, caplog.handler)
    try:
        with caplog.at_level(logging.DEBUG):
            ask(dial(serve(answering({}))))
    finally:
        websocket.enableTrace(False)
    assert TOKEN not in caplog.text


def test_the_library_s_default_timeout_and_the_environment_s_proxy_are_not_ours(
    serve: Serve, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    websocket.setdefaulttimeout(0.000_1)
    try:
        server = serve(answering({}))
        assert ask(dial(server), server.endpoint).status == 101
    finally:
        websocket.setdefaulttimeout(None)
