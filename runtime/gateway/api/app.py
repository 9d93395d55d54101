"""The admin API as an application of aiohttp, to be served or mounted elsewhere.

    app.add_subapp("/tunnels", make_api(gateway))

Owns what is the same for all requests (problems, headers of answers, the parts and their end), and
the routes of the gateway itself: how it is, a reload, its actors. Who may ask is up to whoever
serves it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

import tunnelfleet
from tunnelfleet.proto import counted
from tunnelfleet.runtime.admin.http_thread import HEADERS
from tunnelfleet.runtime.admin.server import TunnelView
from tunnelfleet.runtime.gateway.config import ConfigProblems
from tunnelfleet.runtime.gateway.gateway import Gateway
from tunnelfleet.runtime.gateway.messages import FILES, CompareWanted, ReloadResult
from tunnelfleet.runtime.gateway.process import ActorNode, actor_tree
from tunnelfleet.runtime.gateway.reconcile import Difference
from tunnelfleet.runtime.metrics.families import Breather

from . import records, tunnels
from .context import PARTS, ApiParts, ApiPlaces, parts
from .feed import EventFeed
from .openapi import make_document
from .operations import (
    ApiProblem,
    Handler,
    Operations,
    Parameter,
    ProblemKind,
    Success,
    answer_problems,
    problem_objects,
    route_table,
)
from .requests import MAX_BODY_BYTES, flag, query

operations = Operations()


@operations.add(
    "GET",
    "/v1/gateway",
    "The gateway: what it is called, how it is, what it has",
    answers=[Success(200, "how it is now", "Gateway")],
)
async def read_gateway(request: web.Request) -> web.StreamResponse:
    """Answer how the gateway is."""
    query(request, ())
    api = parts(request)
    return web.json_response(await api.questions.run(_describe, api))


def _describe(api: ApiParts) -> dict[str, Any]:
    gateway = api.gateway
    state = gateway.state
    settings = state.config.gateway
    runtime = gateway.runtime
    states: Counter[str] = Counter()
    breather = Breather()
    for entry in gateway.snapshot().entries:
        states[entry.row(runtime).state] += 1
        breather.breathe()
    views = (
        TunnelView(t.name, t.stats.state, t.reason, t.stats.since)
        for t in gateway.runtime.tunnels()
    )
    report = api.readiness.judge(views)
    reasons = []
    if not gateway.runtime.dispatchers:
        reasons.append("the runtime is not running")
    elif not report.ready:
        reasons.append(
            f"not connected: {report.missing_count} of {counted(report.tunnels, 'tunnel')}"
        )
    placement = gateway.placement.status()
    if placement is not None and not placement["joined"]:
        reasons.append(placement["trouble"])
    if state.is_leaving:
        reasons.append("the gateway is stopping")
    wishes = state.wishes()
    return {
        "name": settings.name,
        "version": tunnelfleet.__version__,
        "pid": os.getpid(),
        "started": round(gateway.started_at, 3),
        "ready": not reasons,
        "reasons": reasons,
        "tunnels": dict(sorted(states.items())),
        "wanted": sum(map(state.is_ours, wishes)),
        "running": len(state.running),
        "placement": _placement(gateway),
        "config": {
            "files": sorted(map(str, state.config.files)),
            "last_reload_successful": state.reload_ok,
            "last_reload": round(state.reloaded_at, 3),
            "problems": problem_objects(state.problems),
        },
        "door": api.places.door,
        "connect": api.places.connect,
        "metrics": api.places.metrics,
    }


def _placement(gateway: Gateway) -> dict[str, Any]:
    state = gateway.state
    settings = state.config.gateway
    found: dict[str, Any] = {
        "kind": settings.placement,
        "members": settings.placement_members,
        "ordinal": settings.placement_ordinal,
        "shards": len(state.shards),
        "epoch": state.epoch,
        "trouble": "",
    }
    if (status := gateway.placement.status()) is not None:
        found |= {key: status[key] for key in ("members", "trouble")}
    return found


@operations.add(
    "POST",
    "/v1/reload",
    "Read the files again; a mistake in them changes nothing",
    parameters=[Parameter("dry_run", "only say what would change", {"type": "boolean"})],
    answers=[Success(200, "what has changed, or would", "ReloadResult")],
    problems=[422],
)
async def reload_files(request: web.Request) -> web.StreamResponse:
    """Read the files again, or only say what that would change."""
    given = query(request, ("dry_run",))
    is_dry = flag(given, "dry_run")
    api = parts(request)
    try:
        result = await api.reloads.run(_compare if is_dry else _reload, api)
    except ConfigProblems as error:
        raise _wrong_files(error.problems) from None
    if result.difference is None:
        raise _wrong_files(result.problems)
    body = {
        **result.difference.to_json(),
        "changes": _changes(result.difference),
        "needs_restart": list(result.needs_restart),
        "problems": problem_objects(result.problems),
    }
    return web.json_response(body)


def _reload(api: ApiParts) -> ReloadResult:
    return api.gateway.reload()


def _compare(api: ApiParts) -> ReloadResult:
    config = api.gateway.read_files()
    settings = api.gateway.state.config.gateway
    difference: Difference = api.gateway.ask(CompareWanted(FILES, config.tunnels))
    needs_restart = settings.needing_restart(config.gateway)
    return ReloadResult(difference, config.warnings, tuple(needs_restart))


def _changes(difference: Difference) -> dict[str, dict[str, Any]]:
    return {
        name: {"keys": list(each.keys), "action": each.change.value}
        for name, each in difference.changes.items()
    }


def _wrong_files(problems: Any) -> ApiProblem:
    return ApiProblem(
        ProblemKind.WRONG_FILES,
        "nothing was changed; `tunnelfleet check` shows the same",
        problems=problem_objects(problems),
    )


@operations.add(
    "GET",
    "/v1/actors",
    "The tree of actors: what runs, how often it was started again, why it last ended",
    answers=[Success(200, "each actor after its supervisor", "ActorTree")],
)
async def list_actors(request: web.Request) -> web.StreamResponse:
    """Answer with the tree of actors."""
    query(request, ())
    api = parts(request)
    nodes = await api.questions.run(_tree, api)
    return web.json_response({"tree": [dataclasses.asdict(node) for node in nodes]})


def _tree(api: ApiParts) -> list[ActorNode]:
    nodes = actor_tree(api.gateway.supervisor)
    workers = api.gateway.workers
    return nodes if workers is None else nodes + workers.trees()


Middleware = Callable[[web.Request, Handler], object]


@operations.add(
    "GET",
    "/v1/openapi.json",
    "This API, as an OpenAPI document",
    answers=[Success(200, "the document", "Document")],
)
async def read_document(request: web.Request) -> web.StreamResponse:
    """Answer with the OpenAPI document."""
    query(request, ())
    root = request.path.removesuffix("/v1/openapi.json") or "/"
    return web.json_response(make_document(OPERATIONS, root))


OPERATIONS = tuple(
    operation
    for each in (tunnels.operations, operations, records.operations)
    for operation in each.all
)
"""Every operation of the API."""


def routes() -> web.RouteTableDef:
    """Return the routes alone. They need the parts that `make_api` puts into an application."""
    return route_table(OPERATIONS)


def make_api(
    gateway: Gateway,
    *,
    feed: EventFeed | None = None,
    places: ApiPlaces | None = None,
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """Make the application.

    Args:
        gateway: that it administers; must run while the application does.
        feed: keeps the events; without it nobody can follow them.
        places: where the gateway's other doors are.
        middlewares: that stand between the problems and the routes, such as one that looks who
            asks; they may raise `ApiProblem`.
    """
    parts = ApiParts.of(gateway, places or ApiPlaces(), feed)
    app = web.Application(
        middlewares=[answer_problems, *middlewares],  # type: ignore[list-item]
        client_max_size=MAX_BODY_BYTES,
    )
    app[PARTS] = parts
    app.add_routes(routes())
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(_let_readers_go)
    app.on_cleanup.append(_stop)
    return app


async def _let_readers_go(app: web.Application) -> None:
    app[PARTS].readers.close()


async def _stop(app: web.Application) -> None:
    app[PARTS].stop()


async def _add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers[name] = value
