"""Routes of tunnels: list, create, read, replace, delete, drain, retry, another token.

Owns also what the log says of who has changed what.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from aiohttp import web

from tunnelfleet.runtime import Mode, TunnelState
from tunnelfleet.runtime.gateway.forward.survey import UNKNOWN, look_at_fleet, look_elsewhere
from tunnelfleet.runtime.gateway.listing import MAX_PAGE_ROWS, SOURCES, Page
from tunnelfleet.runtime.gateway.messages import DrainTunnels, RetryTunnels, UnknownTunnel
from tunnelfleet.runtime.gateway.snapshot import Choice, TunnelRow
from tunnelfleet.runtime.metrics.families import Breather

from .context import ApiParts, parts
from .operations import ApiProblem, Operations, Parameter, ProblemKind, Success
from .requests import MAX_VALUES, Condition, peer_of, query, read_object, single, whole_number

logger = logging.getLogger(__name__)


def log_change(name: str, what: str, who: str) -> None:
    """Somebody has changed a tunnel.

    Args:
        name: of the tunnel.
        what: was done to it, a verb of the past.
        who: did it.
    """
    fields = {"action": what, "by": who}
    extra = {"tunnel": name, "event": "changed_by_api", "fields": fields}
    logger.info("%s through the admin API by %s", what, who, extra=extra)


LOGGED_NAMES = 100
"""How many names a line of the log has when several tunnels were changed at once."""


def log_changes(names: Sequence[str], what: str, who: str) -> None:
    """Somebody has changed several tunnels at once: one line, however many.

    Args:
        names: of the tunnels.
        what: was done to them, a verb of the past.
        who: did it.
    """
    if len(names) == 1:
        log_change(names[0], what, who)
        return
    fields = {
        "action": what,
        "by": who,
        "count": len(names),
        "tunnels": list(names[:LOGGED_NAMES]),
    }
    extra = {"event": "changed_by_api", "fields": fields}
    logger.info("%d tunnels %s through the admin API by %s", len(names), what, who, extra=extra)


operations = Operations()

STATES = [each.value for each in TunnelState]
MODES = [each.value for each in Mode]
TEXT = {"type": "string"}


def _several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": MAX_VALUES}


LABEL = {"type": "string", "pattern": "="}
MAX_NAMES = 20_000

_ETAG = {"ETag": "of the tunnel's entry, for If-Match; its state does not change it"}
_IF_MATCH = Parameter("If-Match", "the ETag that the tunnel must have, or `*`", TEXT, True)
_FILTERS = (
    Parameter("name", "names; `*` stands for anything; one of several", _several(TEXT)),
    Parameter("state", "states; one of several", _several({"enum": STATES})),
    Parameter("mode", "modes; one of several", _several({"enum": MODES})),
    Parameter("label", "labels, NAME=VALUE; all of several", _several(LABEL)),
    Parameter("source", "who wants it; one of several", _several({"enum": list(SOURCES)})),
)

_FLEET_FILTERS = tuple(
    Parameter("state", each.text, _several({"enum": [*STATES, UNKNOWN]}))
    if each.name == "state"
    else each
    for each in _FILTERS
)
_PAGE = (
    Parameter(
        "limit",
        f"at most so many tunnels; {MAX_PAGE_ROWS} without it",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_ROWS},
    ),
    Parameter("after", "`next` of the answer before, for the page behind it", TEXT),
)


@operations.add(
    "GET",
    "/v1/tunnels",
    "The tunnels of the fleet, sorted by name",
    parameters=_FILTERS,
    answers=[Success(200, "those that match", "TunnelList")],
)
async def list_tunnels(request: web.Request) -> web.StreamResponse:
    """Answer with the tunnels that the query asks for."""
    given = _checked(request, STATES)
    text = await parts(request).questions.run(_list, parts(request), given)
    return web.Response(text=text, content_type="application/json")


def _list(api: ApiParts, given: dict[str, list[str]]) -> str:
    choice = Choice(given)
    runtime = api.gateway.runtime
    rows = []
    breather = Breather()
    for entry in api.gateway.snapshot().entries:
        tunnel = entry.tunnel
        if choice.has(tunnel.name, tunnel.mode.value, entry.source, tunnel.labels):
            row = entry.row(runtime)
            if choice.has_state(row.state):
                rows.append(json.dumps(row.to_json()))
        breather.breathe()
    return f'{{"tunnels": [{", ".join(rows)}]}}'


def _checked(
    request: web.Request, states: Sequence[str], more: Sequence[Parameter] = ()
) -> dict[str, list[str]]:
    given = query(request, [each.name for each in (*_FILTERS, *more)])
    for name, known in (("state", states), ("mode", MODES), ("source", SOURCES)):
        if not set(given.get(name, [])) <= set(known):
            raise ApiProblem(ProblemKind.BAD_REQUEST, f"{name} is one of {', '.join(known)}")
    if not all("=" in each for each in given.get("label", [])):
        raise ApiProblem(ProblemKind.BAD_REQUEST, "write label=NAME=VALUE")
    return given


@operations.add(
    "GET",
    "/v1/fleet",
    "All gateways of a shared fleet, and a page of their tunnels, sorted by name; a gateway that "
    "does not answer is shown as such",
    parameters=(*_FLEET_FILTERS, *_PAGE),
    answers=[Success(200, "the gateways, and the tunnels that match", "Fleet")],
)
async def read_fleet(request: web.Request) -> web.StreamResponse:
    """Answer with the whole fleet."""
    given = _checked(request, [*STATES, UNKNOWN], _PAGE)
    limit = whole_number(given, "limit", MAX_PAGE_ROWS)
    if limit == 0:
        raise ApiProblem(ProblemKind.BAD_REQUEST, f"limit is a whole number, 1 to {MAX_PAGE_ROWS}")
    page = Page(limit or MAX_PAGE_ROWS, single(given, "after") or "")
    api = parts(request)
    text = await api.surveys.run(_survey, api, given, page)
    return web.Response(text=text, content_type="application/json")


def _survey(api: ApiParts, given: dict[str, list[str]], page: Page) -> str:
    survey = look_at_fleet(api.gateway, api.gateway.others, given, page)
    return json.dumps(survey.to_json())


@operations.add(
    "POST",
    "/v1/tunnels",
    "Add a tunnel; its keys are those of [[tunnel]] in a file",
    body="Tunnel",
    answers=[
        Success(
            201, "it is added, and connects", "TunnelRow", headers={"Location": "its URL", **_ETAG}
        )
    ],
    problems=[409, 415, 422],
)
async def add_tunnel(request: web.Request) -> web.StreamResponse:
    """Add a tunnel."""
    entry = await read_object(request)
    api = parts(request)
    name = await api.changes.run(api.wishes.create, entry)
    log_change(name, "added", peer_of(request))
    return await _answer_row(request, name, status=201, headers={"Location": _url(request, name)})


@operations.add(
    "GET",
    "/v1/tunnels/{name}",
    "One tunnel; one of another gateway of the fleet has the name of that in `gateway`",
    answers=[Success(200, "how it is now", "TunnelRow", headers=_ETAG)],
)
async def read_tunnel(request: web.Request) -> web.StreamResponse:
    """Answer how a tunnel is now."""
    query(request, ())
    api, name = parts(request), request.match_info["name"]
    found = await api.surveys.run(look_elsewhere, api.gateway, api.gateway.others, name)
    return await _answer_row(request, name) if found is None else web.json_response(found)


@operations.add(
    "PUT",
    "/v1/tunnels/{name}",
    "Add a tunnel, or replace one that was added here; without a token it keeps the one it has",
    body="TunnelEntry",
    parameters=[_IF_MATCH, Parameter("If-None-Match", "`*`: only add", {"const": "*"}, True)],
    answers=[
        Success(200, "it is replaced", "TunnelRow", headers=_ETAG),
        Success(201, "it is added", "TunnelRow", headers={"Location": "its URL", **_ETAG}),
    ],
    problems=[409, 412, 415, 422],
)
async def put_tunnel(request: web.Request) -> web.StreamResponse:
    """Add a tunnel, or replace one that was added here."""
    condition = Condition.of(request)
    entry = await read_object(request)
    api, name = parts(request), request.match_info["name"]
    is_new = await api.changes.run(api.wishes.put, name, entry, condition)
    log_change(name, "added" if is_new else "replaced", peer_of(request))
    headers = {"Location": _url(request, name)} if is_new else None
    return await _answer_row(request, name, status=201 if is_new else 200, headers=headers)


@operations.add(
    "DELETE",
    "/v1/tunnels/{name}",
    "Delete a tunnel that was added here; it ends with its last connection",
    parameters=[_IF_MATCH],
    answers=[Success(204, "it is deleted")],
    problems=[409, 412],
)
async def delete_tunnel(request: web.Request) -> web.StreamResponse:
    """Delete a tunnel that was added here."""
    condition = Condition.of(request)
    api, name = parts(request), request.match_info["name"]
    await api.changes.run(api.wishes.delete, name, condition)
    log_change(name, "deleted", peer_of(request))
    return web.Response(status=204)


@operations.add(
    "POST",
    "/v1/tunnels/{name}/drain",
    "Let no new connections in; it stays down until it is retried",
    answers=[Success(202, "it drains", "TunnelRow", headers=_ETAG)],
)
async def drain_tunnel(request: web.Request) -> web.StreamResponse:
    """Let a tunnel take no new connections."""
    name = request.match_info["name"]
    await _command(request, DrainTunnels((name,)), "drained")
    return await _answer_row(request, name, status=202)


@operations.add(
    "POST",
    "/v1/tunnels/{name}/retry",
    "Start or connect it now, if it is down for whatever reason",
    answers=[Success(202, "it is tried, or was up", "TunnelRow", headers=_ETAG)],
)
async def retry_tunnel(request: web.Request) -> web.StreamResponse:
    """Let a tunnel that is down try to connect now."""
    name = request.match_info["name"]
    await _command(request, RetryTunnels((name,)), "retried")
    return await _answer_row(request, name, status=202)


@operations.add(
    "POST",
    "/v1/tunnels/{name}/token",
    "Give it another access token, after a rotation; it connects at once",
    body="Tokens",
    answers=[Success(200, "it has the token", "TunnelRow", headers=_ETAG)],
    problems=[415, 422],
)
async def replace_token(request: web.Request) -> web.StreamResponse:
    """Give a tunnel another access token."""
    given = await read_object(request, ("access_token", "client_token"))
    access, client = given.get("access_token"), given.get("client_token")
    if not isinstance(access, str) or not isinstance(client, str | None):
        raise ApiProblem(
            ProblemKind.WRONG_ENTRY, "access_token must be a text, client_token one or null"
        )
    api, name = parts(request), request.match_info["name"]
    await api.changes.run(api.wishes.replace_token, name, access, client)
    log_change(name, "given another token", peer_of(request))
    return await _answer_row(request, name)


@operations.add(
    "POST",
    "/v1/drain",
    "Drain several tunnels, or all",
    body="Names",
    answers=[Success(202, "they drain", "NameList")],
    problems=[404, 415, 422],
)
async def drain_tunnels(request: web.Request) -> web.StreamResponse:
    """Let several tunnels, or all, take no new connections."""
    names = await _names(request)
    drained = await _command(request, DrainTunnels(names), "drained")
    return web.json_response({"tunnels": drained}, status=202)


@operations.add(
    "POST",
    "/v1/retry",
    "Retry several tunnels, or all",
    body="Names",
    answers=[Success(202, "those that were down are tried", "NameList")],
    problems=[404, 415, 422],
)
async def retry_tunnels(request: web.Request) -> web.StreamResponse:
    """Let several tunnels, or all that are down, try to connect now."""
    names = await _names(request)
    retried = await _command(request, RetryTunnels(names), "retried")
    return web.json_response({"tunnels": retried}, status=202)


async def _names(request: web.Request) -> tuple[str, ...] | None:
    match await read_object(request, ("all", "names")):
        case {"all": True, **rest} if not rest:
            return None
        case {"names": [_, *_] as names, **rest} if not rest:
            if len(names) <= MAX_NAMES and all(isinstance(each, str) for each in names):
                return tuple(dict.fromkeys(names))
    raise ApiProblem(ProblemKind.WRONG_ENTRY, 'write {"all": true} or {"names": ["...", ...]}')


async def _command(
    request: web.Request, message: DrainTunnels | RetryTunnels, what: str
) -> list[str]:
    api = parts(request)
    names: list[str] = await api.changes.run(api.gateway.ask, message)
    if names:
        log_changes(names, what, peer_of(request))
    return names


async def _answer_row(
    request: web.Request, name: str, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    api = parts(request)
    row, tag = await api.questions.run(_row, api, name)
    headers = dict(headers or {})
    if tag is not None:
        headers["ETag"] = f'"{tag}"'
    return web.json_response(row.to_json(), status=status, headers=headers)


def _row(api: ApiParts, name: str) -> tuple[TunnelRow, str | None]:
    rows = api.gateway.snapshot([name]).rows(api.gateway.runtime)
    if not rows:
        raise UnknownTunnel(name)
    return rows[0], api.wishes.tag(name)


def _url(request: web.Request, name: str) -> str:
    """Return the URL of a tunnel, below the path where the routes are mounted."""
    root = request.path.partition("/v1/")[0]
    return f"{root}/v1/tunnels/{quote(name, safe='')}"
