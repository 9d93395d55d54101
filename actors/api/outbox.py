"""Where the threads of a tunnel's user and the tunnel's actors meet.

Owns the two ways between them. Out: commands of any thread, bounded by credit, one wake-up of the
actors for a burst, and the memory of who waits for which outcome. In: events to the tunnel's
callbacks. It outlives restarts of the TunnelActor, so that nothing a user has given is ever without
an answer. It knows no protocol rule.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pykka import ActorDeadError, ActorRef

from tunnelfleet.actors.kernel.context import refuse_to_block
from tunnelfleet.actors.tunnel.messages import ConnectionKey, EventsTaken, OutboxFilled
from tunnelfleet.proto import MessageType, TunnelClosed, TunnelError

from .messages import (
    Admission,
    ApiEvent,
    ConnectionFailure,
    ConnectionShutdown,
    Outgoing,
    SendMessageComplete,
    SendQueueFull,
    Stopped,
    StreamStopped,
)

if TYPE_CHECKING:
    from tunnelfleet.actors.callbacks import CallbackQueue
    from tunnelfleet.actors.config import Limits

E = TypeVar("E")


class _OfConnection(Generic[E]):
    __slots__ = ("entries", "on_their_way")

    def __init__(self) -> None:
        self.entries: deque[E] = deque()
        self.on_their_way = 0
        """How many entries from the front have left the queue and are with the WebSocketActor."""


class PendingSends(Generic[E]):
    """The commands of all connections of a tunnel that have no outcome yet."""

    def __init__(self) -> None:
        self._by_key: dict[ConnectionKey, _OfConnection[E]] = {}

    def __len__(self) -> int:
        return sum(len(sends.entries) for sends in self._by_key.values())

    def queued(self, key: ConnectionKey, entry: E) -> None:
        """Note that an entry was queued behind the others of its connection."""
        sends = self._by_key.get(key)
        if sends is None:
            sends = self._by_key[key] = _OfConnection()
        sends.entries.append(entry)

    def taken(self, key: ConnectionKey, messages: int = 1) -> None:
        """Note that the next entries of a connection have left the queue."""
        sends = self._by_key.get(key)
        if sends is not None:
            sends.on_their_way = min(sends.on_their_way + messages, len(sends.entries))

    def written(self, key: ConnectionKey, messages: int) -> list[E]:
        """Return the entries of a connection that have left for the operating system."""
        sends = self._by_key.get(key)
        if sends is None:
            return []
        count = min(messages, sends.on_their_way)
        sends.on_their_way -= count
        done = [sends.entries.popleft() for _ in range(count)]
        self._drop_empty(key, sends)
        return done

    def refused(self, key: ConnectionKey) -> list[E]:
        """Return the next entry of a connection, which was taken out and cannot be sent."""
        sends = self._by_key.get(key)
        if sends is None or sends.on_their_way >= len(sends.entries):
            return []
        entry = sends.entries[sends.on_their_way]
        del sends.entries[sends.on_their_way]
        self._drop_empty(key, sends)
        return [entry]

    def discarded(self, key: ConnectionKey) -> list[E]:
        """Return the entries that a connection had in the queue, which were thrown away."""
        sends = self._by_key.get(key)
        if sends is None:
            return []
        entries = list(sends.entries)
        sends.entries = deque(entries[: sends.on_their_way])
        left = entries[sends.on_their_way :]
        self._drop_empty(key, sends)
        return left

    def lost(self) -> list[E]:
        """Return all entries, because all of them are lost."""
        left, self._by_key = self._by_key, {}
        return [entry for sends in left.values() for entry in sends.entries]

    def _drop_empty(self, key: ConnectionKey, sends: _OfConnection[E]) -> None:
        if not sends.entries:
            del self._by_key[key]


COMMAND_COST_BYTES = 64
"""What a message costs beside its payload."""
CALLBACKS_CHECK_SECONDS = 0.05
"""How often a sender that waits for callbacks looks whether it may go on."""
STARTS = (MessageType.STREAM_START, MessageType.CONNECTION_START)


class Outbox:
    """The outbox of one tunnel.

    Args:
        name: of the tunnel.
        limits: its limits.
        callback_queue: takes its events to the callbacks.
        half_close: the user ends connections that the peer has ended.
    """

    def __init__(
        self, name: str, limits: Limits, callback_queue: CallbackQueue, *, half_close: bool = False
    ) -> None:
        self.name = name
        self.callback_queue = callback_queue
        self.half_close = half_close
        self.pending: PendingSends[Outgoing] = PendingSends()
        self.wanted: frozenset[type[ApiEvent]] = frozenset()
        """The types of events that somebody wants. Other events are not made."""
        self.is_connected = False
        self.active_services: set[str] = set()
        """Services whose streams were reported and not yet reported as stopped."""
        self._max_bytes = limits.send_high_water_bytes
        self._max_messages = limits.send_high_water_messages
        self._room = threading.Condition(threading.Lock())
        self._bytes = 0
        self._messages = 0
        self._waiting = 0
        self._room_wanted: list[Callable[[], object]] = []
        self._outbox: list[Outgoing] = []
        self._woken = False
        self._tunnel: ActorRef[Any] | None = None
        self._closed: TunnelError | None = None
        self._finished = False

    # -- any thread

    @property
    def messages_in_flight(self) -> int:
        """Commands without an outcome yet."""
        return self._messages

    def submit(self, entries: Sequence[Outgoing], timeout_seconds: float | None) -> None:
        """Hand commands over, in order, waiting for room if need be.

        Args:
            entries: the commands.
            timeout_seconds: how long to wait for room; None without end, 0 not at all.

        Raises:
            SendQueueFull: there was no room for all of them in time.
            TunnelClosed: the tunnel is stopped.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        done = 0
        while done < len(entries):
            with self._room:
                self._wait_for_room(entries, done, deadline, timeout_seconds or 0.0)
                done = self._take_in(entries, done)
                wake = not self._woken
                self._woken = True
            if wake:
                self._tell(OutboxFilled())

    def when_room(self, function: Callable[[], object]) -> None:
        """Have `function()` called once half of the room is free, or at once if all of it is.

        It is called on any thread, which it must not hold up.
        """
        with self._room:
            if self._messages and self._closed is None:
                self._room_wanted.append(function)
                return
        function()

    def _fits(self, entry: Outgoing) -> bool:
        if self._holds_senders():
            return False
        if self._messages == 0:
            return True
        size_bytes = self._bytes + len(entry.payload) + COMMAND_COST_BYTES
        return size_bytes <= self._max_bytes and self._messages < self._max_messages

    def _holds_senders(self) -> bool:
        """Return whether callbacks must first take what they are told of what was sent."""
        queue = self.callback_queue
        return queue.is_full and SendMessageComplete in self.wanted and not queue.runs_here

    def _wait_for_room(
        self,
        entries: Sequence[Outgoing],
        done: int,
        deadline: float | None,
        timeout_seconds: float,
    ) -> None:
        """Wait until the next command may come in; whoever calls holds the lock.

        Raises:
            SendQueueFull: it may not by the deadline, which is so many seconds after the start.
            TunnelClosed: the tunnel is stopped.
        """
        while self._closed is None and not self._fits(entries[done]):
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise SendQueueFull(timeout_seconds, done)
            self._wait(None if deadline is None else deadline - now)
        if self._closed is not None:
            raise self._closed

    def _wait(self, left_seconds: float | None) -> None:
        refuse_to_block("waiting for room to send")
        self._waiting += 1
        try:
            slice_seconds = CALLBACKS_CHECK_SECONDS if self._holds_senders() else None
            if left_seconds is not None:
                slice_seconds = min(left_seconds, slice_seconds or left_seconds)
            self._room.wait(slice_seconds)
        finally:
            self._waiting -= 1

    def _take_in(self, entries: Sequence[Outgoing], done: int) -> int:
        """Take in what there is room for; return how many are done then."""
        left = entries[done:]
        size_bytes = sum([len(entry.payload) for entry in left]) + len(left) * COMMAND_COST_BYTES
        fits = self._bytes + size_bytes <= self._max_bytes
        if fits and self._messages + len(left) <= self._max_messages and not self._holds_senders():
            self._bytes += size_bytes
            self._messages += len(left)
            self._outbox += left
            return len(entries)
        while done < len(entries) and self._fits(entries[done]):
            entry = entries[done]
            self._bytes += len(entry.payload) + COMMAND_COST_BYTES
            self._messages += 1
            self._outbox.append(entry)
            done += 1
        return done

    def _tell(self, message: Any) -> None:
        tunnel = self._tunnel
        if tunnel is not None:
            # If there is no TunnelActor now, the next one takes the commands when it starts.
            with contextlib.suppress(ActorDeadError):
                tunnel.tell(message)

    # -- the thread of the tunnel's actors

    def attach(self, tunnel: ActorRef[Any]) -> None:
        """Take a new TunnelActor. What its predecessor had is lost."""
        self._tunnel = tunnel
        self._abandon(TunnelClosed("the tunnel's actor failed and was started again"))
        tunnel.tell(OutboxFilled())

    def _abandon(self, error: TunnelError) -> None:
        self.complete(self.pending.lost(), error)
        for service_id in sorted(self.active_services):
            self.emit(StreamStopped(self.name, service_id, error))
        self.active_services.clear()
        if self.is_connected:
            self.is_connected = False
            self.emit(ConnectionShutdown(self.name, error))

    def take(self) -> list[Outgoing]:
        """Return the commands that have come in, in order."""
        with self._room:
            entries, self._outbox = self._outbox, []
            self._woken = False
        return entries

    def complete(self, entries: Sequence[Outgoing], error: Exception | None) -> None:
        """Tell the outcome of commands to those who wait, and let other senders go on."""
        if not entries:
            return
        for entry in entries:
            self._tell_outcome(entry, error)
        for function in self._make_room(entries):
            function()

    def _tell_outcome(self, entry: Outgoing, error: Exception | None) -> None:
        if entry.waiter is not None:
            entry.waiter.settle(error, entry.connection_id if entry.kind in STARTS else None)
        if SendMessageComplete in self.wanted:
            payload_bytes = len(entry.payload)
            ids = entry.service_id, entry.connection_id
            event = SendMessageComplete(self.name, entry.kind, error, *ids, payload_bytes)
            self.callback_queue.put(event)

    def _make_room(self, entries: Sequence[Outgoing]) -> list[Callable[[], object]]:
        """Let other senders go on, once half of the room is free; return whom else to tell."""
        size_bytes = sum(len(entry.payload) + COMMAND_COST_BYTES for entry in entries)
        with self._room:
            self._bytes -= size_bytes
            self._messages -= len(entries)
            if self._messages > self._max_messages // 2 or self._bytes > self._max_bytes // 2:
                return []
            if self._waiting:
                self._room.notify_all()
            told, self._room_wanted = self._room_wanted, []
        return told

    def emit(self, event: ApiEvent, payload_bytes: int = 0) -> None:
        """Hand an event to the callbacks."""
        kind = type(event)
        if kind in self.wanted:
            # Failures to connect may go on for ever, and nothing holds them back.
            self.callback_queue.put(event, payload_bytes, may_drop=kind is ConnectionFailure)

    def after_callbacks(self, message: Any) -> None:
        """Have TunnelActor told once the callbacks have returned from the events before.

        It comes behind the commands that they have handed over.
        """
        self.callback_queue.call(self._tell, message)

    def admit_in_turn(self, key: ConnectionKey) -> None:
        """Open a connection to commands, behind those that callbacks hand over before it.

        A callback may answer on a connection that has ended, and whose id another one has by then.
        """
        self.callback_queue.call(self._admit, key)

    def _admit(self, key: ConnectionKey) -> None:
        with self._room:
            self._outbox.append(Admission(key))
            wake = not self._woken
            self._woken = True
        if wake:
            self._tell(OutboxFilled())

    def hold_back(self) -> bool:
        """Whether the tunnel must not be read for now; `EventsTaken` is told when it may be."""
        return self.callback_queue.is_full and self.callback_queue.when_room(self._tell_taken)

    def _tell_taken(self) -> None:
        self._tell(EventsTaken())
        with self._room:
            if self._waiting:
                self._room.notify_all()

    # -- the end

    def close(self, error: TunnelError) -> None:
        """Take no more commands."""
        with self._room:
            self._closed = self._closed or error
            self._room.notify_all()
            wanted, self._room_wanted = self._room_wanted, []
        for function in wanted:
            function()

    def finish(self, error: TunnelError) -> bool:
        """Answer everything and say that the tunnel is stopped; False if that was done before."""
        self.close(error)
        with self._room:
            was_finished, self._finished = self._finished, True
        if was_finished:
            return False
        self._tunnel = None
        left = [entry for entry in self.take() if not isinstance(entry, Admission)]
        self.complete(left, error)
        self._abandon(error)
        self.emit(Stopped(self.name))
        return True
