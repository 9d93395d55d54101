"""The thread that keeps the tokens of devices in the state of the gateway.

Owns the order of what is loaded, saved and forgotten, which is the order in which it was asked, and
a bound on how much waits. Nobody who asks waits: what became of it comes back as a future.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol

from tunnelfleet.proto import TunnelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .wishes import DeviceTunnel

__all__ = ["DeviceKeeper", "KeepsDevices"]

MAX_WAITING: Final = 2_000
"""Tasks that wait for the thread."""


class KeepsDevices(Protocol):
    """What is asked of the state. All of it waits, and may raise a `TunnelError`."""

    def load_devices(self) -> list[DeviceTunnel]:
        """The tunnels that were kept."""

    def save_device(self, tunnel: DeviceTunnel) -> None:
        """Keep a tunnel, over restarts."""

    def forget_devices(self, token_hashes: Sequence[str]) -> None:
        """Keep them no more."""

    def note_denied(
        self, tunnel: str, service_id: str, *, peer: str, user: str, reason: str
    ) -> None:
        """Take down a refusal. Never waits."""


class DeviceKeeper:
    """Keeps tunnels on a thread of its own.

    Args:
        store: what it keeps them in; None keeps nothing.
    """

    def __init__(self, store: KeepsDevices | None) -> None:
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-devices")
        self._room = threading.BoundedSemaphore(MAX_WAITING)

    def load(self) -> Future[list[DeviceTunnel]] | None:
        """Load what was kept; None if too much waits."""
        store = self._store
        return self._submit(lambda: [] if store is None else store.load_devices())

    def save(self, tunnel: DeviceTunnel) -> Future[None] | None:
        """Keep a tunnel; None if too much waits."""
        store = self._store
        return self._submit(lambda: None if store is None else store.save_device(tunnel))

    def forget(self, token_hashes: Sequence[str]) -> Future[None] | None:
        """Keep tunnels no more; None if too much waits."""
        store = self._store
        return self._submit(lambda: None if store is None else store.forget_devices(token_hashes))

    def _submit(self, task: Callable[[], Any]) -> Future[Any] | None:
        if not self._room.acquire(blocking=False):
            return None
        try:
            return self._executor.submit(self._run, task)
        except RuntimeError:
            # It is being ended.
            self._room.release()
            return None

    def _run(self, task: Callable[[], Any]) -> Any:
        try:
            return task()
        finally:
            self._room.release()

    def end(self) -> None:
        """End when what goes on is over; does not wait."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait for the end."""
        self._executor.shutdown(wait=True)


def failure_of(future: Future[Any]) -> str | None:
    """Why a task has failed; None if it has not."""
    if future.cancelled():
        return "it was given up"
    error = future.exception()
    if error is None:
        return None
    return str(error) if isinstance(error, TunnelError) else f"{type(error).__name__}"
