"""What FleetActor says in the log, and how: one function for each thing that happens.

Owns the words, and the names and fields of the events that `--json` writes for programs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tunnelfleet.runtime import TunnelState

from .reconcile import Phase

if TYPE_CHECKING:
    from tunnelfleet.runtime import ListenerOpened, TunnelStateChanged

    from .messages import ReloadResult

__all__ = ["log_end", "log_listener", "log_reload", "log_state"]

LOGGED_PROBLEMS = 20
"""Mistakes in the files that the log shows; a reload answers all of them."""
TROUBLE = frozenset({TunnelState.REFUSED, TunnelState.QUARANTINED})

logger = logging.getLogger(__name__)


def log_state(event: TunnelStateChanged, phase: Phase | None) -> None:
    """A tunnel has another state."""
    level = logging.WARNING if event.state in TROUBLE else logging.INFO
    if phase is Phase.STOPPING:
        # The way down; its end is told.
        level = logging.DEBUG
    text = f"{event.state}: {event.reason}" if event.reason else str(event.state)
    fields = {"state": event.state.value, "reason": event.reason}
    extra = {"tunnel": event.tunnel, "event": "tunnel_state_changed", "fields": fields}
    logger.log(level, "%s", text, extra=extra)


def log_listener(event: ListenerOpened) -> None:
    """A source listens."""
    fields = {"service_id": event.service_id, "address": str(event.address)}
    extra = {"tunnel": event.tunnel, "event": "listener_opened", "fields": fields}
    logger.info("%s listening on %s", event.service_id, event.address, extra=extra)


def log_end(name: str) -> None:
    """A tunnel has ended, and its name is free."""
    logger.info("ended", extra={"tunnel": name, "event": "tunnel_ended"})


def log_reload(result: ReloadResult) -> None:
    """The files were read again."""
    if result.difference is None:
        logger.error(
            "the files have mistakes, and nothing was changed", extra={"event": "reload_failed"}
        )
        for problem in result.problems[:LOGGED_PROBLEMS]:
            logger.error("%s", problem)
        return
    logger.info(
        "the files are taken over: %s",
        result.difference,
        extra={"event": "reloaded", "fields": result.difference.to_json()},
    )
    for problem in result.problems[:LOGGED_PROBLEMS]:
        logger.warning("%s", problem)
    for name in result.needs_restart:
        logger.warning("gateway.%s has changed; it is taken over at the next start", name)
