"""The threads that run users' callbacks, and the queues that keep each tunnel's events in order.

Owns the threads: they start when there is something to do, one more while all others are held up by
callbacks that block, and end when idle. Owns the bounded queue of one tunnel, on which at most one
thread works at a time, and its counters. It knows neither events nor tunnels.
"""

from __future__ import annotations

import itertools
import threading
import time
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tunnelfleet.proto import counted

from .kernel.counting import counter
from .kernel.log import get_logger

CALLBACKS: Final = "Callbacks"


@dataclass(slots=True, eq=False)
class CallbackCounts:
    """What became of events that callbacks are told, and of the callbacks."""

    events: int = counter("Events that callbacks have taken.", CALLBACKS, metric="callback_events")
    errors: int = counter("Exceptions that callbacks raised.", CALLBACKS, metric="callback_errors")
    slow: int = counter(
        "Callbacks that took longer than a second.", CALLBACKS, metric="slow_callbacks"
    )
    stalls: int = counter(
        "Times the reading of a tunnel was held back because its callbacks did not keep up.",
        CALLBACKS,
        metric="callback_stalls",
    )
    dropped: int = counter(
        "Events that were dropped because a tunnel's callbacks did not keep up.",
        CALLBACKS,
        metric="dropped_events",
    )


class CallbackTotals(CallbackCounts):
    """The sums over all queues of a runtime, those that have ended too. Any thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def add(self, name: str, number: int = 1) -> None:
        """Add to the attribute of that name."""
        with self._lock:
            setattr(self, name, getattr(self, name) + number)


class CallbackStats(CallbackCounts):
    """What happened to a tunnel's callbacks. Written by the queue, read by anyone.

    Args:
        totals: what counts the same for all queues.
    """

    __slots__ = ("_totals",)

    def __init__(self, totals: CallbackTotals | None = None) -> None:
        super().__init__()
        self._totals = totals or CallbackTotals()

    def settle(self, events: int) -> None:
        """Add so many events to the totals; `events` has counted them already, one by one."""
        self._totals.add("events", events)

    def add(self, name: str) -> None:
        """Add one to the attribute of that name, here and in the totals."""
        setattr(self, name, getattr(self, name) + 1)
        self._totals.add(name)


MAX_RELAY_THREADS = 32
"""Threads for callbacks, when that many block at once."""
PARALLEL_QUEUES = 2
"""Queues worked on at once while no callback blocks; more would wait for the interpreter."""
BLOCKED_SECONDS = 0.01
"""A callback that takes longer does not count as working: another queue may have its turn."""
SLICE_SECONDS = 0.005
"""A queue that has more to do gives way to others after this time."""
IDLE_SECONDS = 5.0
"""An idle thread ends after this time."""
SLOW_CALLBACK_SECONDS = 1.0
"""A callback that takes longer is counted and logged."""
EVENT_COST_BYTES = 256
"""What an event costs beside its payload, about."""
HARD_LIMIT_FACTOR = 4
"""A queue takes so many times its limit at the most, then drops what can be dropped."""
LOGGED_ERRORS = 10
"""Exceptions of one queue that are logged each; then every `LOG_EVERY`th is."""
LOG_EVERY = 1_000

logger = get_logger(__name__)


class CallbackQueue:
    """The events of one tunnel on their way to its callbacks, in order.

    `put` is for one thread at a time, that of the tunnel's actors; it never blocks.

    Args:
        threads: that run it.
        name: of the tunnel, for logs.
        handle: called with each event on one of the threads.
        limit_bytes: above it the queue is full: whoever puts events should stop.
    """

    def __init__(
        self,
        threads: RelayThreads,
        name: str,
        handle: Callable[[Any], object],
        limit_bytes: int,
    ) -> None:
        self.name = name
        self.stats = CallbackStats(threads.totals)
        self._threads = threads
        self._handle = handle
        self._limit_bytes = limit_bytes
        self._items: deque[tuple[Callable[[Any], object], Any, int]] = deque()
        # Each has one writer: no lock for an event.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._room_wanted: Callable[[], object] | None = None
        self._parked = False
        self._thread_id = 0
        self.is_scheduled = False
        """For RelayThreads: in its queue or being worked on."""

    @property
    def queued_bytes(self) -> int:
        """What waits, with `EVENT_COST_BYTES` for each event."""
        return self._put_bytes - self._taken_bytes

    @property
    def is_full(self) -> bool:
        """Whether no more should be put for now."""
        return self._put_bytes - self._taken_bytes > self._limit_bytes

    @property
    def has_work(self) -> bool:
        """Whether a thread should work on it."""
        return bool(self._items) and not self._parked and not self._threads.is_abandoned

    @property
    def runs_here(self) -> bool:
        """Whether the calling thread is running one of its callbacks."""
        return self._thread_id == get_ident()

    def put(self, event: Any, payload_bytes: int = 0, *, may_drop: bool = False) -> None:
        """Queue an event.

        Args:
            event: for `handle`.
            payload_bytes: that it keeps in memory.
            may_drop: drop it rather than queue far more than the limit.
        """
        size_bytes = payload_bytes + EVENT_COST_BYTES
        if may_drop and self.queued_bytes > HARD_LIMIT_FACTOR * self._limit_bytes:
            self.stats.add("dropped")
            return
        self._put_bytes += size_bytes
        self._items.append((self._handle, event, size_bytes))
        if not self.is_scheduled:
            self._threads.schedule(self)

    def call(self, function: Callable[[Any], object], argument: Any) -> None:
        """Queue a call behind the events that wait. Any thread."""
        self._items.append((function, argument, 0))
        if not self.is_scheduled:
            self._threads.schedule(self)

    def when_room(self, function: Callable[[], object]) -> bool:
        """Have `function()` called once half of a full queue is taken; False if it is not full."""
        self._room_wanted = function
        # Looked at again: the last of it may have been taken before the line above.
        if self.is_full:
            return True
        self._room_wanted = None
        return False

    def park(self) -> None:
        """Take no more events from the queue until `unpark`; called by a full `handle`."""
        self._parked = True

    def unpark(self) -> None:
        """Go on. Any thread."""
        self._parked = False
        if self._items and not self.is_scheduled:
            self._threads.schedule(self)

    def work(self, worker: _Worker) -> None:
        """Run callbacks for a slice of time; for RelayThreads."""
        self._thread_id = get_ident()
        items, stats = self._items, self.stats
        now = worker.since
        deadline = now + SLICE_SECONDS
        events_before = stats.events
        while items and not self._parked and not self._threads.is_abandoned:
            function, argument, size_bytes = items.popleft()
            worker.since = now
            try:
                function(argument)
            except BaseException as error:  # noqa: BLE001 - a user's callback, whatever it does
                self._note_error(argument, error)
            stats.events += 1
            self._taken_bytes += size_bytes
            started, now = now, time.monotonic()
            if now - started > SLOW_CALLBACK_SECONDS:
                self._note_slow(argument, now - started)
            if self._room_wanted is not None and self.queued_bytes <= self._limit_bytes // 2:
                self._tell_room()
            if now > deadline:
                break
        stats.settle(stats.events - events_before)
        self._thread_id = 0

    def _tell_room(self) -> None:
        function, self._room_wanted = self._room_wanted, None
        if function is not None:
            function()

    def _note_error(self, argument: Any, error: BaseException) -> None:
        self.stats.add("errors")
        errors = self.stats.errors
        if errors <= LOGGED_ERRORS or errors % LOG_EVERY == 0:
            logger.error(
                "tunnel %r: a callback raised on %s (%d so far)",
                self.name,
                type(argument).__name__,
                errors,
                exc_info=error,
            )

    def _note_slow(self, argument: Any, seconds: float) -> None:
        self.stats.add("slow")
        logger.warning(
            "tunnel %r: a callback took %.1f s for %s; the tunnel's other events waited",
            self.name,
            seconds,
            type(argument).__name__,
        )


class _Worker:
    """One of the threads, as the others see it."""

    __slots__ = ("since", "thread")

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.since = 0.0


class RelayThreads:
    """Runs queues on as many threads as it takes, one while callbacks do not block.

    Args:
        name: of the threads, before their number.
        max_threads: the most there may be.
        totals: counts what happens in all queues.
    """

    def __init__(
        self,
        name: str = "tunnelfleet-events",
        max_threads: int = MAX_RELAY_THREADS,
        totals: CallbackTotals | None = None,
    ) -> None:
        self.totals = totals or CallbackTotals()
        self._name = name
        self._max_threads = max_threads
        self._numbers = itertools.count(1)
        self._condition = threading.Condition()
        self._ready: deque[CallbackQueue] = deque()
        self._workers: set[_Worker] = set()
        self._busy: set[_Worker] = set()
        self._idle = 0
        self._is_watched = False
        """An idle thread looks after the busy ones."""
        self._closed = False
        self.is_abandoned = False
        """Set when nobody waits for the queues any more; the threads end."""

    @property
    def thread_count(self) -> int:
        """The threads there are now."""
        return len(self._workers)

    @property
    def runs_here(self) -> bool:
        """Whether the calling thread is one of them."""
        here = threading.current_thread()
        with self._condition:
            return any(worker.thread is here for worker in self._workers)

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more queues."""
        return self._closed

    def queue(self, name: str, handle: Callable[[Any], object], limit_bytes: int) -> CallbackQueue:
        """Make a queue that runs here."""
        return CallbackQueue(self, name, handle, limit_bytes)

    def schedule(self, queue: CallbackQueue) -> None:
        """Have a thread work on a queue that has something."""
        with self._condition:
            if queue.is_scheduled or not queue.has_work:
                return
            queue.is_scheduled = True
            self._ready.append(queue)
            if self._idle:
                self._condition.notify()
            else:
                self._add_thread()

    def _add_thread(self) -> None:
        if len(self._workers) >= self._max_threads or self._idle:
            return
        if self._closed and self._workers:
            return
        name = f"{self._name}-{next(self._numbers)}"
        worker = _Worker()
        worker.thread = threading.Thread(target=self._run, args=(worker,), name=name, daemon=True)
        self._workers.add(worker)
        self._idle += 1
        worker.thread.start()

    def _run(self, worker: _Worker) -> None:
        with self._condition:
            while (queue := self._next(worker)) is not None:
                self._condition.release()
                try:
                    queue.work(worker)
                finally:
                    self._condition.acquire()
                self._busy.discard(worker)
                self._idle += 1
                # What is put from here on schedules it anew; what was put before is seen here.
                queue.is_scheduled = False
                if queue.has_work:
                    queue.is_scheduled = True
                    self._ready.append(queue)
            self._workers.discard(worker)
            self._idle -= 1
            self._condition.notify_all()

    def _next(self, worker: _Worker) -> CallbackQueue | None:
        """Wait for a queue to work on; None: the thread is not needed any more."""
        ends_at = time.monotonic() + IDLE_SECONDS
        while True:
            now = time.monotonic()
            if self.is_abandoned:
                return None
            if self._ready and self._may_work(now):
                return self._take(worker, now)
            is_spare = bool(self._busy) and self._idle == 1 and not self._closed
            if not self._ready and not is_spare and (self._closed or now >= ends_at):
                return None
            self._wait(ends_at - now)

    def _take(self, worker: _Worker, now: float) -> CallbackQueue:
        queue = self._ready.popleft()
        worker.since = now
        self._busy.add(worker)
        self._idle -= 1
        if self._idle:
            # Somebody has to look after this one, and may take the next queue.
            self._condition.notify()
        else:
            self._add_thread()
        return queue

    def _wait(self, idle_seconds: float) -> None:
        if self._is_watched or not (self._busy or self._ready):
            self._condition.wait(max(idle_seconds, BLOCKED_SECONDS))
            return
        self._is_watched = True
        try:
            self._condition.wait(BLOCKED_SECONDS)
        finally:
            self._is_watched = False

    def _may_work(self, now: float) -> bool:
        working = sum(1 for busy in self._busy if now - busy.since < BLOCKED_SECONDS)
        return working < PARALLEL_QUEUES

    def close(self, timeout_seconds: float) -> int:
        """Run what is queued, end the threads; returns how many are still held up by callbacks."""
        deadline = time.monotonic() + timeout_seconds
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            here = threading.current_thread()
            workers = [worker for worker in self._workers if worker.thread is not here]
        for worker in workers:
            worker.thread.join(max(deadline - time.monotonic(), 0.0))
        left = sum(1 for worker in workers if worker.thread.is_alive())
        if left:
            with self._condition:
                self.is_abandoned = True
                self._condition.notify_all()
            text = counted(left, "callback", "is left behind", "are left behind")
            logger.warning("%s: no return in time", text)
        return left
