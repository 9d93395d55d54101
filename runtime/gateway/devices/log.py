"""What NotifyActor says in the log, and how: one function for each thing that happens.

Owns the words, and the names and fields of the events that `--json` writes for programs. No line
has a token, and whoever may publish at a broker gets a few lines a minute.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import counted, printable

from .book import Decision, DeviceTunnel, Verdict
from .notification import Arrived, ConnectionChanged, Notification, SubscriptionRefused

if TYPE_CHECKING:
    from .state import DeviceState


LISTED_THINGS = 3
MAX_NAMES = 200

_WORDS = {
    Verdict.OPENED: "a tunnel is opened for %s",
    Verdict.TAKES_OVER: "the token of a tunnel of %s was rotated; the new one takes it over",
    Verdict.DUPLICATE: "%s was told of a tunnel again",
    Verdict.REFUSED: "%s was told of a tunnel of which it carries nothing",
    Verdict.UNKNOWN_THING: "%s was told of a tunnel, and is in no [[notify]]",
    Verdict.INVALID: "%s was told of a tunnel that cannot be opened",
    Verdict.TOO_MANY: "%s was told of one tunnel too many",
}
_QUIET = (Verdict.OPENED, Verdict.TAKES_OVER, Verdict.DUPLICATE)

logger = logging.getLogger(__name__)


def log_notification(
    state: DeviceState, notification: Notification, broker: str, decision: Decision
) -> None:
    """A notification has come."""
    outcome, thing = decision.outcome, notification.thing
    held = 0
    if outcome not in (Verdict.OPENED, Verdict.TAKES_OVER):
        told = state.seldom.ask((outcome, thing), time.monotonic())
        if told is None:
            return
        held = told
    text = _WORDS[outcome]
    if decision.reason:
        text += f": {decision.reason}"
    if decision.refused:
        names = printable(", ".join(each or '""' for each in decision.refused), MAX_NAMES)
        text += f"; not in the allow-list: {names}"
    if held:
        text += f" (and {counted(held, 'time')} more)"
    tunnel = decision.tunnel
    fields = {
        "outcome": outcome.value,
        "thing": thing,
        "broker": broker,
        "services": list(notification.services),
        "refused": list(decision.refused),
    }
    extra: dict[str, Any] = {"event": "notification", "fields": fields}
    if tunnel is not None:
        extra["tunnel"] = tunnel.name
    is_good = outcome in _QUIET and not decision.refused
    logger.log(logging.INFO if is_good else logging.WARNING, text, thing, extra=extra)


def log_wrong(state: DeviceState, arrived: Arrived) -> None:
    """Something has come that is no notification."""
    broker = str(arrived.connection.settings)
    held = state.seldom.ask(("wrong", broker), time.monotonic())
    if held is None:
        return
    more = f" (and {counted(held, 'time')} more)" if held else ""
    fields = {
        "outcome": Verdict.INVALID.value,
        "thing": arrived.thing,
        "broker": broker,
    }
    logger.warning(
        "what %s got from %s is no notification: %s%s",
        arrived.thing,
        broker,
        arrived.problem,
        more,
        extra={"event": "notification", "fields": fields},
    )


def log_broker(state: DeviceState, changed: ConnectionChanged) -> None:
    """A connection to a broker is up, has subscriptions, or is lost."""
    connection = changed.connection
    broker = str(connection.settings)
    fields = {"broker": broker, "client_id": connection.client_id}
    if not changed.is_up:
        if state.seldom.ask(("lost", connection.client_id, broker), time.monotonic()) is None:
            return
        logger.warning(
            "the broker %s is away, and is tried again: %s",
            broker,
            changed.reason,
            extra={"event": "broker_lost", "fields": {**fields, "reason": changed.reason}},
        )
    elif changed.subscribed:
        logger.info(
            "the broker %s tells %s tunnels",
            broker,
            counted(changed.subscribed, "thing", "of its", "of their"),
            extra={
                "event": "broker_subscribed",
                "fields": {**fields, "things": changed.subscribed},
            },
        )
    else:
        logger.info(
            "the broker %s is there", broker, extra={"event": "broker_connected", "fields": fields}
        )


def log_subscriptions(state: DeviceState, refused: SubscriptionRefused) -> None:
    """A broker does not let this gateway listen for things."""
    broker = str(refused.connection.settings)
    if state.seldom.ask(("subscriptions", broker), time.monotonic()) is None:
        return
    things = ", ".join(refused.things[:LISTED_THINGS])
    more = len(refused.things) - LISTED_THINGS
    logger.error(
        "the broker %s does not tell what %s%s is told: %s; may this client subscribe to "
        "$aws/things/THING/tunnels/notify? It is tried again",
        broker,
        things,
        f" and {more} more" if more > 0 else "",
        refused.reason,
        extra={
            "event": "subscription_refused",
            "fields": {"broker": broker, "things": list(refused.things)},
        },
    )


def log_kept(state: DeviceState, failure: str | None) -> None:
    """A token is in the state, or could not be put there; told when that changes."""
    if failure is not None and state.is_keeping:
        state.is_keeping = False
        logger.error(
            "the token of a device's tunnel cannot be kept, so it would not outlive this process; "
            "it is tried again: %s",
            failure,
        )
    elif failure is None and not state.is_keeping and not state.unsaved:
        state.is_keeping = True
        logger.warning("the tokens of all tunnels of devices are kept again")


def log_end(tunnel: DeviceTunnel, reason: str) -> None:
    """A tunnel of a device is over."""
    logger.info(
        "the tunnel of %s is over, and its token forgotten: %s",
        tunnel.notification.thing,
        reason,
        extra={
            "tunnel": tunnel.name,
            "event": "device_tunnel_ended",
            "fields": {"thing": tunnel.notification.thing, "reason": reason},
        },
    )
