"""Routes of who is connected, and who was: open connections, and the audit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.store import AuditQuery

from .context import parts
from .operations import Operations, Parameter, Success
from .problem import ApiProblem, ProblemKind
from .requests import moment, query, single, whole_number

if TYPE_CHECKING:
    from .context import ApiParts

__all__ = ["operations"]

operations = Operations()

TEXT = {"type": "string"}
MOMENT = {"type": "string", "minLength": 1}
MAX_RECORDS = 1_000
DEFAULT_RECORDS = 100
LARGEST_ID = 2**63 - 1
KINDS = ("connection", "stream", "denied", "demand")


@operations.add(
    "GET",
    "/v1/connections",
    "The connections that are open, with what they have carried so far",
    parameters=[Parameter("tunnel", "of this tunnel alone", TEXT)],
    answers=[Success(200, "those that are open now", "ConnectionList")],
)
async def list_connections(request: web.Request) -> web.StreamResponse:
    """List them."""
    tunnel = single(query(request, ("tunnel",)), "tunnel")
    api = parts(request)
    text = await api.questions.run(_connections, api, tunnel)
    return web.Response(text=text, content_type="application/json")


def _connections(api: ApiParts, tunnel: str | None) -> str:
    return json.dumps({"connections": api.gateway.connections(tunnel)})


_FILTERS = (
    Parameter("tunnel", "of this tunnel; `*` stands for anything", TEXT),
    Parameter("user", "of this user; `*` stands for anything", TEXT),
    Parameter("gateway", "of this gateway", TEXT),
    Parameter("kind", "of this kind", {"enum": list(KINDS)}),
    Parameter("since", "opened then or later: seconds of the Unix epoch, or ISO 8601", MOMENT),
    Parameter("until", "opened before: the same", MOMENT),
    Parameter(
        "before",
        "only records with a smaller id, to go on where an answer ended",
        {"type": "integer", "minimum": 0, "maximum": LARGEST_ID},
    ),
    Parameter(
        "limit",
        f"at most so many, {DEFAULT_RECORDS} without it",
        {"type": "integer", "minimum": 0, "maximum": MAX_RECORDS},
    ),
)


@operations.add(
    "GET",
    "/v1/audit",
    "Who was connected, the newest first",
    parameters=_FILTERS,
    answers=[Success(200, "the records", "AuditList")],
    problems=[404],
)
async def list_audit(request: web.Request) -> web.StreamResponse:
    """List what the store has taken down."""
    given = query(request, [each.name for each in _FILTERS])
    kind = single(given, "kind")
    if kind is not None and kind not in KINDS:
        raise ApiProblem(ProblemKind.BAD_REQUEST, f"kind is one of {', '.join(KINDS)}")
    limit = whole_number(given, "limit", MAX_RECORDS)
    asked = AuditQuery(
        tunnel=single(given, "tunnel"),
        user=single(given, "user"),
        gateway=single(given, "gateway"),
        kind=kind,
        since=moment(given, "since"),
        until=moment(given, "until"),
        before=whole_number(given, "before", LARGEST_ID),
        limit=DEFAULT_RECORDS if limit is None else limit,
    )
    text = await parts(request).questions.run(_audit, parts(request), asked)
    return web.Response(text=text, content_type="application/json")


def _audit(api: ApiParts, asked: AuditQuery) -> str:
    store = api.gateway.store
    if store is None:
        raise ApiProblem(ProblemKind.NOT_KEPT, "this gateway has no state, and so no audit")
    try:
        records = store.audit(asked) if asked.limit else []
    except TunnelError as error:
        raise ApiProblem(ProblemKind.STORE_FAILED, str(error)) from None
    return json.dumps({"records": records})
