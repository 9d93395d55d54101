"""KeepAlive: when a connection is pinged, and when its silence means that it is dead.

Owns the schedule of pings, the one that is unanswered and the moment the service was last heard.
Pure: the time is an argument. It knows no socket, frame, timer or actor: it says what to do next
and when to ask again, and WebSocketActor does it. A service need not answer pings (docs/protocol.md
section 1), so any byte is as good a sign of life as a pong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from tunnelfleet.actors.config import Limits


class SendPing(NamedTuple):
    """Send a ping now."""


class GiveUp(NamedTuple):
    """The service is dead: nothing was heard of it for `timeout_seconds` after a ping."""

    timeout_seconds: float

    def __str__(self) -> str:
        return f"the service has not answered a ping for {self.timeout_seconds:g} s"


Command: TypeAlias = SendPing | GiveUp


RECHECK_SECONDS = 0.1
"""The least time between two looks at a ping that is overdue and may not be judged yet."""
MIN_WAIT_SECONDS = 0.001
"""Timers are this exact: one that fires early must not be set again and again for less."""


class KeepAlive:
    """The pings of one connection: one every interval, unless the last one is unanswered.

    Args:
        limits: of these `ping_interval_seconds`, `pong_timeout_seconds`, and
            `stall_timeout_seconds`, by which a service that reads nothing has longer to answer.
        now: monotonic seconds at which the connection was established.
    """

    __slots__ = ("_heard_at", "_judge_at", "_limits", "_ping_at", "_pinged_at")

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._heard_at = now
        self._ping_at = now + limits.ping_interval_seconds
        self._pinged_at: float | None = None
        self._judge_at = now

    def on_heard(self, now: float) -> None:
        """The service showed that it lives: it sent something, or the kernel took more for it.

        Also to be called when reading goes on after a rest: the silence before it proves nothing.
        """
        self._heard_at = now

    def on_pong(self, now: float) -> float | None:
        """A pong came.

        Returns:
            The seconds since its ping; None if there is no unanswered ping.
        """
        pinged_at, self._pinged_at = self._pinged_at, None
        return None if pinged_at is None else now - pinged_at

    def on_due(self, now: float, *, is_reading: bool, is_blocked: bool) -> Command | None:
        """Time has passed, as `wait_seconds` said.

        Args:
            now: monotonic seconds.
            is_reading: whether a pong would be heard; if not, silence is not held against anyone.
            is_blocked: whether the kernel refuses more bytes. The service may then not have got the
                ping, and whoever holds up the tunnel is given up first.
        """
        command = self._judge(now, is_reading, is_blocked)
        if now >= self._ping_at:
            self._ping_at = now + self._limits.ping_interval_seconds
            if self._pinged_at is None:
                self._pinged_at = now
                self._judge_at = now + self._limits.pong_timeout_seconds
                return SendPing()
        return command

    def wait_seconds(self, now: float) -> float:
        """Seconds until `on_due` wants to be called."""
        due_at = self._ping_at
        if self._pinged_at is not None:
            due_at = min(due_at, self._judge_at)
        return max(due_at - now, MIN_WAIT_SECONDS)

    def _judge(self, now: float, is_reading: bool, is_blocked: bool) -> GiveUp | None:
        if self._pinged_at is None or now < self._judge_at:
            return None
        timeout_seconds = self._limits.pong_timeout_seconds
        if is_blocked:
            timeout_seconds += self._limits.stall_timeout_seconds
        silent_seconds = now - self._heard_at
        if is_reading and silent_seconds >= timeout_seconds:
            return GiveUp(timeout_seconds)
        self._judge_at = now + max(timeout_seconds - silent_seconds, RECHECK_SECONDS)
        return None
