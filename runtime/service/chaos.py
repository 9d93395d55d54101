"""Faults of the handshake that the service was told to commit, each so many times.

Owns the plan: which of the next requests are refused, left without an answer or answered
with garbage. Must not know sockets. Faults of established connections (drop, black hole,
delay, throttle) belong to the tunnel they happen to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

GARBAGE: Final = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP \xff\xfe\r\n\r\n"


@dataclass(slots=True)
class Refusal:
    """A status to refuse with, ``left`` more times.

    Attributes:
        status: HTTP status.
        body: HTTP body.
        left: how many requests are still to be refused.
        retry_after_seconds: the ``Retry-After`` header's value, or None for no header.
    """

    status: int
    body: str
    left: int
    retry_after_seconds: float | None


@dataclass(slots=True)
class FaultPlan:
    """What the next requests have coming. A refusal of the name None is everybody's."""

    silences_left: int = 0
    garbage_left: int = 0
    refusals: dict[str | None, Refusal] = field(default_factory=dict)

    def take_silence(self) -> bool:
        """Say whether this request is to go without an answer."""
        if self.silences_left <= 0:
            return False
        self.silences_left -= 1
        return True

    def take_garbage(self) -> bool:
        """Say whether this request is to be answered with garbage."""
        if self.garbage_left <= 0:
            return False
        self.garbage_left -= 1
        return True

    def take_refusal(self, tunnel: str | None) -> Refusal | None:
        """Return the refusal planned for a tunnel's (None: anybody's) next request."""
        refusal = self.refusals.get(tunnel)
        if refusal is None:
            return None
        refusal.left -= 1
        if refusal.left <= 0:
            del self.refusals[tunnel]
        return refusal
