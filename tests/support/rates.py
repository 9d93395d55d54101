"""How many of some moments fall into one second."""

from __future__ import annotations


def busiest_second(times: list[float]) -> int:
    """How many of these fall into one second, at the most."""
    times, first, most = sorted(times), 0, 0
    for last, now in enumerate(times):
        while now - times[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most
