"""What the operations of the admin API are, each declared once, and how one that fails answers.

aiohttp's table and the OpenAPI document follow from the operations, which stand beside what they
do. Problems are those of RFC 9457, each with a name that programs can rely on. Of what was sent, a
detail repeats names, and values that cannot be a token.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aiohttp import web

from tunnelfleet.proto import ConfigError, TunnelError, printable
from tunnelfleet.runtime.gateway.config import ConfigProblems, Problem
from tunnelfleet.runtime.gateway.messages import UnknownTunnel

logger = logging.getLogger(__name__)

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


PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:tunnelfleet:problem:"
RETRY_SECONDS = 1
"""When a client may ask again if the gateway was busy or is being started."""


class ProblemKind(Enum):
    """The kinds of problems: name, status, title."""

    BAD_REQUEST = ("bad-request", 400, "The request cannot be understood")
    UNAUTHORIZED = ("unauthorized", 401, "The bearer token is missing or wrong")
    NOT_FOUND = ("not-found", 404, "There is no such resource")
    UNKNOWN_TUNNEL = ("unknown-tunnel", 404, "There is no such tunnel")
    NOT_KEPT = ("not-kept", 404, "This gateway does not keep that")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "The resource has no such method")
    TOO_SLOW = ("too-slow", 408, "The request did not come in time")
    EXISTS = ("exists", 409, "There is a tunnel of this name")
    NOT_OURS = ("not-ours", 409, "The tunnel comes from elsewhere")
    FULL = ("full", 409, "The fleet is full")
    CHANGED = ("changed", 412, "The tunnel is another than the one that was meant")
    TOO_LARGE = ("too-large", 413, "The request is too large")
    MEDIA_TYPE = ("media-type", 415, "The body is of another type")
    OTHER_HOST = ("other-host", 421, "The request is for another host")
    WRONG_ENTRY = ("wrong-entry", 422, "The request has mistakes")
    WRONG_FILES = ("wrong-files", 422, "The files have mistakes")
    FAILED = ("failed", 500, "The gateway failed")
    UNAVAILABLE = ("unavailable", 503, "The gateway cannot do that now")
    STORE_FAILED = ("store-failed", 503, "The state could not be written or read")
    BUSY = ("busy", 503, "The gateway has too much to do")

    @property
    def type(self) -> str:
        """The URI that names this kind."""
        return TYPE_PREFIX + self.value[0]

    @property
    def status(self) -> int:
        """The status of HTTP."""
        return self.value[1]

    @property
    def title(self) -> str:
        """The title for people."""
        return self.value[2]


class ApiProblem(Exception):  # noqa: N818 - the word of RFC 9457
    """What was asked cannot be done.

    Args:
        kind: what kind of problem it is.
        detail: what is wrong, and what to do about it.
        headers: of the answer.
        more: further members of the answer.
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers or {}
        self.more = more

    def response(self) -> web.Response:
        """Return the answer."""
        kind = self.kind
        body = {
            "type": kind.type,
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            **self.more,
        }
        headers = dict(self.headers)
        if kind.status == 503:
            headers.setdefault("Retry-After", str(RETRY_SECONDS))
        return web.Response(
            text=json.dumps(body), status=kind.status, content_type=PROBLEM_TYPE, headers=headers
        )


def problem_objects(problems: Iterable[Problem]) -> list[dict[str, object]]:
    """Mistakes of files and entries, for programs."""
    return [
        {
            "file": each.file,
            "line": each.line,
            "key": each.key,
            "message": each.text,
            "severity": "error" if each.is_error else "warning",
        }
        for each in problems
    ]


_OF_HTTP = {
    404: (ProblemKind.NOT_FOUND, "there is nothing at this path; /v1/openapi.json lists all"),
    405: (ProblemKind.METHOD_NOT_ALLOWED, "use one of the methods that the header Allow lists"),
    413: (ProblemKind.TOO_LARGE, "the body is too large; send less"),
}


def _problem_of(error: Exception) -> ApiProblem:
    match error:
        case ApiProblem():
            return error
        case web.HTTPException():
            kind, detail = _OF_HTTP.get(
                error.status, (ProblemKind.BAD_REQUEST, error.reason or "bad")
            )
            allowed = error.headers.get("Allow")
            return ApiProblem(kind, detail, headers={"Allow": allowed} if allowed else None)
        case UnknownTunnel(name=name):
            return ApiProblem(
                ProblemKind.UNKNOWN_TUNNEL, f"there is no tunnel {printable(name)!r} in this fleet"
            )
        case ConfigProblems():
            return ApiProblem(
                ProblemKind.WRONG_ENTRY,
                "; ".join(f"{each.key}: {each.text}" for each in error.problems),
                problems=problem_objects(error.problems),
            )
        case ConfigError():
            return ApiProblem(ProblemKind.WRONG_ENTRY, str(error))
        case TunnelError():
            return ApiProblem(ProblemKind.UNAVAILABLE, str(error))
        case _:
            # A mistake of ours. Its text stays out of the log: it can quote what was sent.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("an admin request failed: %s\n%s", type(error).__name__, where)
            return ApiProblem(
                ProblemKind.FAILED, "this is a mistake in the gateway; its log says more"
            )


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Make problem+json of whatever goes wrong."""
    try:
        return await handler(request)
    except ConnectionResetError:
        # The client has gone.
        raise
    except Exception as error:  # noqa: BLE001 - one request must not harm another
        return _problem_of(error).response()
