from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunnelfleet.runtime.metrics.families import PAUSE_SECONDS, WORK_SECONDS, Breather

if TYPE_CHECKING:
    import pytest


def test_it_pauses_when_it_is_time_to(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    pauses: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "sleep", pauses.append)
    breather = Breather()
    breather.breathe()
    assert pauses == []
    now += 1.5 * WORK_SECONDS
    breather.breathe()
    breather.breathe()
    assert pauses == [PAUSE_SECONDS]
