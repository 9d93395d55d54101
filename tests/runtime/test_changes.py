"""Waiting: who waits looks again when something happened, misses nothing, and rests in between."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import tunnel as changes_module
from tunnelfleet.runtime.tunnel import WAIT_REST, WAIT_SLICE_SECONDS, Changes


@pytest.fixture
def one_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks again of themselves within the time of a test."""
    monkeypatch.setattr(changes_module, "WAIT_SLICE_SECONDS", 10 * WAIT_SECONDS)


@pytest.mark.parametrize("timeout_seconds", [-1.0, 0.0, 0.01])
@pytest.mark.parametrize("holds", [True, False])
def test_a_condition_is_looked_at_whatever_the_time(timeout_seconds: float, holds: bool) -> None:
    assert Changes().wait_until(lambda: holds, timeout_seconds) is holds


@pytest.mark.usefixtures("one_slice")
def test_what_happens_wakes_all_who_wait() -> None:
    changes, held = Changes(), threading.Event()
    looked = [threading.Event() for _ in range(3)]
    results: list[bool] = []

    def wait(mine: threading.Event) -> None:
        def look() -> bool:
            mine.set()
            return held.is_set()

        results.append(changes.wait_until(look, WAIT_SECONDS))

    threads = [threading.Thread(target=wait, args=(each,)) for each in looked]
    for thread in threads:
        thread.start()
    assert all(each.wait(WAIT_SECONDS) for each in looked)
    held.set()
    changes.note("an event")
    for thread in threads:
        thread.join(WAIT_SECONDS / 2)
    assert results == [True, True, True]


@pytest.mark.usefixtures("one_slice")
def test_what_happens_while_a_condition_is_looked_at_is_not_missed() -> None:
    changes = Changes()
    looks: list[int] = []

    def changes_at_the_first_look() -> bool:
        looks.append(len(looks))
        if len(looks) == 1:
            changes.note()
        return len(looks) == 2

    started = time.monotonic()
    assert changes.wait_until(changes_at_the_first_look, WAIT_SECONDS)
    assert time.monotonic() - started < WAIT_SECONDS / 2, "it waited for the next change"


def test_without_a_change_it_is_looked_at_again_after_a_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes_module, "WAIT_SLICE_SECONDS", 0.01)
    looks: list[None] = []

    def third_look() -> bool:
        looks.append(None)
        return len(looks) == 3

    assert Changes().wait_until(third_look, WAIT_SECONDS)


def test_a_condition_may_note_and_wait_itself() -> None:
    changes = Changes()

    def nested() -> bool:
        changes.note()
        return changes.wait_until(lambda: True, WAIT_SECONDS)

    assert changes.wait_until(nested, WAIT_SECONDS)


@pytest.mark.parametrize(
    ("took_seconds", "timeout_seconds", "rest_seconds"),
    [
        pytest.param(0.0, 10.0, 0.0, id="one that costs nothing"),
        pytest.param(0.01, 10.0, 0.01 * WAIT_REST, id="in proportion"),
        pytest.param(5.0, 10.0, WAIT_SLICE_SECONDS, id="at most a slice"),
        pytest.param(0.9, 1.0, 0.1, id="not beyond the deadline"),
    ],
)
def test_it_rests_as_long_as_the_condition_was_dear(
    monkeypatch: pytest.MonkeyPatch,
    took_seconds: float,
    timeout_seconds: float,
    rest_seconds: float,
) -> None:
    now, rests, changes = [0.0], [], Changes()
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: rests.append(seconds))
    monkeypatch.setattr(changes_module, "time", clock)

    def look() -> bool:
        now[0] += took_seconds
        changes.note()
        return bool(rests)

    assert changes.wait_until(look, timeout_seconds)
    assert rests == [pytest.approx(rest_seconds)]
