"""The route of events: server-sent events, for whoever follows a gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from .context import parts
from .operations import Operations, Parameter, Success
from .problem import ApiProblem, ProblemKind
from .readers import write
from .requests import query, whole_number

if TYPE_CHECKING:
    from .feed import EventFeed

__all__ = ["operations"]

operations = Operations()

MEDIA_TYPE = "text/event-stream"
RETRY_MILLISECONDS = 2_000
"""After which a browser comes again."""
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
    """Follow the events."""
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
            await reader.run(response)
        except (TimeoutError, ConnectionError):
            # It does not read, or has gone: what waits for it is given up.
            if request.transport is not None:
                request.transport.abort()
    return response


def _start(request: web.Request, feed: EventFeed) -> int:
    """The number of the event after which a reader begins."""
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
