"""What a gateway's commands are answered: by its admin API, and by its door (connect)."""

from __future__ import annotations

import http.client
import io
import json
from typing import Any

from tests.fuzz.harness import TURNS, Harness, Source, Wired
from tunnelfleet import connect
from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime.cli.gateway.logs import event_line
from tunnelfleet.runtime.cli.gateway.look import audit_table, connection_table
from tunnelfleet.runtime.cli.gateway.rows import SORTS, page, sorted_rows, summary, tunnel_table
from tunnelfleet.runtime.cli.gateway.screen import plain
from tunnelfleet.runtime.gateway.api.address import GatewayAddress
from tunnelfleet.runtime.gateway.api.client import GatewayClient

ADDRESS = GatewayAddress.parse("http://127.0.0.1:9465")
MAX_SHOWN = 8_000
NOW = 1_700_000_000.0
MAX_REMEMBERED = 10_000
SHOWN: set[str] = set()
"""Rows that were shown, and so can be."""


def run(data: bytes) -> None:
    source = Source(data)
    how = source.byte() % 4
    wire = source.rest()
    if how == 0:
        of_the_door(wire)
    elif how == 1:
        of_the_api(wire)
    elif how == 2:
        events(wire)
    else:
        address(wire.decode("utf-8", "replace"))


def address(text: str) -> None:
    try:
        found = GatewayAddress.parse(text)
    except ConfigError as error:
        check_text(str(error))
        return
    assert found == GatewayAddress.parse(str(found))


def of_the_door(wire: bytes) -> None:
    sock: Any = Wired(wire)
    with TURNS:
        status, text = connect._read_answer(sock)
    assert status < 1_000
    assert len(text) <= 3 * connect.MAX_HEAD_BYTES
    assert sock.calls <= 2 * connect.MAX_HEAD_BYTES + 2


class Bytes:
    """A socket as http.client reads one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._data))

    def settimeout(self, _seconds: float | None) -> None: ...

    def recv(self, _size: int, _flags: int) -> bytes:
        raise BlockingIOError

    def close(self) -> None: ...


class Answered(GatewayClient):
    """A client that is answered with these bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(ADDRESS)
        self._data = data

    def _connect(self) -> Any:
        return Connection(self._data)


class Connection(http.client.HTTPConnection):
    """A connection that is there already."""

    def __init__(self, data: bytes) -> None:
        super().__init__("127.0.0.1")
        self._bytes: Any = Bytes(data)

    def connect(self) -> None:
        self.sock = self._bytes

    def send(self, _data: Any) -> None: ...


def of_the_api(wire: bytes) -> None:
    with Answered(wire) as client:
        try:
            with TURNS:
                found = client._ask("GET", "/v1/gateway")
        except TunnelError as error:
            check_text(str(error))
            return
    show(found)


def events(wire: bytes) -> None:
    with Answered(wire) as client:
        try:
            with TURNS:
                for count, event in enumerate(client.events(only_past=True)):
                    assert count <= len(wire)
                    check_text(plain(event_line(event.name, event.data)))
                    show(event.data)
        except TunnelError as error:
            check_text(str(error))


def check_text(text: str) -> None:
    assert len(text) <= MAX_SHOWN
    assert text.isprintable(), text


def show(row: dict[str, Any]) -> None:
    """The commands can show it, whatever it is.

    Most inputs are changes of what is around a row, and to show one takes longer than all the rest.
    """
    text = repr(row)
    if text in SHOWN:
        return
    rows = [row, row]
    for lines in (
        tunnel_table(rows, 80, NOW),
        tunnel_table(rows, None, NOW, {}),
        page(row, 80, NOW),
        connection_table(rows, 80, NOW),
        audit_table(rows, None, NOW),
        [summary(rows)],
    ):
        for line in lines:
            check_text(plain(line))
    for key in SORTS:
        assert len(sorted_rows(rows, key, {})) == 2
    if len(SHOWN) >= MAX_REMEMBERED:
        SHOWN.clear()
    SHOWN.add(text)


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ROW = {
    "name": "press-4",
    "state": "connected",
    "mode": "source",
    "since": NOW - 60,
    "services": {"SSH": "127.0.0.1:22"},
    "labels": {"site": "lyon"},
    "connections": 1,
    "sent_bytes": 5_000_000,
    "received_bytes": 1,
    "reconnects": 0,
    "reason": "",
    "source": "file",
    "place": "fleet.toml:3",
    "opened_at": NOW - 5,
    "ended_at": NOW,
    "kind": "stream",
    "peer": "uid 0",
}
PROBLEM = {"type": "urn:x", "title": "no", "status": 404, "detail": "no such tunnel", "a": [1]}
STREAM = f"id: 1\nevent: connected\ndata: {json.dumps(ROW)}\n\n: x\nevent: replayed\n\n".encode()
HARNESS = Harness(
    run=run,
    covers=[
        "package/connect.py",
        "runtime/gateway/api/client.py",
        "runtime/gateway/api/address.py",
        "runtime/cli/gateway/rows.py",
        "runtime/cli/gateway/logs.py",
    ],
    seeds=[
        b"\0HTTP/1.1 200 Connection established\r\n\r\nrest",
        b"\0HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n",
        b"\1" + answer(json.dumps(ROW).encode()),
        b"\1" + answer(json.dumps(PROBLEM).encode(), "404 Not Found", "application/problem+json"),
        b"\1" + answer(b"[]"),
        b"\1" + answer(b"", "204 No Content"),
        b"\1HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"\2HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + STREAM,
        b"\3unix:/run/x.sock",
        b"\3https://[::1]:9465",
        b"\2" + answer(json.dumps(PROBLEM).encode(), "503 Busy"),
    ],
    words=[
        b"HTTP/1.1 ",
        b"\r\n\r\n",
        b"1e999",
        b"NaN",
        b'"since":',
        b'"state":',
        b"data: {",
        b"null",
    ],
    max_bytes=2_048,
    forget=SHOWN.clear,
)
