"""A client of a gateway's admin API: small, typed, synchronous, over a Unix socket or a URL.

Owns the questions, each with its bounds in time and size. It knows neither a command nor how an
answer looks on a screen, and no error, repr or log has a token. A client is for one thread.

    with GatewayClient(GatewayAddress.parse("unix:/run/tunnelfleet/admin.sock")) as client:
        for row in client.tunnels(state="refused"):
            print(row["name"], row["reason"])
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote, urlencode

from tunnelfleet.proto import printable
from tunnelfleet.runtime.gateway.listing import MAX_PAGE_ROWS
from tunnelfleet.runtime.tls import make_ssl_context

from .address import GatewayAddress, GatewayNotReached, GatewayRefused

Row = dict[str, Any]
"""A JSON object, as docs/gateway.md describes it."""

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0
"""How long to wait for the next bytes of an answer."""


class FleetPage(NamedTuple):
    """The gateways of a shared fleet, and tunnels of all of them, sorted by name.

    Attributes:
        gateways: each with what it is and how it was found.
        tunnels: at most as many as were asked for.
        next: the name behind which there are others; None if there are none.
    """

    gateways: list[Row]
    tunnels: list[Row]
    next: str | None = None


class GatewayEvent(NamedTuple):
    """One of the gateway's events: `data` is the object that `up --json` writes."""

    id: str
    name: str
    data: Row


RELOAD_SECONDS: Final = 90.0
"""How long to wait for a reload, which reads all files."""
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""The longest answer; one with ten thousand tunnels has about six million bytes."""
REPLAYED: Final = "replayed"
"""The event that says that what comes now was not there when the stream began."""
MAX_EVENT_BYTES: Final = 1024 * 1024
"""The longest event of the stream, and the longest of its lines."""


class GatewayClient:
    """Asks a gateway. A context manager; it connects with the first question.

    Every method raises `GatewayNotReached`, or `GatewayRefused` with what the gateway says.

    Args:
        address: where the gateway is.
        token: for one that is asked over TCP.
        answer_seconds: how long it may be silent.
    """

    def __init__(
        self,
        address: GatewayAddress,
        token: str | None = None,
        *,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.address = address
        self._token = token
        self._answer_seconds = answer_seconds
        self._connection: http.client.HTTPConnection | None = None

    def __repr__(self) -> str:
        return f"GatewayClient({self.address})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connection. It may be used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- looking

    def tunnels(self, **filters: str | Sequence[str] | None) -> list[Row]:
        """The tunnels, by name; `state`, `mode`, `name`, `source` and `label` choose some."""
        return _rows(self._ask("GET", "/v1/tunnels", query=_filters(filters)), "tunnels")

    def fleet(
        self,
        *,
        limit: int = MAX_PAGE_ROWS,
        after: str = "",
        **filters: str | Sequence[str] | None,
    ) -> FleetPage:
        """The gateways of the fleet, and the tunnels of all of them; filters as in `tunnels`.

        Args:
            limit: at most so many tunnels; more than a page are asked for page by page.
            after: only tunnels behind this name.
            filters: choose some.
        """
        gateways: list[Row] = []
        tunnels: list[Row] = []
        while True:
            query = _filters(filters)
            # An older gateway knows neither, and answers with all.
            if (left := limit - len(tunnels)) < MAX_PAGE_ROWS:
                query.append(("limit", str(left)))
            if after:
                query.append(("after", after))
            found = self._ask("GET", "/v1/fleet", query=query)
            gateways = gateways or _rows(found, "gateways")
            tunnels += _rows(found, "tunnels")
            behind = found.get("next")
            if not isinstance(behind, str) or len(tunnels) >= limit:
                return FleetPage(gateways, tunnels, behind if isinstance(behind, str) else None)
            if behind <= after:
                raise GatewayNotReached(self.address, ValueError("its pages do not go on"))
            after = behind

    def tunnel(self, name: str) -> Row:
        """One tunnel."""
        return self._ask("GET", _tunnel(name))

    def gateway(self) -> Row:
        """Return the gateway itself: what it is, whether it is ready, what it has read."""
        return self._ask("GET", "/v1/gateway")

    def connections(self, tunnel: str | None = None) -> list[Row]:
        """Return the connections that are open now."""
        query = [("tunnel", tunnel)] if tunnel else []
        return _rows(self._ask("GET", "/v1/connections", query=query), "connections")

    def audit(self, **query: str | None) -> list[Row]:
        """What the gateway has recorded: `tunnel`, `user`, `kind`, `since`, `until`, `limit`."""
        given = [(key, value) for key, value in query.items() if value is not None]
        return _rows(self._ask("GET", "/v1/audit", query=given), "records")

    def actors(self) -> list[Any]:
        """Return the tree of the gateway's actors."""
        found = self._ask("GET", "/v1/actors").get("tree")
        return found if isinstance(found, list) else []

    def metrics(self) -> str:
        """Return the gateway's metrics, in Prometheus's text format."""
        return self._ask_bytes("GET", "/metrics", accept="text/plain").decode("utf-8", "replace")

    def events(
        self, *, recent: int = 0, after: str | None = None, only_past: bool = False
    ) -> Iterator[GatewayEvent]:
        """Yield what happens from now on, until the gateway ends the stream.

        Args:
            recent: so many that happened before come first.
            after: the id of the last one that was seen; what happened after it comes first.
            only_past: end after what happened before.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        query = [("recent", str(recent))] if recent and not after else []
        connection = self._connect()
        try:
            with self._told():
                connection.connect()
                sock = connection.sock
                answer = self._send(
                    connection, "GET", _with_query("/v1/events", query), None, headers
                )
                if answer.status != http.HTTPStatus.OK:
                    raise _refusal(answer.status, answer.read(MAX_EVENT_BYTES))
            # Between two events there may be hours. The answer has taken the socket by now.
            sock.settimeout(self._answer_seconds if only_past else None)
            for event in self._read_events(answer):
                if event.name != REPLAYED:
                    yield event
                elif only_past:
                    return
        finally:
            connection.close()

    def _read_events(self, answer: http.client.HTTPResponse) -> Iterator[GatewayEvent]:
        fields: dict[str, list[str]] = {}
        size = 0
        while True:
            with self._told():
                line = answer.readline(MAX_EVENT_BYTES)
            if not line:
                return
            size += len(line)
            if size > MAX_EVENT_BYTES:
                raise GatewayNotReached(self.address, ValueError("an event is too long"))
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text:
                key, _, value = text.partition(":")
                fields.setdefault(key, []).append(value.removeprefix(" "))
                continue
            if "data" in fields or "event" in fields:
                with self._told():
                    data = _object("\n".join(fields.get("data", ["{}"])))
                name = fields.get("event", ["message"])[-1]
                yield GatewayEvent(fields.get("id", [""])[-1], name, data)
            fields, size = {}, 0

    # -- changing

    def add(self, entry: Mapping[str, Any]) -> Row:
        """Add a tunnel; `entry` has the keys of a `[[tunnel]]`."""
        return self._ask("POST", "/v1/tunnels", entry)

    def replace(self, name: str, entry: Mapping[str, Any]) -> Row:
        """Add a tunnel, or replace the one of this name that came by the API."""
        return self._ask("PUT", _tunnel(name), entry)

    def remove(self, name: str) -> None:
        """Remove a tunnel that came by the API; it drains."""
        self._ask("DELETE", _tunnel(name))

    def drain(self, names: Sequence[str] | None) -> list[str]:
        """Let tunnels (None: all) take no new connections; returns their names."""
        return self._names("/v1/drain", names)

    def retry(self, names: Sequence[str] | None) -> list[str]:
        """Have tunnels that are down (None: all) try to connect now; returns their names."""
        return self._names("/v1/retry", names)

    def _names(self, path: str, names: Sequence[str] | None) -> list[str]:
        body = {"all": True} if names is None else {"names": list(names)}
        found = self._ask("POST", path, body).get("tunnels")
        return [str(each) for each in found] if isinstance(found, list) else []

    def replace_token(self, name: str, access_token: str, client_token: str | None = None) -> Row:
        """Give a tunnel another access token."""
        body = {"access_token": access_token}
        if client_token is not None:
            body["client_token"] = client_token
        return self._ask("POST", f"{_tunnel(name)}/token", body)

    def reload(self, *, dry_run: bool = False) -> Row:
        """Have the files read again, or only say what that would change."""
        query = [("dry_run", "true")] if dry_run else []
        return self._ask("POST", "/v1/reload", query=query, answer_seconds=RELOAD_SECONDS)

    # -- one request

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        answer_seconds: float = 0.0,
    ) -> Row:
        content = self._ask_bytes(
            method, _with_query(path, query), body, answer_seconds=answer_seconds
        )
        if not content:
            return {}
        with self._told():
            return _object(content.decode("utf-8", "replace"))

    def _ask_bytes(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        *,
        accept: str = "application/json",
        answer_seconds: float = 0.0,
    ) -> bytes:
        connection, self._connection = self._connection or self._connect(), None
        is_kept = False
        try:
            with self._told():
                headers = {"Accept": accept}
                answer = self._send(connection, method, target, body, headers, answer_seconds)
                content = answer.read(MAX_ANSWER_BYTES + 1)
                if len(content) > MAX_ANSWER_BYTES:
                    raise http.client.HTTPException(f"more than {MAX_ANSWER_BYTES} bytes came")
                # `read` with a limit takes an early end for the end.
                if len(content) < int(answer.getheader("Content-Length") or 0):
                    raise http.client.HTTPException("its answer has ended in the middle")
            is_kept = not answer.will_close
        finally:
            if is_kept:
                self._connection = connection
            else:
                connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise _refusal(answer.status, content)
        return content

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        answer_seconds: float = 0.0,
    ) -> http.client.HTTPResponse:
        sent = dict(headers)
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        elif method == "POST":
            content = b""
        if connection.sock is not None and _is_closed(connection.sock):
            # The gateway was started anew, or hung up on a connection that was idle.
            connection.close()
        seconds = max(answer_seconds, self._answer_seconds)
        is_repeatable = connection.sock is not None and method == "GET"
        try:
            return _answer_to(connection, seconds, method, target, content, sent)
        except ConnectionError:
            if not is_repeatable:
                raise
        # The gateway hung up on the idle connection in the moment in which it was used.
        connection.close()
        return _answer_to(connection, seconds, method, target, content, sent)

    def _connect(self) -> http.client.HTTPConnection:
        at = self.address
        if at.path:
            return _UnixConnection(at.path)
        if at.scheme == "https":
            return http.client.HTTPSConnection(
                at.host, at.port, timeout=CONNECT_SECONDS, context=make_ssl_context()
            )
        return http.client.HTTPConnection(at.host, at.port, timeout=CONNECT_SECONDS)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GatewayNotReached(self.address, error) from None


def _answer_to(
    connection: http.client.HTTPConnection,
    seconds: float,
    method: str,
    target: str,
    content: bytes | None,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    if connection.sock is None:
        connection.connect()
    connection.sock.settimeout(seconds)
    connection.request(method, target, content, headers)
    return connection.getresponse()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.settimeout(CONNECT_SECONDS)
            made.connect(self._path)
        except BaseException:
            made.close()
            raise
        self.sock = made


def _is_closed(sock: socket.socket) -> bool:
    """Return whether the other side has closed a connection on which nothing is expected."""
    sock.settimeout(0.0)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except (OSError, ValueError):
        # TLS cannot peek; whether it is closed is found out by the request.
        return not isinstance(sock, ssl.SSLSocket)
    return True


def _tunnel(name: str) -> str:
    return f"/v1/tunnels/{quote(name, safe='')}"


def _with_query(path: str, query: Sequence[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _refusal(status: int, content: bytes) -> GatewayRefused:
    try:
        members = _object(content.decode("utf-8", "replace"))
    except ValueError:
        # No gateway writes this: another program has the address.
        said = printable(content[:200].decode("utf-8", "replace"))
        members = {"detail": f"what answers there is no gateway: {said}"}
    return GatewayRefused(status, members)


def _object(text: str) -> Row:
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("its answer is no JSON that a gateway writes") from None
    if not isinstance(found, dict):
        raise ValueError("its answer is no JSON object")  # noqa: TRY004
    return found


def _filters(filters: Mapping[str, str | Sequence[str] | None]) -> list[tuple[str, str]]:
    return [
        (key, each)
        for key, value in filters.items()
        for each in ([value] if isinstance(value, str) else value or ())
    ]


def _rows(answer: Row, key: str) -> list[Row]:
    found = answer.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
