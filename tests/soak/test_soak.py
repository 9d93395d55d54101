"""The soak itself: its judgement by numbers, and a run of a few seconds."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from tests.soak import soak
from tests.soak.heap import MIB_BYTES, heap
from tests.soak.pace import Pace
from tests.soak.plot import plot
from tests.soak.slopes import BOUNDS_PERCENT, HOUR_SECONDS, slope
from tests.soak.soak import Plan, Soak
from tunnelfleet.runtime.memory import MALLOC_ARENAS

MINUTES_30 = [5.0 * number for number in range(360)]


def noisy(mean: float, percent_an_hour: float, noise: float) -> list[tuple[float, float]]:
    rng = random.Random(7)
    growth = mean * percent_an_hour / 100 / HOUR_SECONDS
    return [(at, mean + growth * at + rng.gauss(0.0, noise)) for at in MINUTES_30]


@pytest.mark.parametrize(
    ("points", "is_flat"),
    [
        pytest.param(noisy(100.0, 0.0, 0.0), True, id="constant"),
        pytest.param(noisy(100.0, 0.0, 5.0), True, id="noise"),
        pytest.param(noisy(100.0, 3.0, 1.0), True, id="below the bound"),
        pytest.param(noisy(100.0, 12.0, 1.0), False, id="grows"),
        pytest.param(noisy(100.0, -50.0, 1.0), True, id="falls"),
        pytest.param(noisy(100.0, 0.0, 60.0), False, id="too noisy to say that it does not grow"),
        pytest.param(
            [(at, 100.0 + min(at, 300.0)) for at in MINUTES_30], True, id="grows at first"
        ),
    ],
)
def test_a_series_is_flat_when_its_interval_is_below_the_bound(
    points: list[tuple[float, float]], is_flat: bool
) -> None:
    found = slope(points, 8.0)
    assert found.low <= found.percent <= found.high
    assert found.is_flat is is_flat, found


def test_the_slope_is_in_percent_of_the_mean_an_hour() -> None:
    found = slope([(at, 100.0 + at / 100.0) for at in MINUTES_30], 8.0)
    assert found.percent == pytest.approx(36.0 / found.mean * 100.0)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-6)


def test_the_pace_of_the_machine_is_told_as_often_as_asked_and_its_process_ends() -> None:
    with Pace() as pace:
        assert pace.beat_us() > 0
        assert pace.beat_us() > 0
        process = pace._process
    assert process.returncode == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_points_are_said_to_be(count: int) -> None:
    with pytest.raises(ValueError, match="three points"):
        slope([(float(at), 1.0) for at in range(count)], 8.0)


def test_what_is_in_use_is_what_was_taken_and_not_given_back() -> None:
    before = heap()
    if "heap MiB" not in before:
        pytest.skip("malloc is not glibc's")
    kept = [bytes(MIB_BYTES) for _ in range(32)], [float(number) for number in range(50_000)]
    during = heap()
    assert during["heap MiB"] - before["heap MiB"] > 30.0
    assert during["blocks"] - before["blocks"] > 45_000
    del kept
    after = heap()
    assert during["heap MiB"] - after["heap MiB"] > 30.0
    assert during["blocks"] - after["blocks"] > 45_000


def test_a_run_of_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything happens in it, every byte is compared, and all tunnels carry at its end."""
    monkeypatch.setattr(soak, "freeze_garbage", lambda: None)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    plan = Plan(
        seconds=2.0,
        tunnels=4,
        clients=2,
        drop_seconds=0.2,
        churn_seconds=0.5,
        churn_tunnels=1,
        sample_seconds=0.2,
        warm_seconds=1.0,
        warm_speed=2.0,
    )
    # Its Unix sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        report = Soak(plan, Path(folder)).run()
    counts = report["counts"]
    assert counts["links dropped"] > 0
    assert counts["reloads"] > 0
    assert counts["bytes compared"] > 0
    assert counts["tunnels that carry at the end"] == plan.tunnels
    assert set(report["slopes"]) == set(BOUNDS_PERCENT)
    # One beside them is that of the thread that answers the soak, which begins before the gateway.
    assert report["samples"][-1]["gateway arenas"] <= MALLOC_ARENAS + 1
    assert plot(report, tmp_path / "soak.svg").read_text().startswith("<?xml")
