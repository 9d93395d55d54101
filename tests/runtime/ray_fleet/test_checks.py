"""What a fleet on Ray says of how fast its cluster notices a frozen node."""

from __future__ import annotations

import pytest

from tunnelfleet.runtime.ray_fleet import cluster


@pytest.mark.parametrize(
    ("checks", "seconds"),
    [
        (cluster.DEFAULT_CHECKS, 65),
        (
            (
                cluster.FAST_CHECKS["health_check_period_ms"],
                cluster.FAST_CHECKS["health_check_timeout_ms"],
                cluster.FAST_CHECKS["health_check_failure_threshold"],
            ),
            None,
        ),
        ((1_000, 1_000, 5), None),
        ((1_001, 1_000, 5), 10),
        ((2_000, 3_000, 3), 15),
        ((3_000, 2_000, 3), 15),
        ((0, 10_000, 2), 20),
    ],
)
def test_it_warns_by_the_time_that_it_tells(
    monkeypatch: pytest.MonkeyPatch, checks: tuple[int, int, int], seconds: int | None
) -> None:
    monkeypatch.setattr(cluster, "_session", lambda: "session")
    monkeypatch.setattr(cluster, "_read_checks", lambda _session: checks)
    said = cluster.slow_checks()
    if seconds is None:
        assert said == ""
    else:
        assert f"takes about {seconds} s to notice a frozen node" in said
