"""A tunneling service for a test: the embedded one, with AWS's management API beside it.

Owns both servers from start to stop, and what a program needs to know to find them. Nothing of it
is global: two of them do not know each other.
The management API, and the extra `aws` that it needs, are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.service import ServiceEvent, TunnelService, TunnelTokens
from tunnelfleet.runtime.service.handshake import AWS_CONNECTS_PER_SECOND

SERVICE_NAME: Final = "iotsecuretunneling"
"""What boto3 calls AWS IoT Secure Tunneling."""

ACCESS_KEY: Final = "AKIATUNNELFLEETTESTS"
SECRET_KEY: Final = "valid-for-tests-on-this-machine-only"  # noqa: S105 (it protects nothing)
"""The same for every service: boto3's default session keeps those that it saw first."""

CALL_SECONDS: Final = 20
"""How long a client of boto3 waits for an answer."""


class LocalService:
    """The embedded service and its management API, on free ports of loopback.

    Args:
        tls: whether both speak TLS, with a certificate that is made for the time (`ca_path`).
        region: for which requests are signed, and what stands in ARNs.
        signed: whether requests of the management API must be signed with the credentials below,
            as with AWS; False lets everybody on this machine call.
        aws_limits: keep AWS's limits: 3 services a tunnel, 800 kbit/s, one `OpenTunnel` a second,
            10 connects a second.
        bandwidth_bytes_per_second: of each direction of each tunnel; None is no limit of its own.
        on_event: called with each event of the service, on the service's thread.

    Attributes:
        service: the `TunnelService`, with all its controls: `drop`, `refuse_next`, `rotate`, ...
        region: see above.
        access_key: the key that may call the management API.
        secret_key: its secret.

    Raises:
        ConfigError: the options do not go together.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        region: str = "us-east-1",
        signed: bool = True,
        aws_limits: bool = False,
        bandwidth_bytes_per_second: float | None = None,
        on_event: Callable[[ServiceEvent], None] | None = None,
    ) -> None:
        self.service = TunnelService(
            tls=tls,
            bandwidth_bytes_per_second=bandwidth_bytes_per_second,
            connects_per_second=AWS_CONNECTS_PER_SECOND if aws_limits else None,
            on_event=on_event,
        )
        self.region = region
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY
        self._signed = signed
        self._aws_limits = aws_limits
        self._lock = threading.Lock()
        self._parts = ExitStack()
        self._url: str | None = None

    def __repr__(self) -> str:
        return f"<LocalService {self.endpoint}>"

    def start(self) -> Self:
        """Listen. Does nothing when running. Raises ConfigError if that is not possible."""
        self.service.start()
        return self

    def stop(self) -> None:
        """End the API, the clients that `client` gave, and the service. Safe to call twice."""
        with self._lock:
            self._url = None
            self._parts.close()
        self.service.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """What tunnels connect to, such as ``ws://127.0.0.1:40123``."""
        return self.service.endpoint

    @property
    def ca_path(self) -> Path | None:
        """PEM of the authority to trust; None without TLS."""
        return self.service.ca_path

    @property
    def management_url(self) -> str:
        """What is given to an SDK of AWS as `endpoint_url`. Asking for it starts the API.

        Raises:
            ConfigError: the extra `aws` is not installed, or the service does not run.
        """
        with self._lock:
            if self._url is None:
                self._url = self._start_management()
            return self._url

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which SDKs and the command line of AWS find this service.

        For `monkeypatch.setenv`, or the `env` of a process. They leave AWS's other services alone.

        Raises:
            ConfigError: as `management_url`.
        """
        found = {
            "AWS_ENDPOINT_URL_IOTSECURETUNNELING": self.management_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }
        if self.ca_path is not None:
            found["AWS_CA_BUNDLE"] = str(self.ca_path)
        return found

    def client(self, **options: Any) -> Any:
        """Return a boto3 client of the management API; it is closed when the service stops.

        Args:
            **options: more arguments of `boto3.session.Session.client`.

        Raises:
            ConfigError: as `management_url`.
        """
        url = self.management_url
        if importlib.util.find_spec("boto3") is None:
            raise ConfigError(
                "boto3 is not installed; install it with: pip install 'tunnelfleet[aws]'"
            )
        import boto3  # noqa: PLC0415 (an extra)
        from botocore.config import Config  # noqa: PLC0415

        given: dict[str, Any] = {
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": self.region,
            "endpoint_url": url,
            "verify": None if self.ca_path is None else str(self.ca_path),
            "config": Config(
                connect_timeout=CALL_SECONDS,
                read_timeout=CALL_SECONDS,
                retries={"total_max_attempts": 1},
            ),
        }
        made = boto3.session.Session().client(SERVICE_NAME, **(given | options))
        with self._lock:
            self._parts.callback(made.close)
        return made

    def open_tunnel(self, name: str, services: Sequence[str] = ()) -> TunnelTokens:
        """Open a tunnel without the management API; return its tokens.

        Raises:
            ConfigError: a name or service id is not usable, or the name is taken.
        """
        return self.service.open_tunnel(name, services)

    def _start_management(self) -> str:
        from tunnelfleet.runtime.service.management import (  # noqa: PLC0415 (an extra)
            AccessKey,
            ManagementLimits,
            ManagementServer,
            aws_limits,
        )

        if not self.service.is_alive().result(CALL_SECONDS):
            raise ConfigError("the service does not run; start it first, or use it in a `with`")
        key = AccessKey(self.access_key, self.secret_key)
        server = ManagementServer(
            self.service,
            credentials={key.access_key: key} if self._signed else None,
            region=self.region,
            limits=aws_limits() if self._aws_limits else ManagementLimits(),
        )
        return self._parts.enter_context(server).url
