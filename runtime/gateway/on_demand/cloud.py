"""The calls of AWS's management API that tunnels on demand need, through boto3 (extra `aws`).

Owns boto3's client and what its errors mean for whoever has called: nothing was done, it may have
been done, it comes too often, it is not there. All calls wait, each for a bounded time, on the
caller's thread. None is repeated here: OpenTunnel has no token by which the service would know a
request again, and one that is sent twice opens two tunnels. What takes its place is a mark in the
description, by which a tunnel is found whose answer was lost.
"""

from __future__ import annotations

import threading
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tunnelfleet.proto import TunnelError, printable
from tunnelfleet.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tunnelfleet.runtime.gateway.config import CloudPlace


SERVICE = "iotsecuretunneling"
CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
POOL_CONNECTIONS = 8
PAGE_TUNNELS = 100
MAX_PAGES = 10
"""Of the tunnels of one thing, when one of them is looked for."""
MAX_TEXT_CHARACTERS = 200
_THROTTLED = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "ThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "SlowDown",
    }
)
_NOT_FOUND = "ResourceNotFoundException"
_TOO_MANY = 429
_SERVER_ERROR = 500


class CloudTrouble(Enum):
    """What an error means; the value is the label of the metric."""

    THROTTLED = "throttled"
    """It comes too often: nothing was done."""
    REFUSED = "refused"
    """Nothing was done."""
    NOT_FOUND = "not_found"
    """There is no such tunnel."""
    UNKNOWN = "unknown"
    """It may have been done."""


class CloudError(TunnelError):
    """A call has failed.

    Args:
        trouble: what that means.
        text: why, for people.
    """

    def __init__(self, trouble: CloudTrouble, text: str) -> None:
        super().__init__(trouble, text)
        self.trouble = trouble
        self.text = text

    def __str__(self) -> str:
        return self.text


class OpenedTunnel(NamedTuple):
    """What OpenTunnel has answered; the device gets its token from the service."""

    tunnel_id: str
    source_token: str

    def __repr__(self) -> str:
        return f"OpenedTunnel({self.tunnel_id!r}, ...)"


class TunnelFound(NamedTuple):
    """What DescribeTunnel has answered."""

    is_open: bool
    has_device: bool


class Cloud(Protocol):
    """Where tunnels are opened. All calls wait, and raise a `CloudError`."""

    def open_tunnel(
        self,
        thing: str,
        services: tuple[str, ...],
        lifetime_minutes: int,
        mark: str,
        tags: Mapping[str, str],
    ) -> OpenedTunnel:
        """Open a tunnel, whose device is told."""

    def describe_tunnel(self, tunnel_id: str) -> TunnelFound:
        """Look at a tunnel."""

    def close_tunnel(self, tunnel_id: str) -> None:
        """Close a tunnel, and delete it."""

    def find_tunnels(self, thing: str, mark: str) -> list[str]:
        """The ids of a thing's open tunnels whose description ends with this mark."""


class AwsCloud:
    """AWS in a region, or another service with its API. Any thread may call it.

    Args:
        place: which.
    """

    def __init__(self, place: CloudPlace) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._made: Any = None

    def open_tunnel(
        self,
        thing: str,
        services: tuple[str, ...],
        lifetime_minutes: int,
        mark: str,
        tags: Mapping[str, str],
    ) -> OpenedTunnel:
        """See `Cloud`."""
        given: dict[str, Any] = {
            "description": mark,
            "destinationConfig": {"thingName": thing, "services": list(services)},
            "timeoutConfig": {"maxLifetimeTimeoutMinutes": lifetime_minutes},
        }
        if tags:
            given["tags"] = [{"key": key, "value": value} for key, value in tags.items()]
        answer = self._call("OpenTunnel", lambda aws: aws.open_tunnel(**given))
        try:
            return OpenedTunnel(answer["tunnelId"], answer["sourceAccessToken"])
        except KeyError as error:
            text = f"OpenTunnel at {self._place} has answered without {error}"
            raise CloudError(CloudTrouble.UNKNOWN, text) from None

    def describe_tunnel(self, tunnel_id: str) -> TunnelFound:
        """See `Cloud`."""
        try:
            answer = self._call(
                "DescribeTunnel", lambda aws: aws.describe_tunnel(tunnelId=tunnel_id)
            )
        except CloudError as error:
            if error.trouble is CloudTrouble.NOT_FOUND:
                return TunnelFound(is_open=False, has_device=False)
            raise
        tunnel = answer.get("tunnel", {})
        device = tunnel.get("destinationConnectionState", {}).get("status")
        return TunnelFound(tunnel.get("status") == "OPEN", device == "CONNECTED")

    def close_tunnel(self, tunnel_id: str) -> None:
        """See `Cloud`."""
        try:
            self._call("CloseTunnel", lambda aws: aws.close_tunnel(tunnelId=tunnel_id, delete=True))
        except CloudError as error:
            if error.trouble is not CloudTrouble.NOT_FOUND:
                raise

    def find_tunnels(self, thing: str, mark: str) -> list[str]:
        """See `Cloud`."""
        found: list[str] = []
        given: dict[str, Any] = {"thingName": thing, "maxResults": PAGE_TUNNELS}
        for _page in range(MAX_PAGES):
            answer = self._call("ListTunnels", lambda aws: aws.list_tunnels(**given))
            found += [
                each["tunnelId"]
                for each in answer.get("tunnelSummaries", ())
                if str(each.get("description")).endswith(mark) and each.get("status") == "OPEN"
            ]
            if not answer.get("nextToken"):
                break
            given["nextToken"] = answer["nextToken"]
        return found

    def close(self) -> None:
        """Close its connections."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    def _call(self, operation: str, do: Callable[[Any], Any]) -> Any:
        # Imported here: it takes a while, and is an extra.
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415

        try:
            return do(self._client())
        except ClientError as error:
            raise self._refused(operation, error) from None
        except (BotoCoreError, ResponseParserError) as error:
            raise self._failed(operation, error) from None

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                import boto3  # noqa: PLC0415
                from botocore.config import Config  # noqa: PLC0415

                place = self._place
                session = boto3.session.Session(
                    profile_name=place.profile, region_name=place.region
                )
                self._made = session.client(
                    SERVICE,
                    endpoint_url=place.endpoint_url,
                    # A service of one's own is in no region; signing needs the name of one.
                    region_name=session.region_name
                    or ("us-east-1" if place.endpoint_url else None),
                    config=Config(
                        retries={"total_max_attempts": 1},
                        connect_timeout=CONNECT_SECONDS,
                        read_timeout=READ_SECONDS,
                        max_pool_connections=POOL_CONNECTIONS,
                        user_agent_extra=f"tunnelfleet/{VERSION}",
                    ),
                )
            return self._made

    def _refused(self, operation: str, error: Any) -> CloudError:
        details = error.response.get("Error", {})
        code = str(details.get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == _NOT_FOUND:
            trouble = CloudTrouble.NOT_FOUND
        elif code in _THROTTLED or status == _TOO_MANY:
            trouble = CloudTrouble.THROTTLED
        elif status >= _SERVER_ERROR:
            trouble = CloudTrouble.UNKNOWN
        else:
            trouble = CloudTrouble.REFUSED
        text = f"{code}: {details.get('Message', '')}"
        return CloudError(trouble, self._text(operation, text))

    def _failed(self, operation: str, error: Any) -> CloudError:
        from botocore import exceptions  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415

        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            text = "there are no AWS credentials; give AWS_PROFILE, keys or a role to the gateway"
            if self._place.endpoint_url:
                text += ", or any keys if the service checks none"
            return CloudError(CloudTrouble.REFUSED, self._text(operation, text))
        # These come when the request was sent, or may have been; all others before.
        may_be_done = isinstance(
            error,
            exceptions.HTTPClientError | exceptions.IncompleteReadError | ResponseParserError,
        )
        trouble = CloudTrouble.UNKNOWN if may_be_done else CloudTrouble.REFUSED
        return CloudError(trouble, self._text(operation, str(error)))

    def _text(self, operation: str, text: str) -> str:
        return f"{operation} at {self._place}: {printable(text, MAX_TEXT_CHARACTERS)}"
