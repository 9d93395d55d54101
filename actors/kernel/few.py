"""Sets that nearly always have one member, or two: a tuple takes a quarter of a set's memory.

Each actor has four of them (timers, sockets, whom it watches and who watches it), and a fleet has
tens of thousands of actors. What grows beyond a few members becomes a set, so that a supervisor of
thousands of children does not search through them.
"""

from __future__ import annotations

from typing import TypeVar

MOST_IN_TUPLE = 4

T = TypeVar("T")
Few = tuple[T, ...] | set[T]
"""A collection without an order. Whoever holds it holds what `including` and `without` return."""


def including(few: Few[T], item: T) -> Few[T]:
    """Return the collection with the item, once: another object, or the same."""
    if item in few:
        return few
    if isinstance(few, set):
        few.add(item)
        return few
    if len(few) < MOST_IN_TUPLE:
        return (*few, item)
    return {*few, item}


def without(few: Few[T], item: T) -> Few[T]:
    """Return the collection without the item, if it was in: another object, or the same."""
    if isinstance(few, set):
        few.discard(item)
        # An empty one is given up: it was large once, or would not be a set.
        return few or ()
    if item not in few:
        return few
    return tuple(each for each in few if each != item)
