"""What the admin API says in the log: who has changed what."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["log_change", "log_changes"]

LOGGED_NAMES = 100
"""Of several tunnels that were changed at once."""

logger = logging.getLogger(__name__)


def log_change(name: str, what: str, who: str) -> None:
    """Somebody has changed a tunnel.

    Args:
        name: of the tunnel.
        what: was done to it, a verb of the past.
        who: did it.
    """
    fields = {"action": what, "by": who}
    extra = {"tunnel": name, "event": "changed_by_api", "fields": fields}
    logger.info("%s through the admin API by %s", what, who, extra=extra)


def log_changes(names: Sequence[str], what: str, who: str) -> None:
    """Somebody has changed several tunnels at once: one line, however many.

    Args:
        names: of the tunnels.
        what: was done to them, a verb of the past.
        who: did it.
    """
    if len(names) == 1:
        log_change(names[0], what, who)
        return
    fields = {
        "action": what,
        "by": who,
        "count": len(names),
        "tunnels": list(names[:LOGGED_NAMES]),
    }
    extra = {"event": "changed_by_api", "fields": fields}
    logger.info("%d tunnels %s through the admin API by %s", len(names), what, who, extra=extra)
