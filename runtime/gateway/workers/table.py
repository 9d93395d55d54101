"""The table of a gateway's workers, which the actors of one dispatcher share.

Owns what is known of each worker, and how it and its tunnels are told things.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pykka

from .messages import ToWorker

if TYPE_CHECKING:
    import socket
    import subprocess

    from pykka import ActorRef

__all__ = ["Started", "Worker"]


@dataclass(eq=False)
class Worker:
    """What is known of one worker.

    Attributes:
        number: from 0.
        ref: its actor, while the process can be told things.
        pid: of its process; 0 while there is none.
        beat_at: when it last gave a sign of life, in seconds of `time.monotonic`.
        starts: how often it was started.
        tunnels: the actors of its tunnels, by serial.
    """

    number: int
    ref: ActorRef[Any] | None = None
    pid: int = 0
    beat_at: float = 0.0
    starts: int = 0
    tunnels: dict[int, ActorRef[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return f"worker {self.number}"

    def tell(self, message: dict[str, Any], sock: socket.socket | None = None) -> None:
        """Tell the process, if it is there."""
        if self.ref is not None:
            with contextlib.suppress(pykka.ActorDeadError):
                self.ref.tell(ToWorker(message, sock))

    def tell_tunnels(self, message: Any) -> None:
        """Tell the actors of all its tunnels."""
        for ref in list(self.tunnels.values()):
            with contextlib.suppress(pykka.ActorDeadError):
                ref.tell(message)


@dataclass(frozen=True)
class Started:
    """A process, and the gateway's end of the way to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
