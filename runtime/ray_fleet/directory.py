"""The directory of a fleet on Ray: the actor that knows the groups, and how groups ask it.

`Directory` owns the thread on which `DirectoryKeeper` works, since it waits for Ray's control
store, and who waits for news; its methods wait for nothing but that. `DirectoryClient` and
`DirectoryLeases`, the store of an engine of placement, ask it and go on when it starts again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest

from . import cluster
from .book import Asker, Dismissal
from .cluster import ControlRecords, end_this_process
from .keeper import DirectoryKeeper, LeaseReply, NotTheDirectoryError, Records
from .plan import PlanChange

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.placement.lease import LeaseAnswer, LeaseTimes

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


NEWS = "members"
MAX_NEWS_BYTES = 4_096


class DirectoryClient:
    """Asks the directory of a fleet, from a thread that may wait.

    Args:
        namespace: of the fleet.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actor: Any = None

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method; what is returned is for `cluster.result`.

        Raises:
            ConnectionError: there is no directory.
        """
        if self._actor is None:
            self._actor = cluster.find_actor(cluster.DIRECTORY, self._namespace)
        if self._actor is None:
            raise ConnectionError("the cluster has no directory of this fleet")
        return cluster.call(self._actor, method, *arguments)

    def ask(self, method: str, *arguments: Any, timeout_seconds: float) -> Any:
        """Call a method and wait.

        Raises:
            OSError: it did not answer in time, or is not there.
            TunnelError: as it says.
        """
        try:
            return cluster.result(self.call(method, *arguments), timeout_seconds)
        except OSError:
            # There may be another by now.
            self._actor = None
            raise


class DirectoryLeases:
    """A `LeaseStore`. Used by one thread, but for what it is told.

    Args:
        directory: keeps the leases.
        asker: who asks; where its metrics are is told by `address`.
        times: of the leases.
        on_notification: called in that thread when others have changed something.
        on_reply: called there with each reply, before it is taken up.
    """

    def __init__(
        self,
        directory: DirectoryClient,
        asker: Asker,
        times: LeaseTimes,
        *,
        on_notification: Callable[[str], object],
        on_reply: Callable[[LeaseReply], object],
    ) -> None:
        self._directory = directory
        self._asker = asker
        self._times = times
        self._on_notification = on_notification
        self._on_reply = on_reply
        self.address = asker.address
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch: object | None = None
        # A descriptor that is closed may be another's at once.
        self._lock = threading.Lock()

    @property
    def descriptor(self) -> int | None:
        """Readable when others have changed something."""
        return self._read if self._read >= 0 else None

    def do(self, request: LeaseRequest) -> LeaseAnswer:
        """Ask the directory. Waits.

        Raises:
            OSError: it does not answer, or not in time.
            ConfigError: it answers that it cannot.
        """
        asker = self._asker._replace(address=self.address)
        seconds = self._times.request_seconds
        try:
            reply: LeaseReply = self._directory.ask(
                "lease", asker, request, timeout_seconds=seconds
            )
        except TunnelError as error:
            raise ConfigError(str(error)) from None
        self._on_reply(reply)
        if reply.dismissal is Dismissal.NONE:
            self._listen(reply.changes)
        return reply.answer

    def _listen(self, changes: int) -> None:
        if self._watch is not None:
            return
        self._watch = watch = object()

        def wake() -> None:
            # On a thread of Ray's. A watch that failed is one more reason to ask.
            with self._lock:
                if self._watch is watch:
                    self._watch = None
                    with contextlib.suppress(BlockingIOError):
                        os.write(self._write, b"\0")

        with contextlib.suppress(OSError):
            cluster.when_done(self._directory.call("watch", changes), wake)

    def hear(self) -> None:
        """Take what has arrived."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, MAX_NEWS_BYTES)
        self._on_notification(NEWS)

    def close(self) -> None:
        """Hear no more."""
        with self._lock:
            self._watch = object()
            for descriptor in (self._read, self._write):
                if descriptor >= 0:
                    os.close(descriptor)
            self._read = self._write = -1

    def cut(self) -> None:
        """Nothing to do: each request has its own limit in time."""
