"""EventRelay: takes the events of all tunnels to whoever asked for them.

Actors get them as messages. A callback runs on one thread of the relay's own, in order, behind a
bounded queue: a callback that blocks delays the callbacks, never a tunnel; what does not fit is
dropped and counted. It does not look into events.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from pykka import ActorDeadError

from .events import TunnelEvent
from .kernel import DispatchedActor

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

__all__ = ["EventRelay", "Subscribe", "Unsubscribe"]

MAX_QUEUED_EVENTS = 10_000
"""Events that may wait for the callback."""

logger = logging.getLogger(__name__)


class Subscribe(NamedTuple):
    """Send every event to `subscriber` from now on."""

    subscriber: ActorRef[Any]


class Unsubscribe(NamedTuple):
    """Stop that."""

    subscriber: ActorRef[Any]


class EventRelay(DispatchedActor):
    """Relays events.

    Args:
        observe: called with each event in the relay's turn; must not block or raise.
        callback: the user's, called on the relay's thread; None for none.
    """

    def __init__(
        self,
        observe: Callable[[TunnelEvent], None],
        callback: Callable[[TunnelEvent], None] | None,
    ) -> None:
        super().__init__()
        self._observe = observe
        self._subscribers: dict[str, ActorRef[Any]] = {}
        self._thread = _CallbackThread(callback) if callback is not None else None

    def on_start(self) -> None:
        """Start the callback's thread."""
        if self._thread is not None:
            self._thread.start()

    def on_receive(self, message: Any) -> Any:
        """Relay an event, or change the subscribers."""
        if isinstance(message, TunnelEvent):
            self._relay(message)
        elif isinstance(message, Subscribe):
            self._subscribers[message.subscriber.actor_urn] = message.subscriber
        elif isinstance(message, Unsubscribe):
            self._subscribers.pop(message.subscriber.actor_urn, None)
        else:
            return super().on_receive(message)
        return None

    def _relay(self, event: TunnelEvent) -> None:
        self._observe(event)
        if self._thread is not None:
            self._thread.put(event)
        for urn, subscriber in list(self._subscribers.items()):
            if not subscriber.is_alive():
                del self._subscribers[urn]
                continue
            try:
                subscriber.tell(event)
            except ActorDeadError:
                del self._subscribers[urn]

    def on_stop(self) -> None:
        """End the thread after the events it has."""
        if self._thread is not None:
            self._thread.stop()

    def on_failure(self, *_exc_info: Any) -> None:
        """The same, after a failure."""
        self.on_stop()


class _CallbackThread:
    """A thread that calls a user's function."""

    def __init__(self, callback: Callable[[TunnelEvent], None]) -> None:
        self._callback = callback
        self._queue: queue.Queue[TunnelEvent | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-events", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def put(self, event: TunnelEvent) -> None:
        if self._queue.qsize() >= MAX_QUEUED_EVENTS:
            self.dropped += 1
        else:
            self._queue.put(event)

    def stop(self) -> None:
        self._queue.put(None)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._callback(event)
            except Exception:
                logger.exception("the event callback raised on %s", type(event).__name__)
