"""The metrics of the state and of the audit.

Owns their names and help; what they count is counted in plain integers by its owners.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from .writer import AuditWriter

__all__ = ["STORE_METRICS", "StoreCounters", "store_metrics"]

OPERATIONS = ("open", "tunnels", "devices", "demands", "audit")
ERRORS = "tunnelfleet_store_errors"
_HELP = {
    "tunnelfleet_store_ready": "Whether the state was reached and read since the start.",
    ERRORS: "Operations on the state that failed, those that were tried again counted again.",
    "tunnelfleet_audit_records": "Records that were written into the audit.",
    "tunnelfleet_audit_dropped": "Records that were not: the queue was full, or the end came.",
    "tunnelfleet_audit_queue_records": "Records that wait to be written.",
    "tunnelfleet_audit_stopped": "Whether the audit stands because the state takes nothing.",
}
STORE_METRICS = frozenset(_HELP)
"""The names of all; those of counters get `_total`."""


class StoreCounters:
    """Failures by operation; counted on several threads, and rarely."""

    def __init__(self) -> None:
        self.errors = dict.fromkeys(OPERATIONS, 0)
        self._lock = threading.Lock()

    def failed(self, operation: str) -> None:
        """Count an operation that has failed."""
        with self._lock:
            self.errors[operation] += 1


def store_metrics(
    counters: StoreCounters, writer: AuditWriter, *, is_ready: bool
) -> Iterator[Metric]:
    """Yield the families of a store.

    Args:
        counters: of its operations.
        writer: of its audit.
        is_ready: whether it was reached.
    """
    errors = CounterMetricFamily(ERRORS, _HELP[ERRORS], labels=["operation"])
    for operation, count in counters.errors.items():
        others = writer.failures if operation == "audit" else 0
        errors.add_metric([operation], count + others)
    yield errors
    for name, count in (
        ("tunnelfleet_audit_records", writer.written),
        ("tunnelfleet_audit_dropped", writer.dropped),
    ):
        yield CounterMetricFamily(name, _HELP[name], value=count)
    for name, value in (
        ("tunnelfleet_store_ready", float(is_ready)),
        ("tunnelfleet_audit_queue_records", float(writer.waiting)),
        ("tunnelfleet_audit_stopped", float(writer.stands_since is not None)),
    ):
        yield GaugeMetricFamily(name, _HELP[name], value=value)
