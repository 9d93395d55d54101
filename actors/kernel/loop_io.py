"""Sockets and timers of actors, on the dispatcher's event loop, and the choice of that loop.

Owns who watches which socket, and the handle of a message to oneself after a delay. Both die with
their actor. Must not know what actors do with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from .few import including, without

if TYPE_CHECKING:
    from .context import CellLike, HasFileno


class Direction(Enum):
    """What a descriptor is watched for."""

    READ = "read"
    WRITE = "write"


@dataclass(slots=True, eq=False)
class Registration:
    """One descriptor that is watched for one actor in one direction."""

    readiness: SocketReadiness
    direction: Direction
    cell: Any
    """The `ActorCell`, handed back to the dispatcher as it came."""
    source: HasFileno
    fd: int
    method: Callable[[], object]

    @property
    def is_stale(self) -> bool:
        """Whether its socket was closed without being removed, so that the number is free again."""
        return self.source.fileno() != self.fd

    def forget(self) -> None:
        """Take it off the loop."""
        self.readiness.forget(self)


class SocketReadiness:
    """The registrations on one event loop; dispatcher's thread only.

    Args:
        loop: watches the descriptors.
        ready: called with the registration when its descriptor is ready.

    Attributes:
        fresh: what was added since `drop_stale` was last called.
    """

    __slots__ = ("_add", "_ready", "_remove", "_tables", "fresh")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ready: Callable[[Registration], None]
    ) -> None:
        self._ready = ready
        self._add: dict[Direction, Callable[..., Any]] = {
            Direction.READ: loop.add_reader,
            Direction.WRITE: loop.add_writer,
        }
        self._remove: dict[Direction, Callable[[int], bool]] = {
            Direction.READ: loop.remove_reader,
            Direction.WRITE: loop.remove_writer,
        }
        self._tables: dict[Direction, dict[int, Registration]] = {d: {} for d in Direction}
        self.fresh: list[Registration] = []

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def add(
        self,
        direction: Direction,
        cell: CellLike,
        source: HasFileno,
        method: Callable[[], object],
    ) -> None:
        """Call `method` in a turn of the actor whenever the source is ready.

        A second call for the same source replaces the method.

        Raises:
            ValueError: the source is closed, or another actor watches it.
        """
        fd = source.fileno()
        if fd < 0:
            msg = f"cannot watch {source!r}: it is closed"
            raise ValueError(msg)
        self._make_room(direction, cell, source, fd)
        registration = Registration(self, direction, cell, source, fd, method)
        self._add[direction](fd, self._ready, registration)
        self._tables[direction][fd] = registration
        self.fresh.append(registration)
        cell.registrations = including(cell.registrations, registration)

    def _make_room(self, direction: Direction, cell: CellLike, source: HasFileno, fd: int) -> None:
        for table in self._tables.values():
            known = table.get(fd)
            if known is None:
                continue
            if known.is_stale:
                self.forget(known)
            elif known.cell is not cell:
                msg = f"cannot watch {source!r}: another actor does"
                raise ValueError(msg)
            elif known.direction is direction:
                self.forget(known)

    def remove(self, direction: Direction, cell: CellLike, source: HasFileno) -> bool:
        """Stop watching; return whether it was watched. The source may be closed already."""
        for registration in cell.registrations:
            if registration.direction is direction and registration.source is source:
                self.forget(registration)
                return True
        return False

    def forget(self, registration: Registration) -> None:
        """Take a registration off the loop; if its socket is closed, in both directions."""
        fd = registration.fd
        is_stale = registration.is_stale
        for direction, table in self._tables.items():
            known = table.get(fd)
            if known is registration or (is_stale and known is not None and known.is_stale):
                del table[fd]
                _let_go(known)
                # asyncio may complain about a closed descriptor, but has forgotten it anyway.
                with contextlib.suppress(OSError):
                    self._remove[direction](fd)

    def drop_stale(self) -> None:
        """Forget sockets that were closed after they were added. Called before the loop polls."""
        fresh, self.fresh = self.fresh, []
        for registration in fresh:
            known = self._tables[registration.direction].get(registration.fd)
            if known is registration and registration.is_stale:
                self.forget(registration)


def _let_go(registration: Registration) -> None:
    cell = registration.cell
    cell.registrations = without(cell.registrations, registration)
    # The loop may keep the registration alive; it must not keep the actor alive with it.
    registration.method = _nothing


def _nothing() -> None:
    """Stand for the method of a registration that is over."""


MAX_DELAY_SECONDS = 1e8
"""Three years. Event loops do not take infinity as a delay."""


class Timer:
    """A scheduled message. It belongs to its actor and dies with it."""

    __slots__ = ("_cell", "_handle", "message")

    def __init__(self, cell: CellLike, delay_seconds: float, message: Any) -> None:
        self.message = message
        self._cell: CellLike | None = cell
        dispatcher = cell.dispatcher
        self._handle: asyncio.TimerHandle | None = dispatcher.loop.call_later(
            min(max(0.0, delay_seconds), MAX_DELAY_SECONDS),
            _fire,
            self,
            context=dispatcher.timer_context,
        )

    @property
    def active(self) -> bool:
        """Whether the message is still to be handled."""
        return self._cell is not None

    def cancel(self) -> None:
        """Cancel: the message is not handled, even if the time is up and it is in the mailbox.

        Call it in a turn of the owning actor. A second call does nothing.
        """
        cell, handle = self._cell, self._handle
        if cell is not None and handle is not None:
            handle.cancel()
            cell.timers = without(cell.timers, self)
            self.expire()

    def expire(self) -> None:
        """Mark the timer as over, whether it fired or was cancelled. The kernel calls this."""
        self._cell = None
        # A handle keeps its arguments after it has run, and this timer is one of them.
        self._handle = None


def _fire(timer: Timer) -> None:
    # A function and not a method of the dispatcher, so that no timer keeps a bound method.
    cell = timer._cell  # noqa: SLF001
    assert cell is not None
    cell.dispatcher.timer_fired(cell, timer)


LOOP_DESCRIPTORS = 9
"""How many descriptors a loop opens for itself, with some room: the first of uvloop takes eight."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's if that is installed, else asyncio's own.

    Both call back for as long as there is anything to be read, or an error to be taken.

    Raises:
        OSError: the process has too few file descriptors left for one.
    """
    _require_descriptors()
    try:
        from .uv_loop import UvLoop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.new_event_loop()
    return UvLoop()


def _require_descriptors() -> None:
    """Raise OSError now: uvloop aborts the process when it gets only some of those it needs."""
    opened: list[int] = []
    try:
        for _ in range(LOOP_DESCRIPTORS):
            # One by one, so that those before a failure are closed.
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401
    finally:
        for descriptor in opened:
            os.close(descriptor)
