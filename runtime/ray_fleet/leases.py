"""Leases that are kept by the directory of a fleet on Ray: the store of an engine of placement.

Owns how a group asks the directory, what it does when that is being started again, and how it hears
that others have changed something. What else the directory says, that the plan is another or that
this process has to end, goes to whoever made this.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import ConfigError, TunnelError

from . import cluster
from .book import Asker, Dismissal

if TYPE_CHECKING:
    from tunnelfleet.runtime.gateway.placement.lease import LeaseAnswer, LeaseRequest, LeaseTimes

    from .keeper import LeaseReply

__all__ = ["DirectoryClient", "DirectoryLeases"]

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
