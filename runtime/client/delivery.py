"""How a client's events get to an actor and to asyncio.

Owns how each is held to the pace of whoever takes them: an actor gets no more than it handles, an
event loop no more than it takes. It knows neither tunnels nor what an event means, but that
`Stopped` is the last.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any, Self

from pykka import ActorRef, Future

from tunnelfleet.actors.api.events import ApiEvent, MessageReceived, Stopped
from tunnelfleet.actors.callbacks import EVENT_COST_BYTES, CallbackQueue

MAX_UNHANDLED = 64
"""How many events the actor may have in its inbox before the tunnel waits for it."""


class ActorDelivery:
    """Delivers to one actor; a callable for callback threads.

    Args:
        receiver: any pykka actor. What its handler returns is ignored, what it raises is counted
            and logged as an error of a callback.
    """

    def __init__(self, receiver: ActorRef[Any]) -> None:
        self._receiver = receiver
        self._unhandled: deque[Future[Any]] = deque()

    def __call__(self, event: ApiEvent) -> None:
        """Send one event, once the actor has handled those long before it."""
        if not self._receiver.is_alive():
            self._unhandled.clear()
            return
        self._unhandled.append(self._receiver.ask(event, block=False))
        if len(self._unhandled) > MAX_UNHANDLED:
            self._unhandled.popleft().get()


HIGH_WATER_BYTES = 262_144
"""Events, with their payloads, that may wait for a loop before the callback queue rests."""


class EventStream:
    """The events of a tunnel from now on, for `async for`; made by `SecureTunnel.events`.

    It ends after `Stopped`. A loop that does not take events holds the tunnel back. Leaving the
    loop and dropping the stream, or `close`, ends that.

    Args:
        loop: the event loop that takes them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._events: deque[ApiEvent] = deque()
        self._bytes = 0
        self._woken = False
        self._parked: CallbackQueue | None = None
        self._closed = False
        self._arrived = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ApiEvent:
        while True:
            with self._lock:
                event = self._take()
                closed = self._closed
                self._arrived.clear()
                self._woken = False
            if event is not None:
                return event
            if closed:
                raise StopAsyncIteration
            await self._arrived.wait()

    def _take(self) -> ApiEvent | None:
        if not self._events:
            return None
        event = self._events.popleft()
        self._bytes -= _size_bytes(event)
        if self._parked is not None and self._bytes <= HIGH_WATER_BYTES // 2:
            self._unpark()
        if isinstance(event, Stopped):
            self._closed = True
        return event

    def put(self, event: ApiEvent, callback_queue: CallbackQueue) -> None:
        """Hand an event over; called on the tunnel's callback thread."""
        with self._lock:
            if self._closed:
                return
            self._events.append(event)
            self._bytes += _size_bytes(event)
            if self._bytes > HIGH_WATER_BYTES and self._parked is None:
                self._parked = callback_queue
                callback_queue.park()
            wake, self._woken = not self._woken, True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._arrived.set)
            except RuntimeError:
                # The loop is closed: nobody will take anything.
                self.close()

    def close(self) -> None:
        """Take no more events. Any thread."""
        with self._lock:
            self._closed = True
            self._events.clear()
            self._unpark()

    def __del__(self) -> None:
        self._unpark()

    def _unpark(self) -> None:
        callback_queue, self._parked = self._parked, None
        if callback_queue is not None:
            callback_queue.unpark()


def _size_bytes(event: ApiEvent) -> int:
    if isinstance(event, MessageReceived):
        return EVENT_COST_BYTES + len(event.message.payload)
    return EVENT_COST_BYTES
