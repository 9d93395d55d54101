"""What the service's tests share: a blocking client, raw requests, a log of events.

The client is websocket-client's blocking API, driven frame by frame so that a test sees what is on
the wire, and no code of this project's own client.
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import websocket

from tests.support.frames import data_of
from tests.support.sockets import read_to_end
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import Message, MessageType, Mode, decode_message, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnelfleet.runtime.service import (
        ServiceEvent,
        ServiceEventKind,
        TunnelService,
        TunnelTokens,
    )

CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"
SUBPROTOCOL = "aws.iot.securetunneling-3.0"


class EventLog:
    """Collects a service's events; a test waits for one."""

    def __init__(self) -> None:
        self._events: list[ServiceEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: ServiceEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def all(self) -> list[ServiceEvent]:
        with self._changed:
            return list(self._events)

    def wait(
        self, kind: ServiceEventKind, mode: Mode | None = None, count: int = 1
    ) -> ServiceEvent:
        def found() -> list[ServiceEvent]:
            return [e for e in self._events if e.kind is kind and mode in {None, e.mode}]

        with self._changed:
            seen = self._changed.wait_for(lambda: len(found()) >= count, WAIT_SECONDS)
            assert seen, f"no {kind} in {[e.kind.value for e in self._events]}"
            return found()[count - 1]


class TunnelClient:
    """One blocking WebSocket client of a service."""

    def __init__(
        self,
        service: TunnelService,
        mode: Mode,
        token: str,
        client_token: str | None = None,
        *,
        announced: bool = True,
    ) -> None:
        header = [f"access-token: {token}"]
        header += [f"client-token: {client_token}"] if client_token else []
        secure = service.endpoint.startswith("wss")
        self.ws = websocket.create_connection(
            f"{service.endpoint}/tunnel?local-proxy-mode={mode}",
            header=header,
            subprotocols=[SUBPROTOCOL],
            sslopt={"context": service.ssl_context()} if secure else None,
            suppress_origin=True,
            timeout=WAIT_SECONDS,
        )
        if announced:
            assert self.message().type is MessageType.SERVICE_IDS

    def send(self, *messages: Message) -> None:
        """Send each message as a WebSocket message of its own."""
        for message in messages:
            self.ws.send_binary(encode_frame(message))

    def send_raw(self, payload: bytes) -> None:
        """Send one binary WebSocket message."""
        self.ws.send_binary(payload)

    def send_fragments(self, pieces: Iterable[bytes]) -> None:
        """Send one WebSocket message as continuation frames."""
        opcode, rest = websocket.ABNF.OPCODE_BINARY, list(pieces)
        for index, piece in enumerate(rest):
            last = int(index == len(rest) - 1)
            self.ws.send_frame(websocket.ABNF(fin=last, opcode=opcode, mask_value=1, data=piece))
            opcode = websocket.ABNF.OPCODE_CONT

    def frame(self) -> websocket.ABNF:
        """Return the next WebSocket frame, whatever it is; nothing is answered."""
        return self.ws.recv_frame()

    def payload(self) -> bytes:
        """Return the next WebSocket message, which is unfragmented and binary."""
        frame = self.frame()
        assert (frame.fin, frame.opcode) == (1, websocket.ABNF.OPCODE_BINARY), frame.opcode
        assert (frame.rsv1, frame.rsv2, frame.rsv3) == (0, 0, 0)
        return data_of(frame)

    def message(self) -> Message:
        """Return the next tunnel message; it is alone in its WebSocket message."""
        payload = self.payload()
        assert int.from_bytes(payload[:2], "big") == len(payload) - 2
        return decode_message(payload[2:], strict=True)

    def send_until_blocked(
        self, wire: bytes, limit_bytes: int, timeout_seconds: float = 0.5
    ) -> int:
        """Send these bytes over and over until no more are taken; return how many were."""
        self.ws.settimeout(timeout_seconds)
        sent_bytes, rest = 0, b""
        while sent_bytes < limit_bytes:
            rest = rest or wire
            try:
                count = self.ws.sock.send(rest)
            except (TimeoutError, ssl.SSLWantWriteError):
                return sent_bytes
            sent_bytes += count
            rest = rest[count:]
        raise AssertionError(f"{sent_bytes} bytes were taken and nothing held them up")

    def assert_closed_empty(self) -> None:
        """The service says an empty CLOSE and then ends the TCP connection."""
        frame = self.frame()
        assert (frame.opcode, data_of(frame)) == (websocket.ABNF.OPCODE_CLOSE, b"")
        self.assert_ended()

    def assert_ended(self) -> None:
        """The TCP connection ends with no further byte."""
        assert self.ws.sock is not None
        assert read_to_end(self.ws.sock) == b""

    def assert_quiet(self) -> None:
        """Nothing more is on its way: what the service answers to a ping comes next."""
        self.ws.ping(b"quiet?")
        frame = self.frame()
        assert (frame.opcode, data_of(frame)) == (websocket.ABNF.OPCODE_PONG, b"quiet?")

    def close(self) -> None:
        """End the TCP connection without a CLOSE."""
        if self.ws.sock is not None:
            self.ws.sock.close()


def connect_tcp(service: TunnelService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=WAIT_SECONDS)


def raw_request(service: TunnelService, request: bytes) -> tuple[int, dict[str, str], str]:
    """Send bytes to a plain service; return status, headers and body of the response."""
    with connect_tcp(service) as sock:
        sock.sendall(request)
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status_line.split(" ")[1]), headers, body.decode()


def request(
    tokens: TunnelTokens,
    mode: str = "source",
    *,
    path: str = "/tunnel",
    query: str | None = None,
    headers: Iterable[str] | None = None,
    method: str = "GET",
) -> bytes:
    """Build an upgrade request; ``headers`` takes the place of the token headers."""
    token = tokens.source_token if mode == "source" else tokens.destination_token
    mode_query = f"?local-proxy-mode={mode}" if query is None else query
    lines = [
        f"{method} {path}{mode_query} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        *([f"access-token: {token}"] if headers is None else headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
