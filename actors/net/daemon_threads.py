"""A few threads for work that blocks, which hold up neither a stop nor the interpreter's exit.

Owns the threads. The standard library's pool joins its threads when the interpreter ends, and a
thread that waits for a name server cannot be interrupted: these are daemons, which the interpreter
leaves behind. It knows nothing of the work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from tunnelfleet.actors.kernel.log import get_logger

IDLE_SECONDS = 10.0
"""A thread without work ends after so long."""

logger = get_logger(__name__)


class DaemonThreads:
    """Runs jobs on daemon threads that are started when they are needed. Any thread may use it.

    Args:
        limit: how many threads there are at most.
        name: what their names begin with.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], object]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def submit(self, job: Callable[[], object]) -> bool:
        """Have `job` called on one of the threads; what it raises is logged.

        Returns:
            False if it will never be called: the pool is closed, or the system gives no thread.
        """
        with self._changed:
            if self._closed:
                return False
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif len(self._threads) < self._limit and not self._start_thread():
                self._jobs.pop()
                return False
            return True

    def _start_thread(self) -> bool:
        """Start one more; return whether there is any thread to do the work."""
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}")
        thread.daemon = True
        try:
            thread.start()
        except RuntimeError as error:
            # The system has none left, or the interpreter is ending.
            logger.debug("no thread for %s: %s", self._name, error)
        else:
            self._threads.add(thread)
        return bool(self._threads)

    def close(self, timeout_seconds: float) -> None:
        """Drop the jobs that have not begun, and wait so long for the threads to end."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (job := self._next_job()) is not None:
            try:
                job()
            except BaseException:
                logger.exception("a job of %s failed", self._name)
            # The thread may be idle for long, and must not keep objects of the job alive.
            del job

    def _next_job(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._jobs:
                self._idle += 1
                was_woken = not self._closed and self._changed.wait(IDLE_SECONDS)
                self._idle -= 1
                if not self._jobs and not was_woken:
                    self._threads.discard(threading.current_thread())
                    return None
            return self._jobs.popleft()


SHUTDOWN_SECONDS = 1.0
"""What the jobs of an executor have to end."""


class DaemonExecutor(Executor):
    """The same for `loop.run_in_executor`: a job that never returns holds up no end.

    Args:
        limit: how many threads there are at most.
        name: what their names begin with.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._threads = DaemonThreads(limit, name)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have it called; the future has what it returns or raises."""
        outcome: Future[Any] = Future()

        def job() -> None:
            if not outcome.set_running_or_notify_cancel():
                return
            try:
                outcome.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                outcome.set_exception(error)

        if not self._threads.submit(job):
            raise RuntimeError("no thread to run it on: the pool is closed, or there is none left")
        return outcome

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as in Executor
        """Drop what has not begun; what runs has a moment, and then is left behind."""
        self._threads.close(SHUTDOWN_SECONDS if wait else 0.0)
