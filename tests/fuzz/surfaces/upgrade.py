"""What a service or a proxy answers to a client's handshake (actors/transport)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from tests.fuzz.harness import TURNS, Harness, Source, Wired, is_line
from tunnelfleet.actors.addresses import HttpProxy
from tunnelfleet.actors.transport import upgrade as client
from tunnelfleet.actors.transport.connector import connect_error
from tunnelfleet.actors.transport.upgrade import MAX_ANSWER_BYTES, connect_through
from tunnelfleet.proto import Endpoint, HandshakeError, Mode
from tunnelfleet.proto.handshake import handshake_error
from tunnelfleet.proto.text import PART_CHARACTERS

TOKEN = "AQGAAXkZ7hQ4-access-token-of-the-tunnel-_x9Kd"
PASSWORD = "s3cret-of-the-proxy"
ENDPOINT = Endpoint.parse("ws://service.example")
PROXY = HttpProxy.parse(f"http://user:{PASSWORD}@proxy.example:3128")
MAX_SHOWN = 1_000
ACCEPT = b"%ACCEPT%"
ECHO = b"%TOKEN%"


def run(data: bytes) -> None:
    source = Source(data)
    how = source.byte()
    if how & 1:
        through_a_proxy(source.rest(), how >> 1)
    else:
        to_the_service(source.rest(), how >> 1)


def to_the_service(wire: bytes, piece_bytes: int) -> None:
    sock: Any = Wired(wire, answered, piece_bytes)
    given = [("access-token", TOKEN)]
    try:
        with TURNS:
            answer = client.upgrade(sock, ENDPOINT, Mode.SOURCE, given)
    except (OSError, ValueError) as error:
        check_error(connect_error("WebSocket handshake", error, (TOKEN,)), TOKEN)
        return
    finally:
        assert sock.calls <= client.MAX_HEADER_BYTES + client.MAX_ERROR_BODY_BYTES + 2
    assert len(answer.body) <= client.MAX_ERROR_BODY_BYTES
    channel_id = answer.headers.get("channel-id")
    if answer.status == 101:
        # What came behind the head is the WebSocket's: all of it is there, and nothing else.
        behind = answer.body + sock.left
        whole = answered(wire, sock.sent)
        assert len(answer.body) < client.HEAD_READ_BYTES
        assert whole.endswith(behind)
        assert whole[: len(whole) - len(behind)].endswith((b"\n\r\n", b"\n\n"))
        return
    assert 0 <= answer.status <= 999
    text = answer.body.decode("utf-8", "replace")
    error = handshake_error(answer.status, text, channel_id, secrets=(TOKEN,))
    assert error.retryable is (not 400 <= answer.status < 500 or answer.status == 429)
    check_error(error, TOKEN)


def answered(left: bytes, sent: bytes) -> bytes:
    """What the service sends: it knows how to answer the key, and may echo the token."""
    found = re.search(rb"Sec-WebSocket-Key: (\S+)", sent)
    assert found
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(found[1] + guid).digest())
    return left.replace(ACCEPT, accept).replace(ECHO, TOKEN.encode())


def through_a_proxy(wire: bytes, piece_bytes: int) -> None:
    sock: Any = Wired(wire, lambda left, _sent: left.replace(ECHO, PASSWORD.encode()), piece_bytes)
    try:
        with TURNS:
            connect_through(sock, ENDPOINT, PROXY, "agent")
    except HandshakeError as error:
        check_error(error, PASSWORD)
    except OSError as error:
        assert is_line(str(error), MAX_SHOWN)
    assert sock.calls <= MAX_ANSWER_BYTES + 1


def check_error(error: HandshakeError, secret: str) -> None:
    text = str(error)
    assert is_line(text, MAX_SHOWN)
    assert error.label.isascii()
    json.dumps(text)
    parts = {secret[at : at + PART_CHARACTERS] for at in range(len(secret) - PART_CHARACTERS)}
    shown = re.sub(r"proxy http\S*", "", text)
    assert not [each for each in parts if each in shown]


WELCOME = b"\r\n".join(
    (
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + ACCEPT,
        b"Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0",
        b"channel-id: abc",
        b"",
        b"\x82\0",
    )
)
REFUSED = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\nchannel-id: " + ECHO + b"\r\n\r\n" + ECHO
)
HARNESS = Harness(
    run=run,
    covers=[
        "actors/transport/upgrade.py",
        "proto/handshake.py",
        "proto/text.py",
    ],
    seeds=[
        b"\0" + WELCOME,
        b"\0" + WELCOME.replace(b"\r\n", b"\n"),
        b"\6" + WELCOME,
        b"\0" + REFUSED,
        b"\0HTTP/1.1 400 Bad\nContent-Length: 9999999999999\n\nInvalid access token" + ECHO,
        b"\1HTTP/1.1 200 OK\r\n\r\nrest",
        b"\1HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 407 Auth\r\nProxy-Authenticate: Digest\r\n\r\n",
    ],
    words=[
        b"HTTP/1.1 ",
        b" 101 ",
        b"\r\n",
        b"\n\n",
        b"Content-Length: ",
        b"Sec-WebSocket-Accept: " + ACCEPT,
        b"Proxy-Authenticate: Basic",
        ECHO,
    ],
    max_bytes=2_048,
)
