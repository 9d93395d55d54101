"""Whether the link is read: not while somebody does not keep up with what it brings.

Owns who may hold the link, and when it is looked for connections that hold it for too long. The
protocol has no other brake than not to read (docs/architecture.md section 6).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel import Timer

    from .common import Common
    from .connections import ConnectionTable
    from .link import Link


class CheckStalled(NamedTuple):
    """Look for connections that hold up the tunnel."""


LEAST_STALL_CHECK_SECONDS = 0.05


class BrakeHooks(NamedTuple):
    """What the brake has its actor do.

    Attributes:
        schedule: sends it a message after some seconds.
        changed: the link is held from now on, or read again; called with which, and the time.
    """

    schedule: Callable[[float, Any], Timer]
    changed: Callable[[bool, float], None]


class Brake:
    """Holds the link while it must be held.

    Args:
        common: what the parts of the tunnel have in common.
        connections: hold it by what they have not taken.
        link: is held.
        hooks: see there.
    """

    __slots__ = ("_common", "_connections", "_full", "_hooks", "_link", "_timer")

    def __init__(
        self, common: Common, connections: ConnectionTable, link: Link, hooks: BrakeHooks
    ) -> None:
        self._common = common
        self._connections = connections
        self._link = link
        self._hooks: BrakeHooks | None = hooks
        self._full: tuple[Callable[[], bool], ...] = ()
        self._timer: Timer | None = None

    def add(self, is_full: Callable[[], bool]) -> None:
        """Let something else hold the link: it says whether, and has `check` called after it."""
        self._full = (*self._full, is_full)

    def check(self) -> None:
        """Hold the link, or let it go, if that is a change."""
        must_hold = self._connections.must_pause or any(is_full() for is_full in self._full)
        if must_hold == self._link.is_held or not self._link.hold(must_hold=must_hold):
            return
        if self._hooks is not None:
            self._hooks.changed(must_hold, time.monotonic())
        if must_hold and self._timer is None:
            self._check_stalled_in(self._common.limits.stall_timeout_seconds)

    def must_look_for_stalled(self) -> bool:
        """A `CheckStalled` came; return whether the link is held still."""
        self._timer = None
        return self._link.is_held

    def look_again(self) -> None:
        """Have another `CheckStalled` come before long."""
        if self._timer is None:
            seconds = self._common.limits.stall_timeout_seconds / 4
            self._check_stalled_in(max(seconds, LEAST_STALL_CHECK_SECONDS))

    def _check_stalled_in(self, seconds: float) -> None:
        if self._hooks is not None:
            self._timer = self._hooks.schedule(seconds, CheckStalled())

    def let_go(self) -> None:
        """Keep nothing that leads back to the actor, which has ended."""
        self._full, self._hooks = (), None
