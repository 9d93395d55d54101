"""What the demo's traffic came to: bytes moved, bytes verified, bytes wrong, exchanges.

Owns the counters and the text of the first fault. Every counter is written on the traffic's thread
only; other threads read whole integers, at most a moment old.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Meter:
    """The counters of all clients and servers of a demo.

    Attributes:
        sent_bytes: written by clients into the tunnels.
        received_bytes: read by clients from the tunnels.
        verified_bytes: compared with what they must be and found right, at either end.
        mismatched_bytes: wrong ones, and missing ones of connections that nothing had disturbed.
        exchanges_completed: requests, transfers and conversations that ran to their end.
        exchanges_broken: those that ended early because a tunnel was disturbed.
        exchanges_cut: those that were under way when the traffic was stopped at once.
        first_fault: which bytes were wrong first, for people; empty when none were.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    verified_bytes: int = 0
    mismatched_bytes: int = 0
    exchanges_completed: int = 0
    exchanges_broken: int = 0
    exchanges_cut: int = 0
    first_fault: str = ""

    def compared(self, total_bytes: int, wrong_bytes: int, where: str) -> None:
        """Count `total_bytes` that were compared, of which `wrong_bytes` were wrong."""
        self.verified_bytes += total_bytes - wrong_bytes
        if wrong_bytes:
            self.fault(wrong_bytes, f"{where}: {wrong_bytes} of {total_bytes} bytes were wrong")

    def fault(self, wrong_bytes: int, text: str) -> None:
        """Count wrong or missing bytes; the first `text` is kept."""
        self.mismatched_bytes += wrong_bytes
        self.first_fault = self.first_fault or text
