"""What FleetActor says in the log, and how: one function for each thing that happens.

Owns the words, and the names and fields of the events that `--json` writes for programs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunnelfleet.runtime import ListenerClosed, ListenerOpened, TunnelState, TunnelStateChanged

from .reconcile import RunPhase

if TYPE_CHECKING:
    from .config import Problem
    from .messages import ReloadResult


TROUBLE = frozenset({TunnelState.REFUSED, TunnelState.QUARANTINED})

logger = logging.getLogger(__name__)


def log_state(event: TunnelStateChanged, phase: RunPhase | None) -> None:
    """A tunnel has another state."""
    level = logging.WARNING if event.state in TROUBLE else logging.INFO
    is_another_try = event.state is TunnelState.CONNECTING and event.reason
    if phase is RunPhase.STOPPING or is_another_try:
        # The way down, whose end is told; a try after a failure, which was told with its delay.
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


def log_listener_closed(event: ListenerClosed) -> None:
    """A source does not listen any more, or cannot; it tries again."""
    if not event.reason:
        return
    fields = {"service_id": event.service_id, "reason": event.reason}
    extra = {"tunnel": event.tunnel, "event": "listener_closed", "fields": fields}
    logger.warning("%s not listening: %s", event.service_id, event.reason, extra=extra)


LOGGED_PROBLEMS = 8
"""Mistakes in the files that the log shows; `check` shows all, and a reload answers them."""


def log_problems(problems: Sequence[Problem]) -> None:
    """What is wrong with the files, or worth a look."""
    for problem in problems[:LOGGED_PROBLEMS]:
        logger.log(logging.ERROR if problem.is_error else logging.WARNING, "%s", problem)
    if len(problems) > LOGGED_PROBLEMS:
        more = len(problems) - LOGGED_PROBLEMS
        logger.warning("and %d more like that: `tunnelfleet check` shows all", more)


def log_end(name: str) -> None:
    """A tunnel has ended, and its name is free."""
    logger.info("ended", extra={"tunnel": name, "event": "tunnel_ended"})


def log_reload(result: ReloadResult) -> None:
    """The files were read again."""
    if result.difference is None:
        logger.error(
            "the files have mistakes, and nothing was changed", extra={"event": "reload_failed"}
        )
        log_problems(result.problems)
        return
    logger.info(
        "the files are taken over: %s",
        result.difference,
        extra={"event": "reloaded", "fields": result.difference.to_json()},
    )
    log_problems(result.problems)
    for name in result.needs_restart:
        logger.warning("gateway.%s has changed; it is taken over at the next start", name)
