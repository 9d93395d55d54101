"""The management API over HTTP, as AWS has it: JSON 1.1, one operation a POST.

Owns the way of a request: who may call, how often, which operation, its input checked, the
operation on the API's own thread, its output. Calls are counted, and nothing of a request or an
answer is logged. Owns also the limits of the API, those of AWS among them.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
import uuid
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self
from urllib.parse import urlsplit

from aiohttp import web

from tunnelfleet.actors.addresses import TcpAddress, is_loopback
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.admin.http_thread import HttpServer
from tunnelfleet.runtime.admin.options import HostCheck
from tunnelfleet.runtime.service.names import is_wildcard
from tunnelfleet.runtime.service.service import TunnelService

from . import model
from .operations import ManagementLimits, ManagementOperations, Notifier
from .records import RecordKeeper, RecordTable
from .signature import AccessKey, SignatureVerifier, SignedRequest

MAX_WAITING: Final = 256
"""So many calls wait for the one that is under way; more are told to come again."""

DEFAULT_REGION: Final = "us-east-1"
ALLOWED: Final = "POST"
UNKNOWN: Final = "unknown"
"""What stands for an operation that there is not, where calls are counted."""

_log = get_logger(__name__)


class ManagementServer:
    """Serves the management API of a service.

    Args:
        service: the service; it may be started before or after.
        host: address to listen on.
        port: port; 0 picks a free one.
        credentials: who may call, by access key; None lets anybody call, on loopback only.
        region: what stands in ARNs and notifications, and for what requests are signed.
        limits: how much there may be.
        keeper: where records are kept over a restart; None keeps them in memory.
        notifier: tells devices of their tunnels; None tells nobody.

    Raises:
        ConfigError: botocore is not installed; anybody could call from elsewhere; tokens would
            cross a network in clear.
    """

    def __init__(
        self,
        service: TunnelService,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        credentials: Mapping[str, AccessKey] | None = None,
        region: str = DEFAULT_REGION,
        limits: ManagementLimits | None = None,
        keeper: RecordKeeper | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        if not is_loopback(host):
            if credentials is None:
                raise ConfigError(
                    f"without credentials anybody who reaches {host} could open tunnels; "
                    "listen on 127.0.0.1, or say who may call (--credentials FILE)"
                )
            if not service.has_tls:
                raise ConfigError(
                    f"plain http is for loopback only, not {host}: answers hold access tokens; "
                    "listen on 127.0.0.1, or use TLS"
                )
        self._service = service
        self._host = host
        self._model = model.ServiceModel()
        self._verifier = None if credentials is None else SignatureVerifier(credentials, region)
        # A signature covers the name that was asked for; without one a page of a browser could
        # ask through a name of its own, and would be answered with tokens.
        self._host_check = HostCheck(host) if credentials is None else None
        self._records = RecordTable(keeper)
        self._operations = ManagementOperations(
            service,
            self._records,
            limits=limits or ManagementLimits(),
            region=region,
            notifier=notifier,
        )
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-management-call")
        self._waiting = 0
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._http = HttpServer(
            host,
            port,
            self._on_request,
            too_large=lambda: _failure(
                model.RequestTooLarge("The request is too large or too slow")
            ),
            name="tunnelfleet-management",
            what="the management API",
            tls=service.server_context if service.has_tls else None,
        )

    @property
    def url(self) -> str:
        """Where it is: what is given to boto3 as `endpoint_url`.

        Of one that listens at all addresses with the host of the service's endpoint, which the
        certificate is for.
        """
        if not is_wildcard(self._host):
            return self._http.url
        parts = urlsplit(self._http.url)
        host = urlsplit(self._service.endpoint).hostname or ""
        return f"{parts.scheme}://{TcpAddress(host, parts.port or 0)}"

    def start(self) -> Self:
        """Listen. Raises ConfigError if that is not possible."""
        try:
            self._http.start()
        except ConfigError:
            self._worker.shutdown()
            raise
        return self

    def stop(self) -> None:
        """Answer what is under way, and end. Safe to call twice."""
        self._http.stop()
        self._worker.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def calls(self) -> dict[tuple[str, str], int]:
        """Return how many calls there were: (operation, name of the error or "") -> count."""
        with self._lock:
            return dict(self._calls)

    async def _on_request(self, request: web.BaseRequest, body: bytes) -> web.Response:
        if request.method != ALLOWED or request.path != "/":
            status, headers = (404, {}) if request.path != "/" else (405, {"Allow": ALLOWED})
            return web.Response(
                status=status, headers=headers, text="the API takes POST requests to /\n"
            )
        if self._host_check is not None and not self._host_check.admits(request):
            return web.Response(status=421, text="ask for it by its address, or as localhost\n")
        name, error = UNKNOWN, ""
        try:
            target = request.headers.get("X-Amz-Target", "")
            self._verify(request, body)
            operation = self._model.operation(target)
            name = operation.name
            if name not in self._operations.names:
                raise model.UnknownOperation(f"{name} is not there")
            given = self._model.read_input(operation, body)
            output = await self._call(name, given)
            response = _answer(200, self._model.write_output(operation, output))
        except model.ApiError as failed:
            error = failed.name
            response = _failure(failed)
        except Exception:  # noqa: BLE001 (a mistake of ours is answered as one)
            error = model.InternalError.name
            _log.exception("%s failed", name)
            response = _failure(model.InternalError("The service failed"))
        with self._lock:
            self._calls[name, error] += 1
        return response

    def _verify(self, request: web.BaseRequest, body: bytes) -> None:
        if self._verifier is None:
            return
        signed = SignedRequest(
            request.method,
            request.headers.get("Host", ""),
            request.raw_path,
            [(name, value) for name, value in request.headers.items()],
            body,
        )
        self._verifier.verify(signed, datetime.datetime.now(datetime.UTC))

    async def _call(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if self._waiting >= MAX_WAITING:
            raise model.ServiceUnavailable("Too many calls are waiting")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._operations.call, name, given)
        finally:
            self._waiting -= 1


def _failure(error: model.ApiError) -> web.Response:
    body = {"__type": error.name, "message": error.message}
    return _answer(error.status, json.dumps(body).encode())


def _answer(status: int, body: bytes) -> web.Response:
    # Not content_type=, which would add a charset to it.
    headers = {"Content-Type": model.CONTENT_TYPE, "x-amzn-RequestId": str(uuid.uuid4())}
    return web.Response(status=status, body=body, headers=headers)
