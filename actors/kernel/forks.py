"""What a host's fork means: a child process has the parent's objects, and none of its threads.

Owns the knowledge that a fork has happened, and the error for whoever uses in a child what runs in
the parent. A check costs one comparison, so it may stand in front of anything. It knows no actor.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkedProcessError(RuntimeError):
    """Raised in a forked child by a call to what runs in the process that it was forked from."""


class Forkable(Protocol):
    """An object that has to know when it is a copy in a forked child."""

    def forget_parent(self) -> None:
        """Called in the child, on its only thread; must not block: any lock may be held."""


class _Forks:
    generation = 0
    """The number of forks between this process and the first one that imported this module."""
    has_children = False
    """Whether this process has forked: a descriptor that it closes may live on in a child."""


_forkable: weakref.WeakSet[Forkable] = weakref.WeakSet()


class ForkGuard:
    """Remembers the process in which it was made.

    Args:
        what: is used, for the error.
    """

    __slots__ = ("_generation", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._generation = _Forks.generation

    @property
    def is_foreign(self) -> bool:
        """Whether this process is another one than that."""
        return self._generation != _Forks.generation

    def check(self) -> None:
        """Raise in another process.

        Raises:
            ForkedProcessError: the process was forked.
        """
        if self._generation != _Forks.generation:
            msg = (
                f"{self._what} runs in the process that this one (pid {os.getpid()}) was forked "
                "from, and cannot be used here: make a new one in this process, or start the "
                "process with multiprocessing's 'spawn' or 'forkserver'"
            )
            raise ForkedProcessError(msg)


def has_forked() -> bool:
    """Return whether this process has children that may hold its descriptors."""
    return _Forks.has_children


def tell_of_forks(thing: Forkable) -> None:
    """Have `thing.forget_parent()` called in every child, for as long as the thing lives."""
    _forkable.add(thing)


def _in_parent() -> None:
    _Forks.has_children = True


def _in_child() -> None:
    _Forks.generation += 1
    _Forks.has_children = False
    for thing in list(_forkable):
        thing.forget_parent()
    _forkable.clear()


os.register_at_fork(after_in_parent=_in_parent, after_in_child=_in_child)
