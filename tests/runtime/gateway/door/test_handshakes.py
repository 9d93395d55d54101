"""The handshakes of a front door, byte by byte: SOCKS 5, HTTP CONNECT, and what is neither."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.doors import basic_login, http_request
from tunnelfleet.runtime.gateway.door.first_byte import begin_handshake
from tunnelfleet.runtime.gateway.door.handshake import (
    Denial,
    LoginGiven,
    Malformed,
    TargetNamed,
)
from tunnelfleet.runtime.gateway.door.http_connect import MAX_HEAD_BYTES

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.door.handshake import Event, Handshake

GREETING = bytes((5, 1, 0))
BEHIND = b"SSH-2.0-client\r\n"


def login(user: str, password: str) -> bytes:
    name, secret = user.encode(), password.encode()
    return bytes((1, len(name))) + name + bytes((len(secret),)) + secret


def target(name: bytes, port: int = 22, command: int = 1, kind: int = 3) -> bytes:
    body = bytes((len(name),)) + name if kind == 3 else name
    return bytes((5, command, 0, kind)) + body + port.to_bytes(2, "big")


class Client:
    """Plays a client's bytes into a handshake, in pieces, and notes all that comes of it.

    Args:
        sizes: of the pieces; the last one goes on.
        password: that is right.
    """

    def __init__(
        self, data: bytes, *sizes: int, needs_login: bool = False, password: str = "secret"
    ) -> None:
        self.events: list[Event] = []
        self.output = b""
        self.taken = 0
        self._password = password
        self.handshake: Handshake = begin_handshake(data[0], needs_login=needs_login)
        kernel, pieces = b"", list(sizes) or [len(data)]
        while data or kernel:
            if not (kernel and self.receive(kernel)):
                if not data:
                    break
                size = max(1, pieces.pop(0) if len(pieces) > 1 else pieces[0])
                kernel, data = kernel + data[:size], data[size:]
                continue
            kernel = kernel[self._took :]
            if self.is_over:
                break
        self.left = kernel + data

    @property
    def is_over(self) -> bool:
        return bool(self.events) and not isinstance(self.events[-1], LoginGiven)

    def receive(self, kernel: bytes) -> int:
        """What was taken of what is in the kernel's buffer."""
        self._took = taken = self.handshake.receive(kernel)
        assert 0 < taken <= len(kernel)
        self.taken += taken
        while True:
            self.output += self.handshake.take_output()
            event = self.handshake.next_event()
            if event is None:
                return taken
            self.events.append(event)
            if isinstance(event, LoginGiven):
                self.handshake.login_checked(event.password == self._password)


def malformed(client: Client) -> Malformed:
    (event,) = [each for each in client.events if isinstance(each, Malformed)]
    return event


# -- SOCKS 5


def test_socks_to_a_name() -> None:
    client = Client(GREETING + target(b"press-4") + BEHIND)
    assert client.events == [TargetNamed("press-4", 22)]
    assert client.output == bytes((5, 0))
    assert client.left == BEHIND
    assert client.handshake.welcome() == bytes((5, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    assert client.handshake.protocol == "socks5"


def test_socks_with_a_login() -> None:
    data = bytes((5, 2, 0, 2)) + login("alice", "secret") + target("größe".encode()) + BEHIND
    client = Client(data, needs_login=True)
    assert client.events == [LoginGiven("alice", "secret"), TargetNamed("größe", 22)]
    assert client.output == bytes((5, 2, 1, 0))
    assert client.left == BEHIND
    assert "secret" not in repr(client.events)


def test_a_wrong_password_is_told_and_is_the_end() -> None:
    data = bytes((5, 1, 2)) + login("alice", "wrong") + target(b"press-4")
    client = Client(data, needs_login=True)
    assert malformed(client).refusal is Denial.LOGIN
    assert client.output == bytes((5, 2, 1, 1))
    assert client.handshake.refuse(Denial.LOGIN, "") == b""


def test_who_need_not_log_in_and_does_is_let_in_with_any_password() -> None:
    client = Client(bytes((5, 1, 2)) + login("alice", "wrong") + target(b"press-4"))
    assert client.events == [TargetNamed("press-4", 22)]
    assert client.output == bytes((5, 2, 1, 0))


@pytest.mark.parametrize(
    ("data", "refusal", "output", "reply"),
    [
        (bytes((5, 1, 1)), Denial.PROTOCOL, bytes((5, 255)), None),
        (bytes((5, 0)), Denial.PROTOCOL, bytes((5, 255)), None),
        (GREETING + target(b"a", command=2), Denial.PROTOCOL, bytes((5, 0)), 7),
        (GREETING + target(b"a", command=3), Denial.PROTOCOL, bytes((5, 0)), 7),
        (GREETING + target(bytes(4), kind=1), Denial.ADDRESS, bytes((5, 0)), 8),
        (GREETING + target(bytes(16), kind=4), Denial.ADDRESS, bytes((5, 0)), 8),
        (GREETING + bytes((5, 1, 0, 9, 0)), Denial.ADDRESS, bytes((5, 0)), 8),
        (GREETING + bytes((4, 1, 0, 3)), Denial.PROTOCOL, bytes((5, 0)), 7),
        (GREETING + target(b"\xff"), Denial.NAME, bytes((5, 0)), 4),
    ],
)
def test_socks_that_is_refused(
    data: bytes, refusal: Denial, output: bytes, reply: int | None
) -> None:
    client = Client(data)
    found = malformed(client)
    assert (found.refusal, client.output) == (refusal, output)
    answer = client.handshake.refuse(found.refusal, found.text)
    assert answer == (b"" if reply is None else bytes((5, reply, 0, 1, 0, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (GREETING, Denial.LOGIN),
        (bytes((5, 1, 2, 2, 0)), Denial.PROTOCOL),
        (bytes((5, 1, 2, 1, 1)) + b"\xff\x01a", Denial.LOGIN),
    ],
)
def test_socks_without_a_login_where_there_must_be_one(data: bytes, refusal: Denial) -> None:
    assert malformed(Client(data, needs_login=True)).refusal is refusal


def test_an_address_is_named_in_the_reason() -> None:
    address = ipaddress.ip_address("2001:db8::1")
    client = Client(GREETING + target(address.packed, kind=4))
    assert "2001:db8::1 is an address" in malformed(client).text
    assert "socks5h://" in malformed(client).text


@pytest.mark.parametrize(
    ("refusal", "code"),
    [(Denial.RULE, 2), (Denial.NAME, 4), (Denial.UNAVAILABLE, 3), (Denial.FAILED, 5)],
)
def test_each_refusal_has_its_code(refusal: Denial, code: int) -> None:
    client = Client(GREETING + target(b"press-4"))
    assert client.handshake.refuse(refusal, "why")[:2] == bytes((5, code))


# -- HTTP CONNECT


def ask(name: str = "press-4:22", *headers: str) -> bytes:
    return http_request(name, *headers)


@pytest.mark.parametrize(
    ("target", "name", "port"),
    [
        ("press-4:22", "press-4", 22),
        ("press-4", "press-4", None),
        ("press-4:SSH", "press-4:SSH", None),
        ("ssh.press-4:443", "ssh.press-4", 443),
        ("halle%204%3ASSH", "halle 4:SSH", None),
        ("gr%C3%B6%C3%9Fe:1", "größe", 1),
        ("größe:1", "größe", 1),
        ("10.0.0.1:22", "10.0.0.1", 22),
        ("[::1]:22", "[::1]", 22),
        ("a:99999", "a:99999", None),
        ("100%", "100%", None),
    ],
)
def test_http_to_a_name(target: str, name: str, port: int | None) -> None:
    client = Client(ask(target, "Host: x", "User-Agent: y") + BEHIND)
    assert client.events == [TargetNamed(name, port)]
    assert client.left == BEHIND
    assert client.output == b""
    assert client.handshake.welcome() == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert client.handshake.protocol == "http"


def test_bare_line_feeds_are_lines_too() -> None:
    client = Client(b"CONNECT a HTTP/1.0\nHost: a\n\nrest")
    assert (client.events, client.left) == ([TargetNamed("a", None)], b"rest")


def test_http_with_a_login() -> None:
    data = ask("press-4:22", basic_login("alice", "se:cret"))
    client = Client(data + BEHIND, needs_login=True, password="se:cret")
    assert client.events == [LoginGiven("alice", "se:cret"), TargetNamed("press-4", 22)]
    assert client.left == BEHIND


def test_a_login_that_nobody_asks_for_does_not_count() -> None:
    assert Client(ask("a", "Proxy-Authorization: nonsense")).events == [TargetNamed("a", None)]


@pytest.mark.parametrize(
    "header",
    [
        "X: y",
        "Proxy-Authorization: Basic !!!",
        "Proxy-Authorization: Basic YWxpY2U=",
        "Proxy-Authorization: Basic /w==",
        "Proxy-Authorization: Bearer abc",
        basic_login("alice", "wrong"),
        f"{basic_login('alice', 'secret')}\r\n{basic_login('alice', 'secret')}",
    ],
)
def test_http_without_a_good_login_is_407(header: str) -> None:
    client = Client(ask("press-4:22", header), needs_login=True)
    found = malformed(client)
    assert found.refusal is Denial.LOGIN
    answer = client.handshake.refuse(found.refusal, found.text).decode()
    assert answer.startswith("HTTP/1.1 407 Proxy Authentication Required\r\n")
    assert 'Proxy-Authenticate: Basic realm="tunnelfleet", charset="UTF-8"\r\n' in answer
    assert "secret" not in answer


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "GET is not possible here"),
        (b"CONNECT  HTTP/1.1\r\n\r\n", "no HTTP request"),
        (b"CONNECT a b HTTP/1.1\r\n\r\n", "no HTTP request"),
        (b"CONNECT a HTTP/2.0\r\n\r\n", "no HTTP request"),
        (b"CONNECT :22 HTTP/1.1\r\n\r\n", "there is no name"),
        (b"CONNECT %ff HTTP/1.1\r\n\r\n", "no UTF-8"),
        (b"CONNECT \xff HTTP/1.1\r\n\r\n", "no UTF-8"),
        (b"CONNECT a HTTP/1.1\r\n folded: x\r\n\r\n", "no header"),
        (b"CONNECT a HTTP/1.1\r\nHost\r\n\r\n", "no header"),
        (ask("a", "Content-Length: 5"), "has no body"),
        (ask("a", "Content-Length: 0", "content-length: 5"), "has no body"),
        (ask("a", "Transfer-Encoding: chunked"), "has no body"),
        (b"hello\r\n\r\n", "no HTTP request"),
        (ask("a" * 601), "above 600 bytes"),
        (b"A" * 9_000, f"above {MAX_HEAD_BYTES} bytes"),
    ],
)
def test_http_that_is_refused(data: bytes, says: str) -> None:
    client = Client(data)
    found = malformed(client)
    assert found.refusal is Denial.PROTOCOL
    assert says in found.text
    answer = client.handshake.refuse(found.refusal, found.text).decode()
    head, body = answer.split("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert "\r\nConnection: close" in head
    assert f"\r\nContent-Length: {len(body.encode())}\r\n" in head
    assert body == f"{found.text}\n"


@pytest.mark.parametrize("length", range(MAX_HEAD_BYTES - 2, MAX_HEAD_BYTES + 3))
def test_a_head_may_have_exactly_the_limit(length: int) -> None:
    base = len(ask("a", "X: "))
    data = ask("a", "X: " + "x" * (length - base))
    assert len(data) == length
    client = Client(data + BEHIND, 7)
    if length <= MAX_HEAD_BYTES:
        assert client.events == [TargetNamed("a", None)]
        assert client.left == BEHIND
    else:
        assert malformed(client).refusal is Denial.PROTOCOL


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Denial.RULE, 403),
        (Denial.NAME, 404),
        (Denial.ADDRESS, 404),
        (Denial.UNAVAILABLE, 503),
        (Denial.BUSY, 503),
        (Denial.FAILED, 502),
    ],
)
def test_each_refusal_has_its_status_and_its_reason(refusal: Denial, status: int) -> None:
    answer = Client(ask("a")).handshake.refuse(refusal, 'the "far"\r\nend \\ größe').decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "\r\nProxy-Status: tunnelfleet; details=\"the 'far' end / gr??e\"\r\n" in answer
    assert answer.endswith('\r\n\r\nthe "far" end \\ größe\n')


# -- neither


@pytest.mark.parametrize(
    ("data", "says", "answer"),
    [
        (bytes((4, 1, 0, 22, 1, 2, 3, 4, 0)), "SOCKS 4", bytes((0, 91, 0, 0, 0, 0, 0, 0))),
        (bytes((0x16, 3, 1, 2, 0)), "TLS", b""),
        (b"\0\0\0", "neither SOCKS 5 nor HTTP", b""),
        (b"\xff", "neither SOCKS 5 nor HTTP", b""),
    ],
)
def test_other_protocols_are_told_by_their_first_byte(
    data: bytes, says: str, answer: bytes
) -> None:
    client = Client(data)
    found = malformed(client)
    assert found.refusal is Denial.PROTOCOL
    assert says in found.text
    assert client.handshake.refuse(found.refusal, found.text) == answer
    assert (client.output, client.handshake.protocol) == (b"", "other")


# -- any bytes, in any pieces

WHOLE = [
    (GREETING + target(b"press-4"), False),
    (bytes((5, 3, 0, 1, 2)) + login("alice", "secret") + target(b"ssh.press-4"), True),
    (bytes((5, 1, 2)) + login("alice", "wrong") + target(b"x"), True),
    (bytes((5, 1, 2)) + login("", "") + target(b""), False),
    (GREETING + target(bytes(16), kind=4), False),
    (ask("press-4:22", "Host: press-4:22", "User-Agent: curl/7.88.1"), False),
    (ask("press-4:SSH", basic_login("alice", "secret")), True),
    (ask("press-4:SSH"), True),
    (b"CONNECT a HTTP/1.1\nHost: a\n\n", False),
]
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=40)


@given(st.sampled_from(WHOLE), SIZES, st.binary(max_size=30))
def test_the_pieces_do_not_matter(
    whole: tuple[bytes, bool], sizes: list[int], behind: bytes
) -> None:
    data, needs_login = whole
    at_once = Client(data + behind, needs_login=needs_login)
    client = Client(data + behind, *sizes, needs_login=needs_login)
    assert client.events == at_once.events
    assert client.output == at_once.output
    assert client.taken == at_once.taken <= len(data)
    if isinstance(client.events[-1], TargetNamed):
        assert client.left == behind


@given(
    st.sampled_from([b"", b"\x05", GREETING, GREETING + b"\x05\x01\0", b"CONNECT ", ask()[:-2]]),
    st.binary(min_size=1, max_size=700),
    SIZES,
    st.booleans(),
)
def test_garbage_is_taken_within_bounds(
    start: bytes, data: bytes, sizes: list[int], needs_login: bool
) -> None:
    client = Client(start + data, *sizes, needs_login=needs_login)
    assert client.taken + len(client.left) == len(start + data)
    assert len(client.events) <= 2
    assert len(client.output) <= 4
    for event in client.events:
        if isinstance(event, Malformed):
            assert event.text.isprintable()
            assert len(client.handshake.refuse(event.refusal, event.text)) < 2_000
