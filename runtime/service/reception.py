"""Where requests are judged: planned faults first, then the rules, then the tokens.

Owns the decision on each upgrade request and the answer, and how many connections may be without
one. Must not know sockets (clients do) nor what happens on a tunnel afterwards.

Whoever has not shown a token yet may be anybody, so the number of these connections is bounded by
itself. When all places are taken, the one that has been there longest goes, if it had time enough;
else newcomers wait in the kernel: a fleet that comes back all at once is not an attack.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tunnelfleet.proto import (
    INVALID_REQUEST_TEXT,
    MAX_REQUEST_BYTES,
    RequestRefused,
    check_request,
)

from .chaos import GARBAGE, FaultPlan
from .events import ServiceEvent, ServiceEventKind
from .http import BadRequest, parse_request, refusal_response, upgrade_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tunnelfleet.proto import RequestAccepted

    from .chaos import Refusal
    from .client import Client
    from .relay import Tunnel
    from .tunnels import TunnelBook


MAX_STRANGERS: Final = 2_048
"""Connections that have not shown a token: in TLS's handshake, before their request, refused."""

STRANGER_SECONDS: Final = 3.0
"""When all places are taken, one that is older makes place."""


class ReceptionDesk:
    """Decides on requests.

    Args:
        book: who may connect.
        tunnels: where they are connected to.
        emit: takes events.
        gone: told when a client's connection is over.

    Attributes:
        faults: what the next requests have coming.
    """

    def __init__(
        self,
        book: TunnelBook,
        tunnels: Mapping[str, Tunnel],
        emit: Callable[[ServiceEvent], None],
        gone: Callable[[Client], None],
    ) -> None:
        self.faults = FaultPlan()
        self._book = book
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
            tunnel = self._book.tunnel_of(request.access_token) or ""
            refusal = self.faults.take_refusal(tunnel) if tunnel else None
            if refusal is not None:
                self._refuse_as_planned(tunnel, client, refusal)
                return
            tunnel = self._book.admit(request)
        except RequestRefused as refused:
            self._refuse(tunnel, client, refused.status, refused.body)
        except BadRequest as error:
            self._refuse(tunnel, client, error.status, f"{INVALID_REQUEST_TEXT}: {error}")
        else:
            self._strangers.pop(client, None)
            response = upgrade_response(accept, request.subprotocol, client.channel_id)
            client.attach(self._tunnels[tunnel], request.mode, response)

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


def _read(head: bytes) -> tuple[str, RequestAccepted]:
    """Return the WebSocket accept key and the request, if it keeps the rules.

    Raises:
        BadRequest: it is no WebSocket upgrade.
        RequestRefused: it is not one of PROTOCOL.md section 1.
    """
    if len(head) > MAX_REQUEST_BYTES:
        reason = f"{INVALID_REQUEST_TEXT}: it is above {MAX_REQUEST_BYTES} bytes"
        raise RequestRefused(HTTPStatus.BAD_REQUEST, reason)
    request = parse_request(head)
    accepted = check_request(request.path, request.query, request.headers)
    return request.accept(), accepted
