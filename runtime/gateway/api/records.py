"""Routes of who is connected, and who was: open connections, and the audit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .context import ApiParts, parts
from .operations import Answer, Operations, Parameter
from .problem import ApiProblem, Kind
from .requests import query, single

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["operations"]

operations = Operations()

TEXT = {"type": "string"}


@operations.add(
    "GET",
    "/v1/connections",
    "The connections that are open, with what they have carried so far",
    parameters=[Parameter("tunnel", "of this tunnel alone", TEXT)],
    answers=[Answer(200, "those that are open now", "ConnectionList")],
    problems=[404],
)
async def list_connections(request: web.Request) -> web.StreamResponse:
    """List them."""
    tunnel = single(query(request, ("tunnel",)), "tunnel")
    api = parts(request)
    text = await api.questions.run(_connections, api, tunnel)
    return web.Response(text=text, content_type="application/json")


def _connections(api: ApiParts, tunnel: str | None) -> str:
    connections: Callable[[str | None], list[dict[str, Any]]] | None = getattr(
        api.gateway, "connections", None
    )
    if connections is None:
        raise ApiProblem(Kind.NOT_KEPT, "this gateway keeps no table of its connections")
    return json.dumps({"connections": connections(tunnel)})
