"""What a runtime uses, summed over its dispatchers."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tunnelfleet.runtime.tunnel import RuntimeStats


def dispatcher(messages: int, dead: int, longest: float) -> Any:
    stats = SimpleNamespace(
        messages_handled=messages, dead_letters=dead, longest_turn_seconds=longest
    )
    return SimpleNamespace(stats=stats)


@pytest.mark.parametrize(
    ("dispatchers", "expected"),
    [
        ([], (0, 0, 0, 0.0)),
        ([dispatcher(5, 1, 0.5)], (1, 5, 1, 0.5)),
        ([dispatcher(5, 1, 0.5), dispatcher(7, 0, 0.25)], (2, 12, 1, 0.5)),
    ],
)
def test_counts_are_summed_and_the_longest_turn_is_that_of_all(
    dispatchers: list[Any], expected: tuple[int, int, int, float]
) -> None:
    stats = RuntimeStats.of(3, dispatchers)
    assert stats.tunnels == 3
    assert stats.threads == threading.active_count()
    assert expected == (
        stats.dispatchers,
        stats.messages_handled,
        stats.dead_letters,
        stats.longest_turn_seconds,
    )
