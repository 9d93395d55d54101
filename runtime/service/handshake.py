"""A client's handshake: its HTTP request, read within bounds, and the answer to it.

Owns the parsing of the request, the rules of admission applied to it, the text of refusals, and
what is planned for handshakes to come: a refusal, silence, garbage. It does not know streams.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from tunnelfleet import proto
from tunnelfleet.actors.token_bucket import TokenBucket

from .client import Client
from .events import ServiceEvent, ServiceEventKind

if TYPE_CHECKING:
    from .relay import RelayedTunnel
    from .tokens import IssuedTokens


TOO_MANY_TEXT: Final = "Too many requests: connect again later"
_ACCEPT_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16
_REQUEST_LINE_WORDS: Final = 3


class BadRequest(Exception):  # noqa: N818 (named as HTTP names it)
    """The bytes are no HTTP request for a WebSocket upgrade.

    Attributes:
        status: the HTTP status to answer with.
    """

    def __init__(self, reason: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason)
        self.status = int(status)


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """The head of a WebSocket upgrade request. Its repr hides headers, which carry tokens.

    Attributes:
        path: the path without the query.
        query: the query's pairs, in order, duplicates kept.
        headers: the headers in order, duplicates kept, names as sent.
    """

    path: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]

    def __repr__(self) -> str:
        return f"UpgradeRequest(path={self.path!r}, {len(self.headers)} headers)"

    def header(self, name: str) -> str:
        """Return the value of a header, duplicates joined by commas, or ""."""
        return ",".join(value for key, value in self.headers if key.lower() == name)

    def accept(self) -> str:
        """Return the answer to the request's WebSocket key.

        Raises:
            BadRequest: it is not a WebSocket version 13 upgrade.
        """
        _check_upgrade(self)
        return accept_key(self.header("sec-websocket-key").strip())


def parse_request(head: bytes) -> UpgradeRequest:
    """Parse the head of a request, up to and including its empty line.

    Raises:
        BadRequest: it is not HTTP/1.1 GET, or malformed.
    """
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != _REQUEST_LINE_WORDS or not words[2].startswith("HTTP/"):
        raise BadRequest("malformed request line")
    if words[2] != "HTTP/1.1":
        raise BadRequest("only HTTP/1.1", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if words[0] != "GET":
        raise BadRequest("only GET", HTTPStatus.METHOD_NOT_ALLOWED)
    try:
        target = urlsplit(words[1])
    except ValueError as error:
        raise BadRequest("malformed request target") from error
    query = parse_qsl(target.query, keep_blank_values=True)
    return UpgradeRequest(target.path, query, [_header(line) for line in lines[1:]])


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip() or not name.isascii():
        raise BadRequest("malformed header line")
    return name, value.strip(" \t")


def _check_upgrade(request: UpgradeRequest) -> None:
    connection = [word.strip().lower() for word in request.header("connection").split(",")]
    if request.header("upgrade").strip().lower() != "websocket" or "upgrade" not in connection:
        raise BadRequest("not a WebSocket upgrade", HTTPStatus.UPGRADE_REQUIRED)
    if request.header("sec-websocket-version").strip() != "13":
        raise BadRequest("only WebSocket version 13", HTTPStatus.UPGRADE_REQUIRED)
    try:
        key = base64.b64decode(request.header("sec-websocket-key").strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("malformed Sec-WebSocket-Key") from error
    if len(key) != _KEY_BYTES:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes")


def upgrade_response(accept: str, subprotocol: str, channel_id: str) -> bytes:
    """Return the 101 response (docs/protocol.md section 1: the headers that clients need)."""
    return _head(
        HTTPStatus.SWITCHING_PROTOCOLS,
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
            (proto.SUBPROTOCOL_HEADER, subprotocol),
            (proto.CHANNEL_ID_HEADER, channel_id),
        ],
    )


def refusal_response(
    status: int, body: str, channel_id: str, retry_after_seconds: float | None = None
) -> bytes:
    """Return a response that refuses the upgrade and ends the HTTP connection."""
    content = body.encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(content))),
        ("Connection", "close"),
        (proto.CHANNEL_ID_HEADER, channel_id),
    ]
    if status == HTTPStatus.UPGRADE_REQUIRED:
        headers += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    if retry_after_seconds is not None:
        headers.append(("Retry-After", f"{retry_after_seconds:g}"))
    return _head(status, headers) + content


def _head(status: int, headers: list[tuple[str, str]]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    lines = [f"HTTP/1.1 {int(status)} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


AWS_CONNECTS_PER_SECOND: Final = 10.0
"""What AWS lets the clients of an account have (docs/protocol.md section 6)."""

MAX_STRANGERS: Final = 2_048
"""Connections that have not shown a token: in TLS's handshake, before their request, refused."""

STRANGER_SECONDS: Final = 3.0
"""When all places are taken, one that is older makes place."""


GARBAGE: Final = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP \xff\xfe\r\n\r\n"


@dataclass(slots=True)
class Refusal:
    """A status to refuse with, ``left`` more times.

    Attributes:
        status: HTTP status.
        body: HTTP body.
        left: how many requests are still to be refused.
        retry_after_seconds: the ``Retry-After`` header's value, or None for no header.
    """

    status: int
    body: str
    left: int
    retry_after_seconds: float | None


@dataclass(slots=True)
class FaultPlan:
    """What the next requests have coming. A refusal of the name None is everybody's."""

    silences_left: int = 0
    garbage_left: int = 0
    refusals: dict[str | None, Refusal] = field(default_factory=dict)

    def take_silence(self) -> bool:
        """Say whether this request is to go without an answer."""
        if self.silences_left <= 0:
            return False
        self.silences_left -= 1
        return True

    def take_garbage(self) -> bool:
        """Say whether this request is to be answered with garbage."""
        if self.garbage_left <= 0:
            return False
        self.garbage_left -= 1
        return True

    def take_refusal(self, tunnel: str | None) -> Refusal | None:
        """Return the refusal planned for a tunnel's (None: anybody's) next request."""
        refusal = self.refusals.get(tunnel)
        if refusal is None:
            return None
        refusal.left -= 1
        if refusal.left <= 0:
            del self.refusals[tunnel]
        return refusal


class ClientAdmission:
    """Decides on requests.

    Args:
        issued: who may connect.
        tunnels: where they are connected to.
        emit: takes events.
        gone: told when a client's connection is over.
        connects_per_second: how many may connect on average; None: as many as like.

    Attributes:
        faults: what the next requests have coming.
    """

    def __init__(
        self,
        issued: IssuedTokens,
        tunnels: Mapping[str, RelayedTunnel],
        emit: Callable[[ServiceEvent], None],
        gone: Callable[[Client], None],
        connects_per_second: float | None = None,
    ) -> None:
        self.faults = FaultPlan()
        self._rate: TokenBucket | None = None
        if connects_per_second is not None:
            burst = max(1.0, connects_per_second)
            self._rate = TokenBucket(connects_per_second, burst, time.monotonic())
        self._issued = issued
        self._tunnels = tunnels
        self._emit = emit
        self._gone = gone
        self._strangers: dict[Client, float] = {}

    def has_room(self, now: float) -> bool:
        """Say whether one more connection may come, were it in the place of an old one."""
        if len(self._strangers) < MAX_STRANGERS:
            return True
        return now - next(iter(self._strangers.values())) >= STRANGER_SECONDS

    def arrived(self, client: Client, now: float) -> None:
        """Take note of a new connection; the oldest goes if it has taken its place."""
        self._strangers[client] = now
        if len(self._strangers) > MAX_STRANGERS:
            next(iter(self._strangers)).wire.abort("made place for another connection")

    def requested(self, client: Client, head: bytes) -> None:
        """Judge a request and answer it (``Reception``)."""
        if self.faults.take_silence():
            self._report("", client, "left without an answer on command")
            client.leave_waiting()
        elif self.faults.take_garbage():
            self._report("", client, "answered with garbage on command")
            client.refuse(GARBAGE)
        elif (refusal := self.faults.take_refusal(None)) is not None:
            self._refuse_as_planned("", client, refusal)
        else:
            self._judge(client, head)

    def gone(self, client: Client, reason: str) -> None:  # noqa: ARG002 (what Reception says)
        """Forget a client (``Reception``)."""
        self._strangers.pop(client, None)
        self._gone(client)

    def _judge(self, client: Client, head: bytes) -> None:
        tunnel = ""
        try:
            accept, request = _read(head)
            tunnel = self._issued.tunnel_of(request.access_token) or ""
            refusal = self.faults.take_refusal(tunnel) if tunnel else None
            if refusal is not None:
                self._refuse_as_planned(tunnel, client, refusal)
                return
            if tunnel:  # who has no token takes nobody's turn
                self._check_rate()
            tunnel = self._issued.admit(request)
        except proto.RequestRefused as refused:
            self._refuse(tunnel, client, refused.status, refused.body)
        except BadRequest as error:
            self._refuse(tunnel, client, error.status, f"{proto.INVALID_REQUEST_TEXT}: {error}")
        else:
            self._strangers.pop(client, None)
            response = upgrade_response(accept, request.subprotocol, client.channel_id)
            client.attach(self._tunnels[tunnel], request.mode, response)

    def _check_rate(self) -> None:
        """Raise RequestRefused if too many connect; the token is not spent by that."""
        if self._rate is None:
            return
        now = time.monotonic()
        if self._rate.wait_seconds(now) > 0:
            raise proto.RequestRefused(HTTPStatus.TOO_MANY_REQUESTS, TOO_MANY_TEXT)
        self._rate.take(1, now)

    def _refuse_as_planned(self, tunnel: str, client: Client, refusal: Refusal) -> None:
        self._refuse(tunnel, client, refusal.status, refusal.body, refusal.retry_after_seconds)

    def _refuse(
        self,
        tunnel: str,
        client: Client,
        status: int,
        body: str,
        retry_after_seconds: float | None = None,
    ) -> None:
        self._report(tunnel, client, f"HTTP {int(status)}: {body}")
        client.refuse(refusal_response(status, body, client.channel_id, retry_after_seconds))

    def _report(self, tunnel: str, client: Client, what: str) -> None:
        detail = f"{what} (channel-id {client.channel_id})"
        self._emit(ServiceEvent(ServiceEventKind.CLIENT_REFUSED, tunnel, None, detail))


def _read(head: bytes) -> tuple[str, proto.RequestAccepted]:
    """Return the WebSocket accept key and the request, if it keeps the rules.

    Raises:
        BadRequest: it is no WebSocket upgrade.
        RequestRefused: it is not one of docs/protocol.md section 1.
    """
    if len(head) > proto.MAX_REQUEST_BYTES:
        reason = f"{proto.INVALID_REQUEST_TEXT}: it is above {proto.MAX_REQUEST_BYTES} bytes"
        raise proto.RequestRefused(HTTPStatus.BAD_REQUEST, reason)
    request = parse_request(head)
    accepted = proto.check_request(request.path, request.query, request.headers)
    return request.accept(), accepted


def accept_key(client_key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1(client_key.encode("ascii") + _ACCEPT_SUFFIX, usedforsecurity=False)
    return base64.b64encode(digest.digest()).decode("ascii")
