"""What the admin API says in the log: who has changed what."""

from __future__ import annotations

import logging

__all__ = ["log_change"]

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
