"""The routes of the admin API as an application of aiohttp, to be served or mounted elsewhere.

    app.add_subapp("/tunnels", make_api(gateway))

Owns what is the same for all requests: problems, headers of answers, the parts and their end. Who
may ask is up to whoever serves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from tunnelfleet.runtime.admin.http_thread import HEADERS

from . import about, tunnels
from .context import PARTS, ApiParts, ApiPlaces
from .operations import route_table
from .problem import answer_problems
from .requests import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunnelfleet.runtime.gateway.gateway import Gateway

    from .problem import Handler

    Middleware = Callable[[web.Request, Handler], object]

__all__ = ["OPERATIONS", "make_api", "routes"]

OPERATIONS = (*about.operations.all, *tunnels.operations.all)
"""All that the API can do."""


def routes() -> web.RouteTableDef:
    """The routes alone. They need the parts that `make_api` puts into an application."""
    return route_table(OPERATIONS)


def make_api(
    gateway: Gateway,
    *,
    places: ApiPlaces | None = None,
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """Make the application.

    Args:
        gateway: that it administers; must run while the application does.
        places: where the gateway's other doors are.
        middlewares: that stand between the problems and the routes, such as one that looks who
            asks; they may raise `ApiProblem`.
    """
    parts = ApiParts.of(gateway, places or ApiPlaces())
    app = web.Application(
        middlewares=[answer_problems, *middlewares],  # type: ignore[list-item]
        client_max_size=MAX_BODY_BYTES,
    )
    app[PARTS] = parts
    app.add_routes(routes())
    app.on_startup.append(_restore)
    app.on_response_prepare.append(_add_headers)
    app.on_cleanup.append(_stop)
    return app


async def _restore(app: web.Application) -> None:
    parts = app[PARTS]
    await parts.changes.run(parts.wishes.restore)


async def _stop(app: web.Application) -> None:
    app[PARTS].stop()


async def _add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers[name] = value
