"""The routes of the admin API, each declared once: aiohttp's table and the OpenAPI document follow.

Owns what an operation is. The operations themselves stand beside what they do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query, or a header.

    Attributes:
        name: of it.
        text: what it means.
        schema: of its value, as JSON Schema.
        is_header: whether it is a header.
    """

    name: str
    text: str
    schema: Mapping[str, Any]
    is_header: bool = False


@dataclass(frozen=True, slots=True)
class Success:
    """What an operation answers when all is well.

    Attributes:
        status: of HTTP.
        text: what it means.
        schema: the name of the body's schema; empty for no body.
        media_type: of the body.
        headers: by name, and what each means.
    """

    status: int
    text: str
    schema: str = ""
    media_type: str = "application/json"
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        id: a name that is unique.
        method: of HTTP.
        path: with `{name}` for the tunnel's name.
        summary: what it does.
        answers: what it answers when all is well.
        problems: the statuses of its problems, beside those that every operation can have.
        parameters: of the query, and headers.
        body: the name of the schema of its body; empty for none.
        handler: does it.
    """

    id: str
    method: str
    path: str
    summary: str
    answers: Sequence[Success]
    problems: Sequence[int] = ()
    parameters: Sequence[Parameter] = ()
    body: str = ""
    handler: Handler


class Operations:
    """The operations that a module declares."""

    def __init__(self) -> None:
        self.all: list[Operation] = []

    def add(
        self, method: str, path: str, summary: str, **given: Any
    ) -> Callable[[Handler], Handler]:
        """Declare an operation by decorating what does it; its id is the function's name."""

        def declare(handler: Handler) -> Handler:
            name: str = getattr(handler, "__name__", "")
            self.all.append(
                Operation(
                    id=name, method=method, path=path, summary=summary, handler=handler, **given
                )
            )
            return handler

        return declare


def route_table(operations: Sequence[Operation]) -> web.RouteTableDef:
    """Return the routes, for an application of aiohttp."""
    table = web.RouteTableDef()
    for each in operations:
        # aiohttp answers HEAD with the handler of GET, and leaves the body out.
        add = table.get(each.path) if each.method == "GET" else table.route(each.method, each.path)
        add(each.handler)
    return table
