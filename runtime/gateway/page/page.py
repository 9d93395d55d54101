"""StatusPage: the routes of the status page, and the events that keep it live.

Owns what a browser may do with them: a strict Content-Security-Policy, the names of the machine
that it may come by, a limit on readers. The gateway is looked at on a thread of its own, once for
all readers, and only while there are any; a slow reader gets the latest, and no queue grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.resources import files
from typing import Final

from aiohttp import web

from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.admin.options import HostCheck, is_still_let_in

from .sample import Sample, news


class _PageReader:
    """What one reader of the page knows, and what it has to be told."""

    def __init__(self) -> None:
        self._known: Sample | None = None
        self._problem = ""
        self._heard_at = 0.0

    def knows(self, sample: Sample | None, problem: str) -> bool:
        """Whether nothing has come since the last event."""
        return sample is self._known and problem == self._problem

    def next_event(
        self, sample: Sample | None, problem: str, now: float
    ) -> tuple[str, object] | None:
        """Return the name and the data of the event that it gets now, if it gets one."""
        before, self._problem = self._problem, problem
        if problem:
            self._heard_at = now
            return None if problem == before else ("stale", {"reason": problem})
        found = None
        if sample is not None:
            found = news(self._known, sample)
            self._known = sample
        if found is None and not before and now - self._heard_at < QUIET_SECONDS:
            return None
        self._heard_at = now
        return ("quiet", {}) if found is None else ("status", found)


Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


MAX_READERS: Final = 16
"""Pages that follow at once; a further one is told to come back."""
LOOK_SECONDS: Final = 1.0
LOOKS_SHARE: Final = 0.1
"""The largest share of time that looking may take: large fleets are looked at less often."""
QUIET_SECONDS: Final = 5.0
"""A reader hears something within this time also when nothing is new."""
WRITE_SECONDS: Final = 20.0
"""A reader that does not take its news within this time is let go."""
RETRY_MILLISECONDS: Final = 2_000

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "tunnelfleet",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STATIC: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


class StatusPage:
    """The page of one gateway.

    Args:
        look: looks at the gateway; may wait, and may raise TunnelError if it does not answer.
        hosts: more names that the page may be asked for by, beside addresses, `localhost` and the
            names of this machine.
    """

    def __init__(self, look: Callable[[], Sample], hosts: Iterable[str] = ()) -> None:
        self._look = look
        self._host_check = HostCheck(hosts)
        folder = files(f"{__package__}.static")
        self._bodies = {
            path: (folder.joinpath(name).read_bytes(), kind)
            for path, (name, kind) in STATIC.items()
        }
        self._readers = 0
        self._sample: Sample | None = None
        self._problem = ""
        self._looked = asyncio.Condition()
        self._looking: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def pages(self, stopping: asyncio.Event) -> Mapping[str, Page]:
        """Return the pages by path, for `AdminServer`.

        Args:
            stopping: set when the server ends.
        """
        self._stopping = stopping
        return {**dict.fromkeys(STATIC, self._on_static), "/status/events": self._on_events}

    # -- routes

    async def _on_static(self, request: web.BaseRequest) -> web.StreamResponse:
        if (refusal := self._refuse(request)) is not None:
            return refusal
        body, kind = self._bodies[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    async def _on_events(self, request: web.BaseRequest) -> web.StreamResponse:
        if (refusal := self._refuse(request)) is not None:
            return refusal
        if self._readers >= MAX_READERS:
            headers = {**HEADERS, "Retry-After": "10"}
            text = f"{MAX_READERS} pages are open already; close one of them\n"
            return web.Response(status=503, text=text, headers=headers)
        kind = {"Content-Type": "text/event-stream; charset=utf-8"}
        response = web.StreamResponse(headers={**HEADERS, **kind})
        if request.method == "HEAD":
            return response
        self._readers += 1
        try:
            await response.prepare(request)
            await self._follow(response)
        except (ConnectionError, TimeoutError):
            # The reader has gone, or takes nothing: then the connection is of no more use.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._readers -= 1
        return response

    def _refuse(self, request: web.BaseRequest) -> web.Response | None:
        if self._host_check.admits(request):
            return None
        text = (
            "this page is not shown under that name; ask for it by address, by the name of this "
            "machine, or add the name to metrics_hosts of the gateway\n"
        )
        return web.Response(status=421, text=text, headers=HEADERS)

    # -- events

    async def _follow(self, response: web.StreamResponse) -> None:
        """Send one reader all values, and then what changes, until it goes or the server ends.

        Or until the token that it has shown was replaced.
        """
        reader = _PageReader()
        await self._write(response, f"retry: {RETRY_MILLISECONDS}\n\n")
        while not self._stopping.is_set():
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_on())
            async with self._looked:
                with contextlib.suppress(TimeoutError):
                    if reader.knows(self._sample, self._problem):
                        await asyncio.wait_for(self._looked.wait(), QUIET_SECONDS)
                # What came between is skipped: a slow reader gets the latest, and no queue grows.
                sample, problem = self._sample, self._problem
            if not is_still_let_in():
                return
            event = reader.next_event(sample, problem, time.monotonic())
            if event is not None:
                await self._tell(response, *event)

    async def _tell(self, response: web.StreamResponse, event: str, data: object) -> None:
        text = json.dumps(data, separators=(",", ":"))
        await self._write(response, f"event: {event}\ndata: {text}\n\n")

    async def _write(self, response: web.StreamResponse, text: str) -> None:
        await asyncio.wait_for(response.write(text.encode()), WRITE_SECONDS)

    async def _look_on(self) -> None:
        """Look again and again while somebody reads."""
        loop = asyncio.get_running_loop()
        thread = DaemonExecutor(1, "tunnelfleet-page")
        try:
            while self._readers and not self._stopping.is_set():
                began = time.monotonic()
                sample, problem = self._sample, ""
                try:
                    sample = await loop.run_in_executor(thread, self._look)
                except TunnelError as error:
                    problem = f"the gateway does not answer: {error}"
                async with self._looked:
                    self._sample, self._problem = sample, problem
                    self._looked.notify_all()
                took = time.monotonic() - began
                pause = max(LOOK_SECONDS, took / LOOKS_SHARE)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
        finally:
            # Not waited for: it may be asking a gateway that does not answer, and this is a loop.
            thread.shutdown(wait=False, cancel_futures=True)
            self._sample = None
        async with self._looked:
            self._looked.notify_all()
