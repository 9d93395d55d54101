"""What a runtime itself uses, as people look at it.

Owns the snapshot. It must not know tunnels' counters or Prometheus: those are in `metrics`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelfleet.actors.kernel import Dispatcher

__all__ = ["RuntimeStats"]


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """What the runtime itself uses."""

    tunnels: int
    dispatchers: int
    threads: int
    messages_handled: int
    dead_letters: int
    longest_turn_seconds: float

    @classmethod
    def of(cls, tunnels: int, dispatchers: Sequence[Dispatcher]) -> Self:
        """Look at the dispatchers of a runtime with so many tunnels; `threads`: of the process."""
        kernels = [dispatcher.stats for dispatcher in dispatchers]
        return cls(
            tunnels=tunnels,
            dispatchers=len(kernels),
            threads=threading.active_count(),
            messages_handled=sum(kernel.messages_handled for kernel in kernels),
            dead_letters=sum(kernel.dead_letters for kernel in kernels),
            longest_turn_seconds=max((k.longest_turn_seconds for k in kernels), default=0.0),
        )
