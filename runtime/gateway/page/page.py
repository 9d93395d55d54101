"""The status page at the metrics address: what it shows, and the events that keep it live.

Owns the fields, the alerts, and what is new for a reader (`news`, which is pure); the routes `/`,
`/page.css`, `/page.js` and `/status/events`; and what a browser may do with them: a strict
Content-Security-Policy, the names of the machine it may come by, and a limit on readers. The
gateway is looked at on a thread of its own, once for all readers, and only while there are any.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.admin.options import HostCheck
from tunnelfleet.runtime.gateway.forward.directory import FleetSurvey
from tunnelfleet.version import VERSION

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.snapshot import TunnelRow


TUNNEL_FIELDS: Final = (
    "name",
    "state",
    "reason",
    "since",
    "mode",
    "services",
    "labels",
    "connections",
    "sent_bytes",
    "received_bytes",
    "reconnects",
    "gateway",
)
GATEWAY_FIELDS: Final = ("name", "state", "tunnels", "connected", "shards", "address", "trouble")
CONNECTION_FIELDS: Final = (
    "tunnel",
    "service_id",
    "stream_id",
    "connection_id",
    "peer",
    "user",
    "since",
    "sent_bytes",
    "received_bytes",
)
MAX_CONNECTIONS: Final = 500
"""Connections that the page lists; it says how many there are."""
MAX_TUNNELS_OF_OTHERS: Final = 10_000
"""Tunnels of other gateways of the fleet that it lists."""


Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a gateway.

    Attributes:
        gateway: what the head of the page says.
        tunnels: the values of `TUNNEL_FIELDS` by name.
        connections: the values of `CONNECTION_FIELDS` by what the page knows a connection by.
        gateways: the values of `GATEWAY_FIELDS` by name, where gateways share the fleet.
    """

    gateway: Mapping[str, Any]
    tunnels: Mapping[str, Values] = field(default_factory=dict)
    connections: Mapping[str, Values] = field(default_factory=dict)
    gateways: Mapping[str, Values] = field(default_factory=dict)


def tunnel_values(rows: Iterable[TunnelRow]) -> dict[str, Values]:
    """Return the values that the page shows of tunnels."""
    found: dict[str, Values] = {}
    for row in rows:
        fields = row.to_json()
        found[row.name] = tuple(fields.get(name, "") for name in TUNNEL_FIELDS)
    return found


def values_of_others(survey: FleetSurvey, own: Iterable[str]) -> dict[str, Values]:
    """Return the values of tunnels that other gateways have.

    Args:
        survey: of the fleet.
        own: the names of those that this gateway has.
    """
    here = frozenset(own)
    others = (row for row in survey.tunnels if row["name"] not in here)
    return {
        row["name"]: tuple(row.get(name, "") for name in TUNNEL_FIELDS)
        for row in itertools.islice(others, MAX_TUNNELS_OF_OTHERS)
    }


def gateway_values(survey: FleetSurvey) -> dict[str, Values]:
    """Return the values that the page shows of gateways."""
    found: dict[str, Values] = {}
    for row in survey.gateways:
        state = "up" if row["reached"] else "unreached" if row["fresh"] else "away"
        states = row["tunnels"]
        connected = states.get(TunnelState.CONNECTED.value, 0)
        counts = (sum(states.values()), connected)
        values = (row["name"], state, *counts, row["shards"], row["address"], row["trouble"])
        found[row["name"]] = values
    return found


def connection_values(connections: Iterable[Mapping[str, Any]]) -> dict[str, Values]:
    """Return the values that the page shows of connections, of so many as it lists."""
    found: dict[str, Values] = {}
    for each in connections:
        if len(found) >= MAX_CONNECTIONS:
            break
        key = "/".join(str(each.get(name)) for name in CONNECTION_FIELDS[:4])
        found[key] = tuple(each.get(name) for name in CONNECTION_FIELDS)
    return found


def news(before: Sample | None, now: Sample) -> dict[str, Any] | None:
    """Return what a reader who knows `before` has to be told.

    Args:
        before: what it was told last; None if it knows nothing.
        now: the present look.

    Returns:
        The object that the page takes, or None if nothing is new.
    """
    gateway = {key: value for key, value in now.gateway.items() if key != "time"}
    found: dict[str, Any] = {
        "gateway": now.gateway,
        "whole": before is None,
        "fields": {
            "tunnels": TUNNEL_FIELDS,
            "connections": CONNECTION_FIELDS,
            "gateways": GATEWAY_FIELDS,
        },
        "gone": {},
    }
    is_new = before is None or gateway != {k: v for k, v in before.gateway.items() if k != "time"}
    for name in ("tunnels", "connections", "gateways"):
        old: Mapping[str, Values] = {} if before is None else getattr(before, name)
        new: Mapping[str, Values] = getattr(now, name)
        found[name] = [values for key, values in new.items() if old.get(key) != values]
        found["gone"][name] = [key for key in old if key not in new]
        is_new = is_new or bool(found[name] or found["gone"][name])
    return found if is_new else None


def look_at(gateway: Gateway, others: Callable[[], FleetSurvey] = FleetSurvey) -> Sample:
    """Look at a gateway; waits for the answer of its actors.

    Args:
        gateway: to look at.
        others: what is known of the fleet that it shares; must not wait.

    Raises:
        TunnelError: they do not answer.
    """
    state = gateway.state
    survey = others()
    rows = gateway.snapshot().rows(gateway.runtime)
    if survey.gateways:
        # The others tell of theirs, which stand in the files of this one as well.
        rows = [row for row in rows if row.name in state.running or state.is_ours(row.name)]
    tunnels = tunnel_values(rows)
    if survey.gateways:
        name_at = TUNNEL_FIELDS.index("gateway")
        me = state.config.gateway.name
        tunnels = {name: (*values[:name_at], me) for name, values in tunnels.items()}
        tunnels |= values_of_others(survey, tunnels)
    about = {
        "name": state.config.gateway.name,
        "version": VERSION,
        "started": round(gateway.started_at, 3),
        "time": round(time.time(), 3),
        "connections": sum(row.connections for row in rows),
        "alerts": alerts(rows, is_reloaded=state.reload_ok),
    }
    connections = connection_values(gateway.connections())
    return Sample(about, tunnels, connections, gateway_values(survey))


ADVICE: Final = {
    TunnelState.REFUSED: "the service does not take the token. Rotate it, then replace it in its "
    "file and reload, or use `tunnelfleet replace-token`.",
    TunnelState.QUARANTINED: "it failed again and again, and is tried at the longest delay. "
    "Look at its reason; `tunnelfleet retry` tries at once.",
}
"""What to do about tunnels that do not help themselves."""


def alerts(rows: Sequence[TunnelRow], *, is_reloaded: bool) -> list[str]:
    """Return what somebody has to do something about, a sentence each."""
    found: list[str] = []
    if not is_reloaded:
        found.append(
            "The files were not taken over when they were last read: they have mistakes. "
            "`tunnelfleet check` shows them; until they are mended the fleet is as it was."
        )
    counts = Counter(row.state for row in rows)
    for state, what in ADVICE.items():
        if count := counts[state.value]:
            tunnels = "1 tunnel is" if count == 1 else f"{count} tunnels are"
            found.append(f"{tunnels} {state.value}: {what}")
    return found


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
        """Send one reader all values, and then what changes, until it goes or the server ends."""
        known: Sample | None = None
        told = ""
        await self._write(response, f"retry: {RETRY_MILLISECONDS}\n\n")
        heard_at = 0.0
        while not self._stopping.is_set():
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_on())
            async with self._looked:
                with contextlib.suppress(TimeoutError):
                    if self._sample is known and self._problem == told:
                        await asyncio.wait_for(self._looked.wait(), QUIET_SECONDS)
                # What came between is skipped: a slow reader gets the latest, and no queue grows.
                sample, problem = self._sample, self._problem
            now = time.monotonic()
            if problem:
                if problem != told:
                    await self._tell(response, "stale", {"reason": problem})
                told, heard_at = problem, now
            elif sample is not None and (found := news(known, sample)) is not None:
                await self._tell(response, "status", found)
                known, told, heard_at = sample, "", now
            elif told or now - heard_at >= QUIET_SECONDS:
                known = known if sample is None else sample
                await self._tell(response, "quiet", {})
                told, heard_at = "", now
            else:
                known = known if sample is None else sample

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
