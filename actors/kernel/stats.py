"""Plain counters of a dispatcher: written by its thread, read by any; must not know metrics."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class DispatcherStats:
    """What a dispatcher has done since it started.

    Any thread may read a field at any time; take a `snapshot()` to iterate over the dicts.
    """

    messages_handled: int = 0
    turns: int = 0
    slow_turns: int = 0
    longest_turn_seconds: float = 0.0
    dead_letters: int = 0
    actors_started: int = 0
    actors_alive: int = 0
    quarantines: int = 0
    """Times a supervisor of this dispatcher put a child in quarantine, again or at first."""
    abandoned_children: int = 0
    """ThreadingActors that did not stop in their shutdown time: nothing can kill a thread."""
    actor_failures: dict[str, int] = field(default_factory=dict)
    """Failures by actor class name."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Restarts made by supervisors of this dispatcher, by the child's actor class name."""

    def snapshot(self) -> DispatcherStats:
        """Return a copy that does not change any more."""
        return replace(self, actor_failures=dict(self.actor_failures), restarts=dict(self.restarts))
