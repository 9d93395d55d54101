"""What a client asks of the tunneling service: its upgrade (runtime/service/handshake.py)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from tests.fuzz.harness import TURNS, Harness, Source, is_line
from tunnelfleet.proto import MAX_REQUEST_BYTES
from tunnelfleet.runtime.service.client import END_OF_HEAD
from tunnelfleet.runtime.service.events import ServiceEvent, ServiceEventKind
from tunnelfleet.runtime.service.handshake import (
    BadRequest,
    ClientAdmission,
    parse_request,
)
from tunnelfleet.runtime.service.tokens import IssuedTokens

TUNNEL = "press-4"
TOKEN = b"%TOKEN%"
MAX_ANSWER_BYTES = 8_192


class Asking:
    """A client that is answered once."""

    channel_id = "channel"

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.attached: list[Any] = []

    def refuse(self, response: bytes) -> None:
        self.answers.append(response)

    def attach(self, tunnel: Any, mode: Any, response: bytes) -> None:
        self.attached.append((tunnel, mode))
        self.answers.append(response)

    def leave_waiting(self) -> None:
        raise AssertionError("nobody has asked for that fault")


def run(data: bytes) -> None:
    source = Source(data)
    again = source.flag()
    issued = IssuedTokens()
    tokens = issued.open(TUNNEL, ("SSH",))
    events: list[ServiceEvent] = []
    tunnels: Mapping[str, Any] = {TUNNEL: object()}
    admission = ClientAdmission(issued, tunnels, events.append, lambda _client: None)
    head = source.rest().replace(TOKEN, tokens.source_token.encode())
    head = head.split(END_OF_HEAD)[0][:MAX_REQUEST_BYTES] + END_OF_HEAD
    for _ in range(1 + again):
        ask(admission, head, tokens.source_token, events)


def ask(admission: ClientAdmission, head: bytes, token: str, events: list[ServiceEvent]) -> None:
    client: Any = Asking()
    with TURNS:
        admission.requested(client, head)
    (answer,) = client.answers
    assert len(answer) <= MAX_ANSWER_BYTES
    assert answer.count(END_OF_HEAD) == 1
    assert token.encode() not in answer
    status = answer.split(b" ", 2)[1]
    if client.attached:
        # Whoever is let in has shown the token in so many words, and the WebSocket's key.
        assert token.encode() in head
        assert status == b"101"
        assert accepted(head) in answer
    else:
        assert 400 <= int(status) < 600
        event = events.pop()
        assert event.kind is ServiceEventKind.CLIENT_REFUSED
        assert is_line(event.detail, MAX_ANSWER_BYTES)
        assert token not in event.detail


def accepted(head: bytes) -> bytes:
    try:
        key = parse_request(head).header("sec-websocket-key").strip()
    except BadRequest:
        raise AssertionError("what is no request was let in") from None
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1((key + guid).encode()).digest())


GOOD = b"\r\n".join(
    (
        b"GET /tunnel?local-proxy-mode=source HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0",
    )
)
HARNESS = Harness(
    run=run,
    covers=[
        "runtime/service/handshake.py",
        "proto/handshake.py",
        "runtime/service/tokens.py",
    ],
    seeds=[
        b"\1" + GOOD + b"\r\naccess-token: " + TOKEN,
        b"\1" + GOOD + b"\r\naccess-token: " + TOKEN + b"\r\nclient-token: " + b"c" * 32,
        b"\0" + GOOD + b"\r\nCookie: a=b; awsiot-tunnel-token=" + TOKEN,
        b"\0" + GOOD.replace(b"source", b"destination") + b"\r\naccess-token: " + TOKEN,
        b"\0GET http://[x HTTP/1.1",
        b"\0POST / HTTP/1.1",
        b"\0GET / HTTP/2.0",
    ],
    words=[
        b"GET ",
        b"HTTP/1.1",
        b"\r\n",
        TOKEN,
        b"access-token: ",
        b"Cookie: ",
        b"%00",
        b"http://[",
    ],
    max_bytes=2_048,
)
