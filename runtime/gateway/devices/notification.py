"""A notification of a device's tunnel, and what connections tell NotifyActor.

Owns the topic and the payload that AWS publishes (docs/protocol.md section 6), within bounds. No
repr and no error shows the token.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from tunnelfleet.proto import ConfigError, validate_access_token
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings

MAX_PAYLOAD_BYTES: Final = 16_384
"""A token has some 4,000 characters at most, and a tunnel of AWS three services."""
MAX_SERVICES: Final = 16
"""Services of one notification."""
MAX_SERVICE_CHARACTERS: Final = 128
_HEAD: Final = "$aws/things/"
_TAIL: Final = "/tunnels/notify"
_MODE: Final = "destination"
_REGION: Final = re.compile(r"[a-z0-9-]{0,64}")


class BadNotification(ValueError):  # noqa: N818 - says what was found
    """It is no notification; the text says why, and has nothing of it."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A device is told of a tunnel.

    Attributes:
        thing: the device.
        access_token: of the destination.
        services: of the tunnel; empty for one without service ids.
        region: of AWS; may be one that AWS does not have, or empty.
    """

    thing: str
    access_token: str = field(repr=False)
    services: tuple[str, ...]
    region: str

    @property
    def token_hash(self) -> str:
        """Of the token: what tells a duplicate, and tells nothing of the token."""
        return hashlib.sha256(self.access_token.encode()).hexdigest()


def topic_of(thing: str) -> str:
    """Where the notifications of a thing are published."""
    return f"{_HEAD}{thing}{_TAIL}"


def thing_of(topic: str) -> str | None:
    """The thing of a topic; None for another topic."""
    if not topic.startswith(_HEAD) or not topic.endswith(_TAIL):
        return None
    thing = topic[len(_HEAD) : -len(_TAIL)]
    return thing if thing and "/" not in thing else None


def parse_notification(thing: str, payload: bytes) -> Notification:
    """Read the payload of a notification.

    Args:
        thing: of the topic.
        payload: what was published.

    Raises:
        BadNotification: it is none.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise BadNotification(f"it has {len(payload)} bytes, and at most {MAX_PAYLOAD_BYTES} count")
    try:
        found = json.loads(payload.decode())
    except (ValueError, RecursionError):
        raise BadNotification("it is no JSON") from None
    if not isinstance(found, dict):
        raise BadNotification("it is no JSON object")
    if found.get("clientMode") != _MODE:
        raise BadNotification(f'its clientMode is not "{_MODE}"')
    return Notification(thing, _token(found), _services(found), _region(found))


def _token(found: dict[str, Any]) -> str:
    token = found.get("clientAccessToken")
    if not isinstance(token, str):
        raise BadNotification("its clientAccessToken is no text")
    try:
        return validate_access_token(token)
    except ConfigError:
        raise BadNotification("its clientAccessToken is none") from None


def _services(found: dict[str, Any]) -> tuple[str, ...]:
    given = found.get("services", [])
    if not isinstance(given, list) or len(given) > MAX_SERVICES:
        raise BadNotification(f"its services are no list of at most {MAX_SERVICES}")
    for each in given:
        if not isinstance(each, str) or not 0 < len(each) <= MAX_SERVICE_CHARACTERS:
            raise BadNotification("one of its services is no name")
        if not each.isprintable():
            raise BadNotification("one of its services has characters that no name has")
    return tuple(dict.fromkeys(given))


def _region(found: dict[str, Any]) -> str:
    region = found.get("region", "")
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise BadNotification("its region is none")
    return region


class TellsArrivals(Protocol):
    """A connection to a broker, as its owner knows it."""

    settings: BrokerSettings
    client_id: str

    def done(self, arrived: Arrived) -> None:
        """A message was dealt with, and need not be told again."""


class Arrived(NamedTuple):
    """A message has come; its owner answers with `done`.

    `notification` is None if it is none, and `problem` says why then.
    """

    connection: TellsArrivals
    epoch: int
    mid: int
    qos: int
    thing: str
    notification: Notification | None
    problem: str


class ConnectionChanged(NamedTuple):
    """A connection is up, has all its subscriptions, or is lost."""

    connection: TellsArrivals
    is_up: bool
    subscribed: int
    reason: str


class SubscriptionRefused(NamedTuple):
    """The broker does not grant subscriptions: of which things, and why for the first."""

    connection: TellsArrivals
    things: tuple[str, ...]
    reason: str
