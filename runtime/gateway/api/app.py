"""The routes of the admin API as an application of aiohttp, to be served or mounted elsewhere.

    app.add_subapp("/tunnels", make_api(gateway))

Owns what is the same for all requests: problems, headers of answers, the parts and their end. Who
may ask is up to whoever serves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from tunnelfleet.runtime.admin.http_thread import HEADERS

from . import about, records, stream, tunnels
from .context import PARTS, ApiParts, ApiPlaces
from .openapi import make_document
from .operations import Operations, Success, route_table
from .problem import answer_problems
from .requests import MAX_BODY_BYTES, query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunnelfleet.runtime.gateway.gateway import Gateway

    from .feed import EventFeed
    from .problem import Handler

    Middleware = Callable[[web.Request, Handler], object]

__all__ = ["OPERATIONS", "make_api", "routes"]

_own = Operations()


@_own.add(
    "GET",
    "/v1/openapi.json",
    "This API, as an OpenAPI document",
    answers=[Success(200, "the document", "Document")],
)
async def read_document(request: web.Request) -> web.StreamResponse:
    """Serve it."""
    query(request, ())
    root = request.path.removesuffix("/v1/openapi.json") or "/"
    return web.json_response(make_document(OPERATIONS, root))


OPERATIONS = tuple(
    operation
    for each in (tunnels.operations, about.operations, stream.operations, records.operations, _own)
    for operation in each.all
)
"""All that the API can do."""


def routes() -> web.RouteTableDef:
    """The routes alone. They need the parts that `make_api` puts into an application."""
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
