"""Reloads of a gateway: who waits for which reading of the files, and what a reading has found.

Owns the order of readings: one at a time, and whoever asks while one goes on gets the next, because
what they are about may have changed after it began. It reads no file.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from .config import ConfigProblems, FleetConfig, Problem

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tunnelfleet.actors.kernel import Reply

    from .messages import ReloadResult


logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """The files were read: what they say, or what is wrong with them."""

    config: FleetConfig | None
    problems: tuple[Problem, ...] = ()


def loaded(future: Future[FleetConfig]) -> Loaded:
    """Return what a reading that is over has found."""
    try:
        return Loaded(future.result())
    except ConfigProblems as error:
        return Loaded(None, error.problems)
    except Exception as error:
        # A mistake of ours must not end the fleet; whoever asked is told.
        logger.exception("reading the files failed")
        return Loaded(None, (Problem("files", 1, "file", f"they could not be read: {error}"),))


class ReloadQueue:
    """Who waits for a reading."""

    def __init__(self) -> None:
        self._present: list[Reply] = []
        """For the reading that goes on; there is none while this is empty."""
        self._next: list[Reply] = []

    def ask(self, reply: Reply) -> bool:
        """Wait for a reading that begins now or later; return whether it has to begin now."""
        if self._present:
            self._next.append(reply)
            return False
        self._present.append(reply)
        return True

    def answer(self, result: ReloadResult) -> bool:
        """Answer those whose reading is over; return whether the next has to begin now."""
        answered, self._present, self._next = self._present, self._next, []
        for reply in answered:
            reply.set(result)
        return bool(self._present)
