"""The directory of a fleet on Ray: the actor that knows the groups, and answers their leases.

Owns the thread on which `DirectoryKeeper` works, since it waits for Ray's control store, and who
waits for news. Its methods wait for nothing but that, each on its own; at most `MAX_WAITING` at
once. When another directory has begun elsewhere, this process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest

from .book import Asker
from .cluster import ControlRecords, end_this_process
from .keeper import DirectoryKeeper, LeaseReply, NotTheDirectoryError, Records
from .plan import PlanChange

__all__ = ["Directory"]

MAX_WAITING = 1_000
"""Requests that wait for their turn; each group has one at a time."""
WATCH_SECONDS = 30.0
"""After which a group that waits for news is told that there is none."""

T = TypeVar("T")


class Directory:
    """An actor of Ray.

    Args:
        namespace: of the fleet.
        records: where it keeps what it knows; None for Ray's control store.
        on_replaced: called when another directory counts.
    """

    def __init__(
        self,
        namespace: str,
        records: Records | None = None,
        on_replaced: Callable[[], object] = end_this_process,
    ) -> None:
        self._keeper = DirectoryKeeper(records or ControlRecords(namespace))
        self._on_replaced = on_replaced
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-directory")
        self._waiting = 0
        self._news = asyncio.Event()
        self._known = 0

    async def declare(self, content: bytes) -> PlanChange:
        """Have the fleet be as a plan says; see `DirectoryKeeper.declare`."""
        return await self._do(lambda: self._keeper.declare(content))

    async def lease(self, asker: Asker, request: LeaseRequest) -> LeaseReply:
        """Answer a group's request."""
        return await self._do(lambda: self._keeper.lease(asker, request))

    async def dismiss(self, name: str) -> None:
        """Have a group hand over what it has and end; see `DirectoryKeeper.dismiss`."""
        return await self._do(lambda: self._keeper.dismiss(name))

    async def restore(self) -> None:
        """Want all groups of the plan again."""
        return await self._do(self._keeper.restore)

    async def plan(self) -> bytes:
        """What is to run, with all secrets of the fleet."""
        return await self._do(self._keeper.plan)

    async def status(self) -> dict[str, Any]:
        """How the fleet is."""
        return await self._do(self._keeper.status)

    async def end(self) -> Sequence[str]:
        """Let nothing begin any more; return the names of the groups."""
        return await self._do(self._keeper.end)

    async def watch(self, changes: int) -> int:
        """Return when there is something that an asker who knows so much does not know."""
        if self._keeper.changes == changes:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), WATCH_SECONDS)
        return self._keeper.changes

    async def _do(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise TunnelError("too many requests wait for the directory of the fleet")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except NotTheDirectoryError:
            self._on_replaced()
            raise
        finally:
            self._waiting -= 1
            if self._keeper.changes != self._known:
                self._known = self._keeper.changes
                news, self._news = self._news, asyncio.Event()
                news.set()
