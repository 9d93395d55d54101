"""Routes of what happens and has happened: the events, the open connections, the audit."""

from __future__ import annotations

import json

from aiohttp import web

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.admin.options import is_still_let_in
from tunnelfleet.runtime.gateway.store import AuditQuery

from .context import ApiParts, parts
from .feed import EventFeed, write
from .operations import ApiProblem, Operations, Parameter, ProblemKind, Success
from .requests import moment, query, single, whole_number

operations = Operations()

MEDIA_TYPE = "text/event-stream"
RETRY_MILLISECONDS = 2_000
"""How long a browser waits before it connects again."""
MAX_RECENT = 1_000


@operations.add(
    "GET",
    "/v1/events",
    "What happens, from now on or from an event on, as server-sent events",
    parameters=[
        Parameter(
            "recent",
            "how many of the last events come first",
            {"type": "integer", "minimum": 0, "maximum": MAX_RECENT},
        ),
        Parameter(
            "Last-Event-ID",
            "the id of the last event that was seen; it goes before `recent`",
            {"type": "string"},
            is_header=True,
        ),
    ],
    answers=[Success(200, "a stream without an end", media_type=MEDIA_TYPE)],
    problems=[404],
)
async def follow_events(request: web.Request) -> web.StreamResponse:
    """Send the events as they happen."""
    api = parts(request)
    feed = api.feed
    if feed is None:
        raise ApiProblem(ProblemKind.NOT_KEPT, "nobody keeps events here; give make_api a feed")
    number = _start(request, feed)
    response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE, "X-Accel-Buffering": "no"})
    if request.method == "HEAD":
        return response
    with api.readers.open(feed, number) as reader:
        await response.prepare(request)
        try:
            await write(response, f"retry: {RETRY_MILLISECONDS}\n\n")
            await reader.run(response, is_still_let_in)
        except (TimeoutError, ConnectionError):
            # It does not read, or has gone: what waits for it is given up.
            if request.transport is not None:
                request.transport.abort()
    return response


def _start(request: web.Request, feed: EventFeed) -> int:
    """Return the number of the event after which a reader begins."""
    recent = whole_number(query(request, ("recent",)), "recent", MAX_RECENT) or 0
    last = feed.last
    seen = request.headers.get("Last-Event-ID")
    if seen is None:
        return max(0, last - recent)
    life, _, number = seen.partition("-")
    if life != feed.life or not (number.isascii() and number.isdecimal() and len(number) < 20):
        # Of an earlier process: all that has happened since is new.
        return 0
    return min(int(number), last)


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
    """Answer with the open connections."""
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
    """Answer with records of the audit."""
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
