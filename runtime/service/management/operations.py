"""What the operations of the management API do.

Owns the order in which a tunnel's record, its tokens and its notification come about. Must not know
HTTP nor signatures: input is checked against the model, output is members of the model.

Operations block, on the service's thread and on the disk, so they run on a thread of their own, one
after the other (``server``). What happens without them (clients come and go, lifetimes end, tunnels
of the command line) is told by the service's events.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tunnelfleet.actors.token_bucket import TokenBucket
from tunnelfleet.proto import ConfigError, Mode, counted
from tunnelfleet.runtime.service import TunnelTokens
from tunnelfleet.runtime.service.events import ServiceEvent, ServiceEventKind
from tunnelfleet.runtime.service.service import TunnelService
from tunnelfleet.runtime.service.state import StateError

from .model import LimitExceeded, ResourceNotFound, ServiceUnavailable, Throttled, ValidationFailed
from .records import DEFAULT_PAGE, RecordTable, Status, TunnelRecord

SECONDS_A_MINUTE: Final = 60
RESERVED_PREFIX: Final = "aws:"


MAX_LIFETIME_MINUTES: Final = 720
"""Of the model; the default too, as with AWS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagementLimits:
    """Limits of the management API.

    Attributes:
        open_tunnels: open at once.
        services: of one tunnel.
        tags: of one tunnel.
        opens_per_second: how often OpenTunnel may be called on average; None: as often as one
            likes.
        bandwidth_bytes_per_second: of each direction of each tunnel that is opened so; None: that
            of the service.

    Raises:
        ConfigError: one is not above 0.
    """

    open_tunnels: int = 10_000
    services: int = 256
    tags: int = 50
    opens_per_second: float | None = None
    bandwidth_bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        if self.open_tunnels < 1:
            raise ConfigError(f"at least 1 tunnel may be open, not {self.open_tunnels}")


AWS_SERVICES: Final = 3


AWS_OPENS_PER_SECOND: Final = 1.0


AWS_BANDWIDTH: Final = 100_000.0
"""800 kbit/s."""


def aws_limits(open_tunnels: int = ManagementLimits().open_tunnels) -> ManagementLimits:
    """Return AWS's limits, as docs/protocol.md has them from its public pages."""
    return ManagementLimits(
        open_tunnels=open_tunnels,
        services=AWS_SERVICES,
        opens_per_second=AWS_OPENS_PER_SECOND,
        bandwidth_bytes_per_second=AWS_BANDWIDTH,
    )


class Gate:
    """Lets calls pass at a rate.

    Args:
        per_second: the rate; None lets all pass.
    """

    def __init__(self, per_second: float | None) -> None:
        self._lock = threading.Lock()
        self._bucket = None
        if per_second is not None:
            self._bucket = TokenBucket(per_second, max(per_second, 1.0), time.monotonic())

    def pass_through(self, what: str) -> None:
        """Count a call.

        Raises:
            Throttled: there were too many.
        """
        if self._bucket is None:
            return
        now = time.monotonic()
        with self._lock:
            if self._bucket.wait_seconds(now, 1) > 0:
                raise Throttled(f"Rate exceeded for {what}")
            self._bucket.take(1, now)


def check_count(count: int, limit: int, what: str) -> None:
    """Raise LimitExceeded if there would be too many."""
    if count > limit:
        raise LimitExceeded(f"There may be at most {limit} {what}, not {count}")


class Notifier(Protocol):
    """Who tells a device of its tunnel; it does not block."""

    def notify(self, thing: str, access_token: str, services: Sequence[str]) -> None:
        """Tell a thing of the token with which its destination connects."""


ACCOUNT: Final = "000000000000"
"""There is but one; it stands where AWS has the number of the account."""
_TUNNEL_ID: Final = re.compile(r"[a-zA-Z0-9_\-+=:]{1,128}")
_MODES: Final[dict[str, tuple[Mode, ...]]] = {
    "SOURCE": (Mode.SOURCE,),
    "DESTINATION": (Mode.DESTINATION,),
    "ALL": (Mode.SOURCE, Mode.DESTINATION),
}


class ManagementOperations:
    """The operations over one service.

    Args:
        service: opens and closes tunnels, and says who is connected.
        records: what is told of tunnels.
        limits: how much there may be.
        region: what stands in ARNs.
        notifier: tells devices; None tells nobody.
    """

    def __init__(
        self,
        service: TunnelService,
        records: RecordTable,
        *,
        limits: ManagementLimits,
        region: str,
        notifier: Notifier | None = None,
    ) -> None:
        self._service = service
        self._records = records
        self._limits = limits
        self._region = region
        self._notifier = notifier
        self._opens = Gate(limits.opens_per_second)
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "OpenTunnel": self._open,
            "CloseTunnel": self._close,
            "DescribeTunnel": self._describe,
            "ListTunnels": self._list,
            "RotateTunnelAccessToken": self._rotate,
            "TagResource": self._tag,
            "UntagResource": self._untag,
            "ListTagsForResource": self._list_tags,
        }
        service.subscribe(self._on_event)
        self._agree()

    @property
    def names(self) -> tuple[str, ...]:
        """The operations that there are."""
        return tuple(self._operations)

    def call(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Do an operation; return the members of its output. Blocks.

        Raises:
            ApiError: it failed.
        """
        self._records.forget_old(time.time())
        try:
            return self._operations[name](given)
        except StateError as error:
            raise ServiceUnavailable(str(error)) from error
        except TimeoutError as error:
            raise ServiceUnavailable("the service is held up") from error

    def _agree(self) -> None:
        """Records and open tunnels may differ: a crash came between, or the command line opened."""
        names = set(self._service.open_names())
        now = time.time()
        for record in self._records:
            if record.status is Status.OPEN and record.tunnel_id not in names:
                self._records.close(record.tunnel_id, now)
        for name in sorted(names):
            self._know(name, now)
        self._records.forget_old(now)

    def _know(self, name: str, now: float) -> None:
        """Make a record of a tunnel that was opened otherwise, if its name can be an id."""
        known = self._records.find(name)
        if (known is None or known.status is Status.CLOSED) and _TUNNEL_ID.fullmatch(name):
            services = self._service.services(name)
            self._records.add(name, now, services=services or None)

    def _on_event(self, event: ServiceEvent) -> None:
        """Take note of what happened; on the service's thread."""
        if event.kind in {ServiceEventKind.CLIENT_CONNECTED, ServiceEventKind.CLIENT_DISCONNECTED}:
            if event.mode is not None:
                self._records.note_connection(event.tunnel, event.mode, event.time_seconds)
        elif event.kind is ServiceEventKind.TUNNEL_CLOSED:
            self._records.close(event.tunnel, event.time_seconds)
        elif event.kind is ServiceEventKind.TUNNEL_OPENED:
            with suppress(ConfigError):  # closed since
                self._know(event.tunnel, event.time_seconds)

    # the operations, in the order of the model

    def _close(self, given: dict[str, Any]) -> dict[str, Any]:
        record = self._records.get(given["tunnelId"])
        with suppress(ConfigError):  # closed already
            self._service.close_tunnel(record.tunnel_id)
        self._records.close(record.tunnel_id, time.time())
        if given.get("delete"):
            self._records.forget(record.tunnel_id)
        self._records.flush()
        return {}

    def _describe(self, given: dict[str, Any]) -> dict[str, Any]:
        record = self._records.get(given["tunnelId"])
        connected = {Mode.SOURCE: False, Mode.DESTINATION: False}
        with suppress(ConfigError):  # closed
            snapshot = self._service.tunnel(record.tunnel_id)
            connected[Mode.SOURCE] = snapshot.source_connected
            connected[Mode.DESTINATION] = snapshot.destination_connected
        tunnel: dict[str, Any] = {
            **self._summary(record),
            "sourceConnectionState": _connection(record, Mode.SOURCE, connected),
            "destinationConnectionState": _connection(record, Mode.DESTINATION, connected),
        }
        if record.services is not None:
            tunnel["destinationConfig"] = {"thingName": record.thing, "services": record.services}
        if record.lifetime_minutes is not None:
            tunnel["timeoutConfig"] = {"maxLifetimeTimeoutMinutes": record.lifetime_minutes}
        if record.tags:
            tunnel["tags"] = _tag_list(record.tags)
        return {"tunnel": tunnel}

    def _list_tags(self, given: dict[str, Any]) -> dict[str, Any]:
        record = self._resource(given["resourceArn"])
        return {"tags": _tag_list(record.tags)} if record.tags else {}

    def _list(self, given: dict[str, Any]) -> dict[str, Any]:
        found, next_token = self._records.page(
            given.get("thingName"), given.get("maxResults", DEFAULT_PAGE), given.get("nextToken")
        )
        summaries = [self._summary(record) for record in found]
        return {"tunnelSummaries": summaries, "nextToken": next_token}

    def _open(self, given: dict[str, Any]) -> dict[str, Any]:
        destination = given.get("destinationConfig", {})
        services = tuple(destination.get("services", ()))
        tags = _checked_tags(given.get("tags", ()))
        check_count(len(services), self._limits.services, "services of a tunnel")
        check_count(len(tags), self._limits.tags, "tags of a tunnel")
        check_count(self._records.open_count + 1, self._limits.open_tunnels, "open tunnels")
        self._opens.pass_through("OpenTunnel")
        minutes = given.get("timeoutConfig", {}).get(
            "maxLifetimeTimeoutMinutes", MAX_LIFETIME_MINUTES
        )
        record = self._records.add(
            str(uuid.uuid4()),
            time.time(),
            description=given.get("description"),
            thing=destination.get("thingName"),
            services=services or None,
            lifetime_minutes=minutes,
            tags=tags,
        )
        try:
            tokens = self._service.open_tunnel(
                record.tunnel_id,
                services,
                bandwidth_bytes_per_second=self._limits.bandwidth_bytes_per_second,
                lifetime_seconds=minutes * SECONDS_A_MINUTE,
            )
        except BaseException as error:
            # Its tokens are told to nobody, so nobody misses it.
            with suppress(ConfigError, StateError):
                self._service.close_tunnel(record.tunnel_id)
            self._records.forget(record.tunnel_id)
            if isinstance(error, ConfigError):
                raise ValidationFailed(str(error)) from error
            raise
        self._notify(record, tokens.destination_token)
        return {
            "tunnelId": record.tunnel_id,
            "tunnelArn": self._arn(record),
            "sourceAccessToken": tokens.source_token,
            "destinationAccessToken": tokens.destination_token,
        }

    def _new_tokens(
        self, tunnel_id: str, modes: Sequence[Mode], services: tuple[str, ...] | None
    ) -> TunnelTokens:
        check_count(len(services or ()), self._limits.services, "services of a tunnel")
        try:
            mode = modes[0] if len(modes) == 1 else None
            return self._service.rotate(tunnel_id, mode, services)
        except ConfigError as error:
            if tunnel_id not in self._service.open_names():
                raise ResourceNotFound(f"Tunnel {tunnel_id} is closed") from error
            raise ValidationFailed(str(error)) from error

    def _rotate(self, given: dict[str, Any]) -> dict[str, Any]:
        record = self._records.get(given["tunnelId"])
        modes = _MODES[given["clientMode"]]
        if record.status is Status.CLOSED:
            raise ResourceNotFound(f"Tunnel {record.tunnel_id} is closed")
        destination = given.get("destinationConfig")
        if destination is not None and Mode.DESTINATION not in modes:
            raise ValidationFailed("destinationConfig needs clientMode DESTINATION or ALL")
        services = None if destination is None else tuple(destination["services"])
        tokens = self._new_tokens(record.tunnel_id, modes, services)
        changes: dict[str, Any] = {"updated_at": time.time()}
        if destination is not None:
            changes |= {"services": services, "thing": destination.get("thingName", record.thing)}
        record = self._records.change(record.tunnel_id, **changes) or record
        self._records.flush()
        answer = {"tunnelArn": self._arn(record)}
        if Mode.SOURCE in modes:
            answer["sourceAccessToken"] = tokens.source_token
        if Mode.DESTINATION in modes:
            answer["destinationAccessToken"] = tokens.destination_token
            self._notify(record, tokens.destination_token)
        return answer

    def _tag(self, given: dict[str, Any]) -> dict[str, Any]:
        record = self._resource(given["resourceArn"])
        tags = {**record.tags, **_checked_tags(given["tags"])}
        if len(tags) > self._limits.tags:
            raise ValidationFailed(f"A tunnel has at most {counted(self._limits.tags, 'tag')}")
        self._records.change(record.tunnel_id, tags=tags)
        self._records.flush()
        return {}

    def _untag(self, given: dict[str, Any]) -> dict[str, Any]:
        record = self._resource(given["resourceArn"])
        gone = set(given["tagKeys"])
        tags = {key: value for key, value in record.tags.items() if key not in gone}
        self._records.change(record.tunnel_id, tags=tags)
        self._records.flush()
        return {}

    # what they share

    def _summary(self, record: TunnelRecord) -> dict[str, Any]:
        return {
            "tunnelId": record.tunnel_id,
            "tunnelArn": self._arn(record),
            "status": record.status.value,
            "description": record.description,
            "createdAt": record.created_at,
            "lastUpdatedAt": record.updated_at,
        }

    def _arn(self, record: TunnelRecord) -> str:
        return f"{self._arn_prefix}{record.tunnel_id}"

    @property
    def _arn_prefix(self) -> str:
        return f"arn:aws:iot:{self._region}:{ACCOUNT}:tunnel/"

    def _resource(self, arn: str) -> TunnelRecord:
        if not arn.startswith(self._arn_prefix):
            raise ResourceNotFound(f"there is no such resource; ARNs begin {self._arn_prefix}")
        return self._records.get(arn.removeprefix(self._arn_prefix))

    def _notify(self, record: TunnelRecord, destination_token: str) -> None:
        if self._notifier is not None and record.thing is not None:
            self._notifier.notify(record.thing, destination_token, record.services or ())


def _connection(
    record: TunnelRecord, mode: Mode, connected: Mapping[Mode, bool]
) -> dict[str, object]:
    return {
        "status": "CONNECTED" if connected[mode] else "DISCONNECTED",
        "lastUpdatedAt": record.connected_at.get(mode, record.created_at),
    }


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _checked_tags(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tag in tags:
        if tag["key"].lower().startswith(RESERVED_PREFIX):
            raise ValidationFailed(f"Tag keys must not begin with {RESERVED_PREFIX}")
        if tag["key"] in found:
            raise ValidationFailed("A tag key is there twice")
        found[tag["key"]] = tag["value"]
    return found
