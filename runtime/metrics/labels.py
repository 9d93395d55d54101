"""Label values that come from a peer or a service: kept few, short and printable.

Owns the admission of values. A value once admitted stays so, and one that was turned away too, so
that a count never moves from one series to another.
"""

from __future__ import annotations

import threading
from typing import Final

from tunnelfleet.actors.counters import OTHER
from tunnelfleet.proto import printable

__all__ = ["MAX_LABEL_LENGTH", "MAX_SERVICE_IDS", "NO_SERVICE", "OTHER", "LabelCap"]

NO_SERVICE: Final = "(none)"
"""Stands for the service of a V1 tunnel, which has no id; an empty label is none to Prometheus."""
MAX_SERVICE_IDS: Final = 64
"""Distinct service ids in the metrics of a runtime."""
MAX_LABEL_LENGTH: Final = 64


class LabelCap:
    """Admits the first `limit` distinct values; all others become `OTHER`. Any thread.

    Args:
        limit: how many.
        empty: what an empty value becomes.
    """

    def __init__(self, limit: int, empty: str = OTHER) -> None:
        self._limit = limit
        self._empty = empty
        self._labels: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        """The label for `value`."""
        label = self._labels.get(value)
        return label if label is not None else self._admit(value)

    def _admit(self, value: str) -> str:
        with self._lock:
            if value in self._labels:
                return self._labels[value]
            if len(self._labels) >= self._limit:
                return OTHER
            self._labels[value] = label = self._clean(value)
            return label

    def _clean(self, value: str) -> str:
        return printable(value[:MAX_LABEL_LENGTH], MAX_LABEL_LENGTH, mark="?") or self._empty
