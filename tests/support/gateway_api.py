"""A gateway with its admin API, and a client that speaks HTTP at a Unix socket or a TCP address."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.support.fleet import Files
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import TcpAddress, UnixAddress
from tunnelfleet.runtime.gateway import Gateway
from tunnelfleet.runtime.gateway.api import ApiOptions, ApiPlaces, ApiServer, EventFeed
from tunnelfleet.runtime.gateway.listening import UnixPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tunnelfleet.runtime.gateway import WantedTunnel

TOKEN = "access-" + "t" * 80
OTHER_TOKEN = "access-" + "u" * 80
CLIENT_TOKEN = "client-" + "c" * 40
SECRETS = (TOKEN, OTHER_TOKEN, CLIENT_TOKEN)


def api_entry(name: Any = "b", **given: Any) -> dict[str, Any]:
    """An entry of a destination that nobody serves."""
    return {
        "name": name,
        "mode": "destination",
        "endpoint": "ws://127.0.0.1:1",
        "access_token": TOKEN,
        "services": {"SSH": "127.0.0.1:22"},
        **given,
    }


@dataclass
class ApiAnswer:
    """What the API answered."""

    status: int
    headers: http.client.HTTPMessage
    text: str
    json: Any = field(default=None)

    def problem(self, status: int, kind: str) -> dict[str, Any]:
        """The problem that it is; fails if it is another."""
        assert (self.status, self.headers["Content-Type"].partition(";")[0]) == (
            status,
            "application/problem+json",
        ), self
        assert self.json["type"] == f"urn:tunnelfleet:problem:{kind}"
        assert self.json["status"] == status
        found: dict[str, Any] = self.json
        return found


class UnixConnection(http.client.HTTPConnection):
    """HTTP at a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT_SECONDS)
        self.sock.connect(self._path)


class ApiClient:
    """Asks an API; each request has a connection of its own."""

    def __init__(self, server: ApiServer, headers: Mapping[str, str] | None = None) -> None:
        self._server = server
        self._headers = dict(headers or {})
        self.seen: list[str] = []
        """All that was answered."""

    def connection(self) -> http.client.HTTPConnection:
        """A new one."""
        address = self._server.address
        if isinstance(address, TcpAddress):
            return http.client.HTTPConnection(address.host, address.port, timeout=WAIT_SECONDS)
        assert isinstance(address, UnixAddress)
        return UnixConnection(address.path)

    def socket(self) -> socket.socket:
        """A bare connection."""
        made = self.connection()
        made.connect()
        assert made.sock is not None
        sock: socket.socket = made.sock
        return sock

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> ApiAnswer:
        """Ask, and read the whole answer. A body that is no text is sent as JSON."""
        headers = {**self._headers, **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = self.connection()
        try:
            connection.request(method, path, body, headers)
            got = connection.getresponse()
            text = got.read().decode()
        finally:
            connection.close()
        self.seen.append(f"{got.headers}\n{text}")
        kind = got.headers.get("Content-Type", "")
        return ApiAnswer(
            got.status, got.headers, text, json.loads(text) if text and "json" in kind else None
        )

    def get(self, path: str, **headers: str) -> ApiAnswer:
        """GET."""
        return self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    @contextlib.contextmanager
    def events(self, path: str = "/v1/events", **headers: str) -> Iterator[EventStream]:
        """Follow the events."""
        connection = self.connection()
        try:
            given = {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request("GET", path, headers={**self._headers, **given})
            got = connection.getresponse()
            assert got.status == 200, got.read()
            yield EventStream(got)
        finally:
            connection.close()


@dataclass
class SentEvent:
    """One event that was sent."""

    id: str
    event: str
    data: Any


class EventStream:
    """Server-sent events as they come."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response

    def __iter__(self) -> Iterator[SentEvent]:
        fields: dict[str, str] = {}
        while line := self.response.readline():
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
            elif "event" in fields:
                data = json.loads(fields["data"])
                yield SentEvent(fields.get("id", ""), fields["event"], data)
                fields = {}
            else:
                fields = {}

    def next(self, event: str | None = None) -> SentEvent:
        """The next event, or the next of this name."""
        for each in self:
            if event is None or each.event == event:
                return each
        raise AssertionError("the stream has ended")


class ApiRig:
    """A gateway with its API; nobody serves its tunnels."""

    def __init__(
        self,
        folder: Path,
        *tunnels: WantedTunnel,
        store: Any = None,
        capacity: int = 1_000,
        has_feed: bool = True,
        places: ApiPlaces | None = None,
        **options: Any,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self.files = Files(folder / "state", *tunnels)
        self._store = store
        self._capacity = capacity
        self._has_feed = has_feed
        self._places = places
        self.token: str | None = None
        """Of the files, as they were last read."""
        self.options = ApiOptions(**{"place": UnixPlace(folder / "run" / "admin.sock"), **options})

    def __enter__(self) -> Self:
        self.feed = self._stack.enter_context(EventFeed(self._capacity))
        self.gateway = self._stack.enter_context(Gateway(self.files))
        if self._store is not None:
            # What stands for a store is no more than the API asks of one, so the gateway neither
            # opens nor closes it.
            self.gateway.store = self._store
            self._stack.callback(setattr, self.gateway, "store", None)
        server = ApiServer(
            self.gateway,
            self.options,
            feed=self.feed if self._has_feed else None,
            places=self._places,
            current_token=lambda: self.token,
        )
        self.server = self._stack.enter_context(server)
        self.client = ApiClient(self.server)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()
