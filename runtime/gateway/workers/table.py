"""The table of a gateway's workers, which the actors of one dispatcher share.

Owns what is known of each worker, and how it and its tunnels are told things.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from typing import Any

import pykka
from pykka import ActorRef

from tunnelfleet.actors.transport.connect_gate import ConnectGate, ConnectStats

from .messages import ToWorker
from .sums import ConnectSums


@dataclass(eq=False)
class WorkerEntry:
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


class WorkerTable:
    """All workers, and what the actors that run them need to know.

    Args:
        count: how many workers.
    """

    def __init__(self, count: int) -> None:
        self.workers = [WorkerEntry(number) for number in range(count)]
        self.gate: ConnectGate | None = None
        """Whether tunnels may connect; its counts are written here, for each worker has its own."""
        self.rate_per_second = 0.0
        """A worker's share of the connects."""
        self.concurrency = 1
        """The same of those that may be under way at once."""
        self.supervisor: ActorRef[Any] | None = None
        """Of the workers' actors."""
        self._connects = ConnectSums()

    def gate_fields(self) -> dict[str, Any]:
        """Return what a worker is told of the gate."""
        assert self.gate is not None
        rate = self.gate.rate_per_second
        return {
            "suspended": self.gate.closed_because,
            "left_seconds": self.gate.left_seconds,
            "gate_rate": None if rate is None else rate / len(self.workers),
        }

    def take_connects(self, number: int, stats: ConnectStats) -> None:
        """A worker tells what its governor has done."""
        self._connects.take(number, stats)
        self._publish_connects()

    def lose_connects(self, number: int) -> None:
        """A worker has ended."""
        self._connects.begin_anew(number)
        self._publish_connects()

    def _publish_connects(self) -> None:
        if self.gate is not None:
            # In the place of the governor, which writes it otherwise.
            self.gate.stats = self._connects.total()
