"""HTTP CONNECT: the proxy's side of RFC 9110 section 9.3.6, with Basic `Proxy-Authorization`.

Owns the bytes of an HTTP handshake: one request head, bounded, and one answer. The target is
`NAME:PORT`, `NAME:SERVICE` or `NAME`, percent-encoded where a name needs it; a number behind the
last colon is a port. A front door does nothing else: another method, or a request with a body, is
refused, and an answer that is not 200 ends the connection. Pure; see `handshake`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import unquote

from tunnelfleet.proto import printable
from tunnelfleet.proto.endpoint import MAX_PORT
from tunnelfleet.proto.text import MAX_REASON_CHARACTERS

from .handshake import MAX_NAME_BYTES, Denial, Event, LoginGiven, Malformed, TargetNamed

# A recipient may take a bare LF for the end of a line: RFC 9112 section 2.2.
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_MARGIN_BYTES = 3
"""How many bytes of the end of a head may have come before."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE = re.compile(rf"({_TOKEN.pattern}) (\S+) HTTP/1\.[0-9]")
_PORT = re.compile(r"(.*):([0-9]{1,5})", re.DOTALL)

_STATUS = {
    Denial.PROTOCOL: HTTPStatus.BAD_REQUEST,
    Denial.ADDRESS: HTTPStatus.NOT_FOUND,
    Denial.LOGIN: HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    Denial.RULE: HTTPStatus.FORBIDDEN,
    Denial.NAME: HTTPStatus.NOT_FOUND,
    Denial.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Denial.ELSEWHERE: HTTPStatus.SERVICE_UNAVAILABLE,
    Denial.FAILED: HTTPStatus.BAD_GATEWAY,
    Denial.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
}
_HOW = "write CONNECT NAME:PORT HTTP/1.1, where NAME is a tunnel's, as proxies are asked"


class _NotServed(Exception):  # noqa: N818 - it says what was found
    """The request is refused; the text says why."""


MAX_HEAD_BYTES = 8_192
"""The longest head of a request: its first line and its headers."""
REALM = "tunnelfleet"


class HttpHandshake:
    """One client of HTTP CONNECT.

    Args:
        needs_login: whether it must say who it is.
    """

    protocol = "http"

    def __init__(self, *, needs_login: bool) -> None:
        self._needs_login = needs_login
        self._head = bytearray()
        self._is_over = False
        self._events: deque[Event] = deque()
        self._target: TargetNamed | None = None

    # -- in

    def receive(self, data: bytes) -> int:
        """See `Handshake`."""
        if self._is_over:
            return 0
        before = len(self._head)
        self._head += data[: MAX_HEAD_BYTES - before]
        found = _HEAD_END.search(self._head, max(0, before - _MARGIN_BYTES))
        if found is not None:
            self._on_head(bytes(self._head[: found.start()]))
            return found.end() - before
        if len(self._head) == MAX_HEAD_BYTES:
            self._end(Denial.PROTOCOL, f"the request's head is above {MAX_HEAD_BYTES} bytes")
        return len(self._head) - before

    def _on_head(self, head: bytes) -> None:
        try:
            line, headers = _parse_head(head)
            target = _parse_request_line(line)
            _check_no_body(headers)
        except _NotServed as error:
            self._end(Denial.PROTOCOL, str(error))
            return
        if not self._needs_login:
            self._name(target)
        elif "proxy-authorization" not in headers:
            self._end(Denial.LOGIN, "this door asks for a user and a password")
        else:
            self._on_login(headers["proxy-authorization"], target)

    def _on_login(self, value: str, target: TargetNamed) -> None:
        login = _parse_basic(value)
        if login is None:
            self._end(Denial.LOGIN, "write Proxy-Authorization: Basic, with user and password")
        else:
            self._target = target
            self._is_over = True
            self._events.append(login)

    def login_checked(self, is_good: bool) -> None:
        """See `Handshake`."""
        assert self._target is not None
        if is_good:
            self._name(self._target)
        else:
            self._end(Denial.LOGIN, "wrong user or password")

    def _name(self, target: TargetNamed) -> None:
        self._is_over = True
        self._events.append(target)

    def _end(self, refusal: Denial, text: str) -> None:
        self._is_over = True
        self._events.append(Malformed(refusal, text))

    # -- out

    def next_event(self) -> Event | None:
        """See `Handshake`."""
        return self._events.popleft() if self._events else None

    def take_output(self) -> bytes:
        """See `Handshake`: an HTTP proxy says nothing before its answer."""
        return b""

    def welcome(self) -> bytes:
        """See `Handshake`."""
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def refuse(self, refusal: Denial, text: str) -> bytes:
        """See `Handshake`. The reason is the body, and a `Proxy-Status` (RFC 9209)."""
        status = _STATUS[refusal]
        text = printable(text, MAX_REASON_CHARACTERS)
        body = f"{text}\n".encode()
        details = text.encode("ascii", "replace").decode().replace("\\", "/").replace('"', "'")
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            f'Proxy-Status: tunnelfleet; details="{details}"',
            "Connection: close",
        ]
        if refusal is Denial.LOGIN:
            lines.append(f'Proxy-Authenticate: Basic realm="{REALM}", charset="UTF-8"')
        return "\r\n".join([*lines, "", ""]).encode() + body


def _parse_head(head: bytes) -> tuple[str, Mapping[str, str]]:
    """Return the request line, and the headers by their names in lower case."""
    line, *rest = [each.removesuffix("\r") for each in head.decode("latin-1").split("\n")]
    headers: dict[str, str] = {}
    for each in rest:
        name, colon, value = each.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise _NotServed("a line of the request's head is no header")
        name, value = name.lower(), value.strip(" \t")
        # Several of them are one with commas: RFC 9110 section 5.3. No login has one in it.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return line, headers


def _parse_request_line(line: str) -> TargetNamed:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise _NotServed(f"this is no HTTP request that a front door takes: {_HOW}")
    method, target = found.groups()
    if method != "CONNECT":
        raise _NotServed(f"{printable(method, 20)} is not possible here: {_HOW}")
    if len(target) > MAX_NAME_BYTES:
        raise _NotServed(f"the name is above {MAX_NAME_BYTES} bytes")
    port = None
    split = _PORT.fullmatch(target)
    if split is not None and int(split[2]) <= MAX_PORT:
        target, port = split[1], int(split[2])
    try:
        name = unquote(target.encode("latin-1").decode(), errors="strict")
    except UnicodeDecodeError:
        raise _NotServed("the name is no UTF-8") from None
    if not name:
        raise _NotServed(f"there is no name: {_HOW}")
    return TargetNamed(name, port)


def _check_no_body(headers: Mapping[str, str]) -> None:
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not re.fullmatch(r"0+", length):
        raise _NotServed("a CONNECT has no body: RFC 9110 section 9.3.6")


def _parse_basic(value: str) -> LoginGiven | None:
    """RFC 7617, in UTF-8."""
    scheme, _blank, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, colon, password = text.partition(":")
    return LoginGiven(user, password) if colon else None
