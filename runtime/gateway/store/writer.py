"""The thread that writes the audit: a bounded queue in, batches into the database; and its figures.

Owns the queue and what happens when the database does not take what comes: records wait, then are
dropped and counted; one line in the log says that the audit stands, and one that it goes on. Nobody
who hands a record over ever waits. Owns also the metrics of the state and of the audit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from tunnelfleet.proto import counted

from .errors import StoreError, Trouble

if TYPE_CHECKING:
    from .audit import AuditRecord


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


QUEUE_RECORDS = 20_000
"""How many records may wait; more are dropped."""
BATCH_RECORDS = 1_000
"""How many records one transaction writes."""
BATCH_SECONDS = 0.5
"""How long a record waits for others to be written with it."""
RETRY_SECONDS = 2.0
"""The wait after the first failure; it doubles up to the next constant."""
MAX_RETRY_SECONDS = 30.0
UPKEEP_SECONDS = 60.0
"""How often the bounds of the audit are looked after."""
CLOSE_SECONDS = 10.0
"""How long the end takes at most: records that are not written by then are lost."""

logger = logging.getLogger(__name__)


class AuditWriter:
    """Writes records on a thread of its own.

    Args:
        begin: called on the thread before the first batch, and again after it failed.
        write: writes a batch, all or nothing.
        upkeep: called on the thread now and then.

    All three raise `StoreError`, and are called again later.
    """

    def __init__(
        self,
        begin: Callable[[], None],
        write: Callable[[Sequence[AuditRecord]], None],
        upkeep: Callable[[], None],
    ) -> None:
        self._begin = begin
        self._write = write
        self._upkeep = upkeep
        self._records: deque[AuditRecord] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._is_at_work = False
        self._has_begun = False
        self._flushes = 0
        self._lost_before = 0
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-store", daemon=True)
        self.written = 0
        """Records that were written, those told again counted again."""
        self.dropped = 0
        """Records that were lost: the queue was full, or the end came."""
        self.failures = 0
        """Attempts that failed."""
        self.stands_since: float | None = None
        """Since when nothing can be written, in monotonic seconds."""

    @property
    def waiting(self) -> int:
        """Records in the queue."""
        return len(self._records)

    def start(self, *, is_down: bool = False) -> None:
        """Start the thread.

        Args:
            is_down: the database was not there a moment ago, and the log says so already.
        """
        if is_down:
            self.stands_since = time.monotonic()
        self._thread.start()

    def put(self, record: AuditRecord) -> None:
        """Queue a record to be written soon; never waits."""
        with self._changed:
            if len(self._records) >= QUEUE_RECORDS or self._stop.is_set():
                self.dropped += 1
                return
            self._records.append(record)
            if len(self._records) in (1, BATCH_RECORDS):
                self._changed.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until what was put is written; return whether it is."""
        with self._changed:
            self._flushes += 1
            self._changed.notify_all()
            is_written = self._changed.wait_for(self._is_idle, timeout_seconds)
            self._flushes -= 1
            return is_written

    def _is_idle(self) -> bool:
        return self.stands_since is not None or not (self._records or self._is_at_work)

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Write what waits, if that works at once, and end the thread."""
        before = self.dropped
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        self._lose(self._forget())
        lost = self.dropped - before
        if lost:
            text = counted(lost, "record", "of the audit was", "of the audit were")
            logger.warning("%s not written before the end", text)

    # -- on the thread

    def _run(self) -> None:
        next_upkeep, retry_seconds = time.monotonic(), RETRY_SECONDS
        while True:
            batch = self._take(next_upkeep)
            if batch:
                self._keep_trying(batch)
            elif self._stop.is_set():
                return
            if time.monotonic() >= next_upkeep and not self._stop.is_set():
                if self._keep_up():
                    wait_seconds, retry_seconds = UPKEEP_SECONDS, RETRY_SECONDS
                else:
                    # There may be nothing to write, and others wait for the database too.
                    wait_seconds = retry_seconds
                    retry_seconds = min(2 * retry_seconds, MAX_RETRY_SECONDS)
                next_upkeep = time.monotonic() + wait_seconds

    def _take(self, until: float) -> list[AuditRecord]:
        """Return the next batch; an empty one when it is time for other things."""
        with self._changed:
            self._is_at_work = False
            self._changed.notify_all()
            if not self._records:
                self._changed.wait_for(self._has_work, max(0.0, until - time.monotonic()))
            if self._records:
                self._changed.wait_for(self._is_full, BATCH_SECONDS)
            count = min(len(self._records), BATCH_RECORDS)
            self._is_at_work = count > 0
            return [self._records.popleft() for _ in range(count)]

    def _has_work(self) -> bool:
        return bool(self._records) or self._stop.is_set()

    def _is_full(self) -> bool:
        has_reason = self._flushes > 0 or self._stop.is_set()
        return has_reason or len(self._records) >= BATCH_RECORDS

    def _keep_trying(self, batch: Sequence[AuditRecord]) -> None:
        delay_seconds = RETRY_SECONDS
        while True:
            try:
                self._begin_once()
                self._write(batch)
            except StoreError as error:
                if error.trouble is Trouble.BAD_DATA:
                    self.failures += 1
                    text = counted(len(batch), "record")
                    logger.error("%s of the audit cannot be written: %s", text, error)
                    self._lose(len(batch))
                    return
                self._failed(error)
            except Exception:
                # A mistake of ours: it must not end the audit, and it would be the same again.
                self.failures += 1
                logger.exception("%s of the audit cannot be written", counted(len(batch), "record"))
                self._lose(len(batch))
                return
            else:
                self.written += len(batch)
                self._goes_on()
                return
            if self._stop.is_set():
                self._lose(len(batch) + self._forget())
                return
            self._stop.wait(delay_seconds)
            delay_seconds = min(2 * delay_seconds, MAX_RETRY_SECONDS)

    def _begin_once(self) -> None:
        if not self._has_begun:
            self._begin()
            self._has_begun = True

    def _keep_up(self) -> bool:
        """Look after what is kept; return whether the database was there."""
        try:
            self._begin_once()
            self._upkeep()
        except StoreError as error:
            self._failed(error)
            return False
        except Exception:
            # As above: the audit is not ended by a mistake in what keeps it small.
            self.failures += 1
            logger.exception("the bounds of the audit cannot be looked after")
        else:
            self._goes_on()
        return True

    def _lose(self, count: int) -> None:
        with self._changed:
            self.dropped += count

    def _forget(self) -> int:
        """Empty the queue without writing; return how many records were in it."""
        with self._changed:
            count = len(self._records)
            self._records.clear()
        return count

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        if self.stands_since is not None:
            return
        self._lost_before = self.dropped
        with self._changed:
            self.stands_since = time.monotonic()
            self._changed.notify_all()
        logger.error(
            "the audit has stopped, and tunnels go on: %s",
            error,
            extra={"event": "audit_stopped"},
        )

    def _goes_on(self) -> None:
        since = self.stands_since
        if since is None:
            return
        self.stands_since = None
        logger.warning(
            "the audit goes on after %.0f s; %s lost",
            time.monotonic() - since,
            counted(self.dropped - self._lost_before, "record", "was", "were"),
            extra={"event": "audit_resumed"},
        )
