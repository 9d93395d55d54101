"""What watches a service over HTTP: `/metrics`, `/healthz`, and faults on command.

Owns the pages, who may see them, and the families of metrics, each declared once in `FAMILIES`;
docs/service.md lists them, which a test holds. Numbers are read when somebody asks. Alive means
that the service's thread takes its turns; that its state cannot be written does not make it dead.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tunnelfleet.actors.addresses import is_loopback
from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.proto.text import require_whole_characters
from tunnelfleet.runtime.admin.http_thread import HttpServer
from tunnelfleet.runtime.metrics.families import expose

from .controls import FAULTS, run_fault
from .events import ServiceStats
from .service import TunnelService

Samples: TypeAlias = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """Where the numbers come from.

    Attributes:
        stats: of the service.
        calls: of the management API: (operation, error or "") -> count.
        notifications: by what became of them: sent, failed, waiting.
        state: rows that wait to be written, and whether the last try failed; None without a state.
    """

    stats: Callable[[], ServiceStats]
    calls: Callable[[], Mapping[tuple[str, str], int]] | None = None
    notifications: Callable[[], Mapping[str, int]] | None = None
    state: Callable[[], tuple[int, bool]] | None = None


@dataclass(frozen=True, slots=True)
class ServiceFamily:
    """A metric of the service.

    Attributes:
        name: with its unit; of a counter it ends with ``_total``.
        help: for people.
        labels: what its rows differ in.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: Final = (
    ServiceFamily("tunnelfleet_service_tunnels", "Open tunnels."),
    ServiceFamily("tunnelfleet_service_connections", "Accepted connections, with a token or not."),
    ServiceFamily("tunnelfleet_service_clients", "Clients connected to a tunnel.", ("mode",)),
    ServiceFamily("tunnelfleet_service_streams", "Active streams."),
    ServiceFamily("tunnelfleet_service_buffered_bytes", "Bytes that wait for a client to read."),
    ServiceFamily(
        "tunnelfleet_service_relayed_bytes_total", "Payload relayed, by its sender.", ("mode",)
    ),
    ServiceFamily(
        "tunnelfleet_service_dropped_messages_total", "Messages that had nobody to go to."
    ),
    ServiceFamily("tunnelfleet_service_events_total", "What happened, by event.", ("event",)),
    ServiceFamily(
        "tunnelfleet_service_management_calls_total",
        "Calls of the management API; error is empty for those that succeeded.",
        ("operation", "error"),
    ),
    ServiceFamily(
        "tunnelfleet_service_notifications_total",
        "Notifications that the broker confirmed (sent), and that were given up (failed).",
        ("result",),
    ),
    ServiceFamily(
        "tunnelfleet_service_notifications_waiting", "Notifications that wait for the broker."
    ),
    ServiceFamily("tunnelfleet_service_state_rows_waiting", "Rows that wait to be written."),
    ServiceFamily(
        "tunnelfleet_service_state_failing", "Whether the last try to write the state failed."
    ),
)


class ServiceCollector(Collector):
    """Collects the metrics of one service.

    Args:
        source: where the numbers come from.
    """

    def __init__(self, source: ServiceFigures) -> None:
        self._source = source

    def describe(self) -> Iterator[Metric]:
        """Nothing is registered by name, so that two services can share a registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families that there are numbers for."""
        found = {**self._of_service(), **self._of_parts()}
        for family in FAMILIES:
            samples = found.get(family.name)
            if samples is None:
                continue
            is_counter = family.name.endswith("_total")
            kind = CounterMetricFamily if is_counter else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=family.labels)
            for labels, value in samples.items():
                metric.add_metric(labels, value)
            yield metric

    def _of_service(self) -> dict[str, Samples]:
        stats, prefix = self._source.stats(), "tunnelfleet_service_"
        return {
            f"{prefix}tunnels": {(): stats.tunnels},
            f"{prefix}connections": {(): stats.connections},
            f"{prefix}clients": {(mode.value,): count for mode, count in stats.clients.items()},
            f"{prefix}streams": {(): stats.streams},
            f"{prefix}buffered_bytes": {(): stats.buffered_bytes},
            f"{prefix}relayed_bytes_total": {
                (mode.value,): count for mode, count in stats.relayed_bytes.items()
            },
            f"{prefix}dropped_messages_total": {(): stats.dropped_messages},
            f"{prefix}events_total": {(kind.value,): count for kind, count in stats.events.items()},
        }

    def _of_parts(self) -> dict[str, Samples]:
        source, prefix = self._source, "tunnelfleet_service_"
        found: dict[str, Samples] = {}
        if source.calls is not None:
            found[f"{prefix}management_calls_total"] = {
                (operation, error): count for (operation, error), count in source.calls().items()
            }
        if source.notifications is not None:
            counts = source.notifications()
            found[f"{prefix}notifications_waiting"] = {(): counts["waiting"]}
            found[f"{prefix}notifications_total"] = {
                (result,): counts[result] for result in ("sent", "failed")
            }
        if source.state is not None:
            waiting, is_failing = source.state()
            found[f"{prefix}state_rows_waiting"] = {(): waiting}
            found[f"{prefix}state_failing"] = {(): float(is_failing)}
        return found


MIN_TOKEN_CHARACTERS: Final = 16
CHAOS_PREFIX: Final = "/chaos"
_READ: Final = ("GET", "HEAD")


class ServiceWatch:
    """Serves the pages of one service.

    Args:
        service: the service.
        source: what ``/metrics`` shows.
        host: address to listen on.
        port: port; 0 picks a free one.
        open_to_all: listen beyond this machine.
        chaos: whether faults can be caused.
        chaos_token: what must come as ``Authorization: Bearer TOKEN`` to cause one; needed off
            loopback. None lets anybody, on loopback.

    Raises:
        ConfigError: these do not go together.
    """

    def __init__(
        self,
        service: TunnelService,
        source: ServiceFigures,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        open_to_all: bool = False,
        chaos: bool = False,
        chaos_token: str | None = None,
    ) -> None:
        is_open = not is_loopback(host)
        if is_open and not open_to_all:
            raise ConfigError(
                f"whoever reaches {host} could see this service's figures: listen on 127.0.0.1, "
                "or open it on purpose (--admin-open)"
            )
        if chaos and is_open and (chaos_token is None or not service.has_tls):
            raise ConfigError(
                f"whoever reaches {host} could break this service: listen on 127.0.0.1, or use "
                "TLS and give a token (--chaos-token-file FILE)"
            )
        if chaos_token is not None and len(chaos_token) < MIN_TOKEN_CHARACTERS:
            raise ConfigError(f"a chaos token has at least {MIN_TOKEN_CHARACTERS} characters")
        self._service = service
        self._has_chaos = chaos
        self._token = chaos_token
        self._source = source
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ServiceCollector(source))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="tunnelfleet-watch-page")
        # Of its own: what waits for the service elsewhere must not make it look dead.
        self._prober = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-watch-health")
        self._http = HttpServer(
            host,
            port,
            self._on_request,
            too_large=lambda: _text(413, "the request is too large or too slow"),
            name="tunnelfleet-watch",
            what="the administration server",
            # A scraper on this machine needs no certificate; off it nobody reads along.
            tls=service.server_context if is_open and service.has_tls else None,
        )

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        return self._http.url

    def start(self) -> Self:
        """Listen. Raises ConfigError if that is not possible."""
        try:
            self._http.start()
        except ConfigError:
            self._workers.shutdown()
            self._prober.shutdown()
            raise
        return self

    def stop(self) -> None:
        """End. Safe to call twice."""
        self._http.stop()
        self._workers.shutdown(cancel_futures=True)
        self._prober.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    async def _on_request(self, request: web.BaseRequest, body: bytes) -> web.Response:
        if request.path == CHAOS_PREFIX or request.path.startswith(f"{CHAOS_PREFIX}/"):
            return await self._on_chaos(request, body)
        if request.path not in {"/metrics", "/healthz"}:
            return _text(404, "there are /metrics and /healthz")
        if request.method not in _READ:
            return _text(405, "pages can be read only", Allow=", ".join(_READ))
        if request.path == "/metrics":
            return await self._on_metrics(request)
        return await self._on_healthz()

    async def _on_metrics(self, request: web.BaseRequest) -> web.Response:
        found = await asyncio.get_running_loop().run_in_executor(
            self._workers,
            expose,
            self._registry,
            request.headers.get("Accept", ""),
            request.headers.get("Accept-Encoding", ""),
        )
        headers = {"Content-Type": found.content_type, "Vary": "Accept, Accept-Encoding"}
        if found.encoding is not None:
            headers["Content-Encoding"] = found.encoding
        return web.Response(body=found.body, headers=headers)

    async def _on_healthz(self) -> web.Response:
        is_healthy = await asyncio.get_running_loop().run_in_executor(
            self._prober, _takes_its_turn, self._service
        )
        fields: dict[str, object] = {"healthy": is_healthy}
        if self._source.state is not None:
            fields["state_failing"] = self._source.state()[1]
        return _json(200 if is_healthy else 503, fields)

    # faults

    async def _on_chaos(self, request: web.BaseRequest, body: bytes) -> web.Response:
        refusal = self._refuse_chaos(request)
        if refusal is not None:
            return refusal
        name = request.path.removeprefix(CHAOS_PREFIX).strip("/")
        if not name and request.method in _READ:
            return _json(200, {"faults": {each: FAULTS[each].to_json() for each in FAULTS}})
        if name not in FAULTS:
            return _problem(404, f"there is no such fault; there are {', '.join(FAULTS)}")
        if "Origin" in request.headers:
            # A browser sends it with every POST: some page may want to reach this machine.
            return _problem(403, "no page in a browser may cause faults")
        if request.method != "POST":
            return _text(405, "a fault is caused by POST", Allow="POST")
        return await self._cause(name, _object_in(body))

    def _refuse_chaos(self, request: web.BaseRequest) -> web.Response | None:
        """Return the answer to who may not cause faults."""
        if not self._has_chaos:
            return _text(404, "faults are caused only with --chaos-api")
        if self._token is not None:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return _text(401, "send the chaos token", **{"WWW-Authenticate": "Bearer"})
        return None

    async def _cause(self, name: str, fields: dict[str, Any] | None) -> web.Response:
        if fields is None:
            return _problem(400, "the body is not a JSON object")
        loop = asyncio.get_running_loop()
        try:
            detail = await loop.run_in_executor(
                self._workers, run_fault, self._service, name, fields
            )
        except TunnelError as error:
            return _problem(400, str(error))
        except TimeoutError:
            return _problem(503, "the service is held up")
        return _json(200, {"detail": detail})


def _object_in(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a body is, {} for none; None if it is something else."""
    try:
        found = json.loads(body or b"{}")
        require_whole_characters(found)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


ALIVE_SECONDS: Final = 2.0
"""How long the service's thread has to answer."""


def _takes_its_turn(service: TunnelService) -> bool:
    try:
        return service.is_alive().result(ALIVE_SECONDS)
    except TimeoutError:
        return False


def _text(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=headers)


def _json(status: int, fields: dict[str, object]) -> web.Response:
    return web.json_response(fields, status=status)


def _problem(status: int, detail: str) -> web.Response:
    body = {"type": "about:blank", "title": "fault", "status": status, "detail": detail}
    return web.json_response(body, status=status, content_type="application/problem+json")
