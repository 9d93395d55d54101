"""What is said to an HTTP proxy, what its answers mean, and TLS inside of TLS."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.addresses import HttpProxy
from tunnelfleet.actors.transport.upgrade import (
    MAX_ANSWER_BYTES,
    TlsInTls,
    connect_through,
    start_tls,
)
from tunnelfleet.proto import Endpoint, HandshakeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.scripted_server import Peer, ScriptedServer

    Serve = Callable[..., ScriptedServer]
    Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

ENDPOINT = Endpoint("wss", "service.example", 443)
BASIC = "Proxy-Authenticate: Basic realm=x"


def ask(serve: Serve, *answers: bytes, proxy: HttpProxy | None = None) -> Peer:
    """Ask a proxy that answers so; returns what it saw."""

    def script(peer: Peer) -> None:
        peer.read_request()
        for answer in answers:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                peer.send(answer)

    server = serve(script)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(WAIT_SECONDS)
        connect_through(sock, ENDPOINT, proxy or HttpProxy("proxy.example", 3128), "agent/1")
    peer: Peer = server.peers.items[0]
    return peer


def head(status: str, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode()


@pytest.mark.parametrize(
    "answers",
    [
        [head("200 Connection established")],
        [head("201 Created")],
        [head("204 No Content", "Content-Length: 5")],
        [head("299 What")],
        [head("200 OK", "Transfer-Encoding: chunked")],
        [b"HTTP/1.0 200 OK\r\n\r\n"],
        [b"HTTP/1.1 200\r\n\r\n"],
        [head("100 Continue"), head("103 Early Hints"), head("200 OK")],
    ],
)
def test_any_2xx_is_a_connection(serve: Serve, answers: list[bytes]) -> None:
    peer = ask(serve, *answers)
    assert peer.request.startswith(b"CONNECT service.example:443 HTTP/1.1\r\n")
    assert peer.header("Host") == "service.example:443"
    assert peer.header("User-Agent") == "agent/1"
    assert peer.header("Proxy-Authorization") is None


def test_what_follows_the_answer_is_left_to_the_service(serve: Serve) -> None:
    server = serve(lambda peer: (peer.read_request(), peer.send(head("200 OK") + b"first")))
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(WAIT_SECONDS)
        connect_through(sock, ENDPOINT, HttpProxy("p", 1), "agent/1")
        assert sock.recv(100, socket.MSG_WAITALL) == b"first"


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://user:p%3Ass@p:1", b"user:p:ss"),
        ("http://user@p:1", b"user:"),
        ("http://:pass@p:1", b":pass"),
        ("http://us%C3%A9r:%FF%00@p:1", b"us\xc3\xa9r:\xff\x00"),
    ],
)
def test_the_credentials_are_the_bytes_of_the_url(serve: Serve, url: str, sent: bytes) -> None:
    peer = ask(serve, head("200 OK"), proxy=HttpProxy.parse(url))
    assert peer.header("Proxy-Authorization") == f"Basic {base64.b64encode(sent).decode()}"


@pytest.mark.parametrize(
    ("answer", "url", "words"),
    [
        (head("407 No", BASIC), "p:1", "it wants credentials; give them in the proxy's URL"),
        (head("407 No"), "p:1", "it wants credentials"),
        (head("407 No", BASIC), "http://u:hidden@p:1", "it does not take these credentials"),
        (head("407 No", "proxy-authenticate: NTLM"), "p:1", "does not take Basic"),
        (head("407 No", "Proxy-Authenticate: NTLM", BASIC), "p:1", "it wants credentials"),
        (head("403 Forbidden"), "http://u:hidden@p:1", "lets CONNECT through"),
        (head("302 Found", "Location: http://elsewhere/"), "p:1", "check the proxy's address"),
        (head("502 Bad Gateway"), "p:1", "check the proxy's address"),
    ],
)
def test_a_refusal_says_what_to_do(serve: Serve, answer: bytes, url: str, words: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        ask(serve, answer, proxy=HttpProxy.parse(url))
    text = str(caught.value)
    assert words in text
    assert text.startswith(f"proxy p:1 answered CONNECT with {answer[9:12].decode()}: ")
    assert "hidden" not in text
    assert caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"what?\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"x" * (MAX_ANSWER_BYTES + 1),
        head("100 Continue") * (MAX_ANSWER_BYTES // len(head("100 Continue")) + 1),
    ],
)
def test_what_is_no_answer_is_an_error(serve: Serve, answer: bytes) -> None:
    with pytest.raises(OSError, match="CONNECT"):
        ask(serve, answer)


# -- TLS in TLS


class Nested:
    """A client's end of TLS in TLS, and the inner server's."""

    def __init__(self, client: TlsInTls, outer: ssl.SSLSocket, server: TlsServer) -> None:
        self.client = client
        self.outer = outer
        self.server = server


class TlsServer:
    """The server's end of both layers: blocking, on a thread for the handshakes."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.outer = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.inner = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def handshake(self) -> None:
        self.outer.do_handshake()
        self._until(self.inner.do_handshake)

    def _until(self, step: Callable[[], object]) -> object:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.outer.recv(65_536)
                if not data:
                    raise EOFError from None
                self.incoming.write(data)
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if data := self.outgoing.read():
            self.outer.sendall(data)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.inner.write(view[:16_384]) :]
            self._flush()

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._until(lambda: self.inner.read(65_536))
            assert isinstance(piece, bytes)
            data += piece
        return data

    def close(self) -> None:
        self.outer.close()


@pytest.fixture
def nested(tls: Contexts) -> Iterator[Nested]:
    server_context, client_context = tls
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.settimeout(WAIT_SECONDS)
    server = TlsServer(far, server_context)
    thread = threading.Thread(target=server.handshake)
    thread.start()
    outer = client_context.wrap_socket(near, server_hostname="127.0.0.1")
    client = start_tls(client_context, outer, "127.0.0.1")
    assert isinstance(client, TlsInTls)
    client.do_handshake()
    thread.join()
    yield Nested(client, outer, server)
    client.close()
    server.close()


def test_it_carries_bytes_both_ways(nested: Nested) -> None:
    nested.client.sendall(b"there")
    assert nested.server.read(5) == b"there"
    nested.server.send(b"and back")
    assert nested.client.recv(100) == b"and back"
    assert nested.client.fileno() == nested.outer.fileno()


def test_the_inner_certificate_is_checked(tls: Contexts) -> None:
    near, far = socket.socketpair()
    near.settimeout(WAIT_SECONDS)
    far.settimeout(WAIT_SECONDS)
    server = TlsServer(far, tls[0])

    def handshake() -> None:
        with contextlib.suppress(ssl.SSLError, OSError, EOFError):
            server.handshake()

    thread = threading.Thread(target=handshake)
    thread.start()
    outer = tls[1].wrap_socket(near, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        start_tls(tls[1], outer, "elsewhere.example").do_handshake()  # type: ignore[union-attr]
    outer.close()
    thread.join()
    server.close()


def test_without_blocking_it_says_what_it_waits_for(nested: Nested) -> None:
    client = nested.client
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.recv(100)
    data = os.urandom(4_000_000)
    view = memoryview(data)
    blocked = 0
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(nested.server.read(len(data))))
    while view:
        try:
            view = view[client.send(view) :]
        except ssl.SSLWantWriteError:
            blocked += 1
            if blocked == 1:
                # Nobody read so far: from here on somebody does.
                reader.start()
            client.setblocking(True)
            client.settimeout(WAIT_SECONDS)
    reader.join()
    assert blocked, "all fitted into the buffers"
    assert received[0] == data


def test_what_send_has_taken_has_left(nested: Nested) -> None:
    nested.client.setblocking(False)
    assert nested.client.send(b"x" * 100) == 100
    # Nothing is called on the client any more.
    assert nested.server.read(100) == b"x" * 100


def test_the_end_of_the_outer_connection_is_the_end(nested: Nested) -> None:
    nested.server.send(b"last words")
    nested.server.close()
    assert nested.client.recv(100) == b"last words"
    assert nested.client.recv(100) == b""
    assert nested.client.recv(100) == b""


def test_shut_down_it_sends_nothing_more(nested: Nested) -> None:
    nested.client.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        nested.client.send(b"x")


def test_a_handshake_that_is_cut_is_an_error(tls: Contexts) -> None:
    near, far = socket.socketpair()
    near.settimeout(WAIT_SECONDS)
    far.settimeout(WAIT_SECONDS)
    server = tls[0].wrap_socket(far, server_side=True, do_handshake_on_connect=False)

    def handshake() -> None:
        server.do_handshake()
        server.recv(65_536)
        server.close()

    thread = threading.Thread(target=handshake)
    thread.start()
    outer = tls[1].wrap_socket(near, server_hostname="127.0.0.1")
    with pytest.raises(OSError, match="during the TLS handshake"):
        start_tls(tls[1], outer, "127.0.0.1").do_handshake()  # type: ignore[union-attr]
    thread.join()
    outer.close()
