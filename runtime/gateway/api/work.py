"""Work of the admin API that waits: for actors, files, the store. Never on the event loop.

Owns the threads for it, and how much may wait for them.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from .problem import ApiProblem, ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Work"]

T = TypeVar("T")


class Work:
    """Runs functions that may wait.

    Args:
        name: of the threads.
        threads: at most so many at once; with one, they run one after another.
        max_waiting: more requests than that at once are refused.
    """

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._max_waiting = max_waiting
        self._guard = threading.Lock()
        self._waiting = 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call the function on a thread and wait for it.

        Raises:
            ApiProblem: too much waits already, or the end has come.
            Exception: what the function raised.
        """
        with self._guard:
            if self._waiting >= self._max_waiting:
                raise ApiProblem(ProblemKind.BUSY, "too many requests wait already; ask again")
            self._waiting += 1
        try:
            future = self._executor.submit(function, *args)
        except RuntimeError:
            self._is_done()
            raise ApiProblem(ProblemKind.UNAVAILABLE, "the admin API is being stopped") from None
        future.add_done_callback(self._is_done)
        return await asyncio.wrap_future(future)

    def _is_done(self, _future: Future[Any] | None = None) -> None:
        with self._guard:
            self._waiting -= 1

    def stop(self) -> None:
        """Start nothing more. What runs has limits of its own, and is not waited for."""
        with self._guard:
            is_idle = self._waiting == 0
        self._executor.shutdown(wait=is_idle, cancel_futures=True)
