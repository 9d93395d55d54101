"""uvloop's event loop, made to report that a socket broke for as long as it has.

libuv reports an error of a socket once, and polls that socket no more, whatever is to be read in
front of the error; asyncio's own loop reports it until it was taken. Whoever reads a part of what
is there, and trusts to be called for the rest, would wait for ever.

So all that is watched is in a second epoll as well, which tells of errors alone and costs nothing
until there is one. What it tells of is watched anew by the loop, which then reports it again.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVarTuple

import uvloop

if TYPE_CHECKING:
    from .context import HasFileno


MOST_EVENTS = 64
"""So many errors are told in one turn of the loop; the others in the next ones."""

_Args = TypeVarTuple("_Args")
_Kept: TypeAlias = tuple[Callable[..., object], *tuple[Any, ...]]
"""A callback and its arguments."""


class UvLoop(uvloop.Loop):
    """An event loop that reports an error of a socket until it was taken."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[int, _Kept] = {}
        self._writers: dict[int, _Kept] = {}
        self._hung_up: set[int] = set()
        """Those whose error was taken, or that have merely ended in both directions. That stays so,
        and the loop reports it by itself; of these the epoll tells no more than what is new."""
        self._errors = select.epoll()
        super().add_reader(self._errors.fileno(), self._on_errors)

    def close(self) -> None:
        """See `asyncio.AbstractEventLoop.close`."""
        if not (self.is_running() or self.is_closed()):
            super().remove_reader(self._errors.fileno())
            self._errors.close()
        super().close()

    def add_reader(
        self, fd: int | HasFileno, callback: Callable[[*_Args], Any], *args: *_Args
    ) -> None:
        """See `asyncio.AbstractEventLoop.add_reader`."""
        number = _number(fd)
        super().add_reader(number, callback, *args)
        self._watch(number)
        self._readers[number] = (callback, *args)

    def add_writer(
        self, fd: int | HasFileno, callback: Callable[[*_Args], Any], *args: *_Args
    ) -> None:
        """See `asyncio.AbstractEventLoop.add_writer`."""
        number = _number(fd)
        super().add_writer(number, callback, *args)
        self._watch(number)
        self._writers[number] = (callback, *args)

    # uvloop's stubs know of no result.
    def remove_reader(self, fd: int | HasFileno) -> bool:  # type: ignore[override]
        """See `asyncio.AbstractEventLoop.remove_reader`."""
        number = _number(fd)
        was_there = self._readers.pop(number, None) is not None
        self._unwatch(number)
        super().remove_reader(number)
        return was_there

    def remove_writer(self, fd: int | HasFileno) -> bool:  # type: ignore[override]
        """See `asyncio.AbstractEventLoop.remove_writer`."""
        number = _number(fd)
        was_there = self._writers.pop(number, None) is not None
        self._unwatch(number)
        super().remove_writer(number)
        return was_there

    def _is_watched(self, fd: int) -> bool:
        return fd in self._readers or fd in self._writers

    def _watch(self, fd: int) -> None:
        if not self._is_watched(fd):
            # Asked for nothing, an epoll tells of errors, and of what has hung up.
            self._errors.register(fd, 0)

    def _unwatch(self, fd: int) -> None:
        if not self._is_watched(fd):
            self._hung_up.discard(fd)
            # It was not there, or its socket was closed.
            with contextlib.suppress(OSError):
                self._errors.unregister(fd)

    def _on_errors(self) -> None:
        for fd, events in self._errors.poll(0, MOST_EVENTS):
            if not self._is_watched(fd):
                # It was closed and never removed, and a child that was forked before holds it.
                continue
            is_error = bool(events & select.EPOLLERR)
            if is_error and fd in self._hung_up:
                self._hung_up.discard(fd)
                self._errors.modify(fd, 0)
            elif not is_error and fd not in self._hung_up:
                self._hung_up.add(fd)
                self._errors.modify(fd, select.EPOLLET)
            # Not now: what is still to be told of it in this turn of the loop would not be.
            self.call_soon(self._watch_anew, fd)

    def _watch_anew(self, fd: int) -> None:
        if not self._is_watched(fd):
            return
        reader, writer = self._readers.get(fd), self._writers.get(fd)
        super().remove_reader(fd)
        super().remove_writer(fd)
        if reader is not None:
            super().add_reader(fd, *reader)
        if writer is not None:
            super().add_writer(fd, *writer)


def _number(fd: int | HasFileno) -> int:
    return fd if isinstance(fd, int) else fd.fileno()
