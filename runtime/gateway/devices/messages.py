"""What the connections to brokers tell NotifyActor.

Owns the messages, apart from the connections, which need paho-mqtt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.config.devices import BrokerSettings

    from .notification import Notification

__all__ = ["Arrived", "ConnectionChanged", "SubscriptionRefused", "TellsArrivals"]


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
