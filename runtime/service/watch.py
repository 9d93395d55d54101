"""What watches a service over HTTP: ``/metrics``, ``/healthz``, and faults on command.

Owns the pages and who may see them. Alive means that the service's thread takes its turns; that its
state cannot be written is told, and does not make it dead.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from tunnelfleet.actors.addresses import is_loopback
from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime.admin.exposition import expose

from .chaos import FAULTS, run_fault
from .http import HttpServer
from .metrics import ServiceCollector, ServiceFigures
from .service import TunnelService

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
        if not self._has_chaos:
            return _text(404, "faults are caused only with --chaos-api")
        if self._token is not None:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return _text(401, "send the chaos token", **{"WWW-Authenticate": "Bearer"})
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
        try:
            given_fields = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            given_fields = None
        if not isinstance(given_fields, dict):
            return _problem(400, "the body is not a JSON object")
        loop = asyncio.get_running_loop()
        try:
            detail = await loop.run_in_executor(
                self._workers, run_fault, self._service, name, given_fields
            )
        except TunnelError as error:
            return _problem(400, str(error))
        except TimeoutError:
            return _problem(503, "the service is held up")
        return _json(200, {"detail": detail})


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
