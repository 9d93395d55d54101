"""The benchmarks run, and print what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.bench import carry_bench, idle_bench, load_bench, storm_bench

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.programs("socat", "openssl")
def test_a_connection_is_measured_beside_socat() -> None:
    results = carry_bench.run(megabytes=2, round_trips=20, rounds=2)
    for kind in ("tls", "plain"):
        for name in (f"tunnelfleet {kind}", f"socat {kind}", f"tunnelfleet / socat {kind}"):
            assert results[name]["megabytes_per_second"] > 0
            assert results[name]["round_trip_median_us"] > 0
        ratio = results[f"tunnelfleet / socat {kind}"]
        least, most = (ratio[f"megabytes_per_second {end}"] for end in ("least", "most"))
        assert least <= ratio["megabytes_per_second"] <= most


def test_idle_tunnels_are_measured() -> None:
    (figures,) = idle_bench.run(tunnels=5, scrapes=2).values()
    assert figures["threads"] <= 16
    assert figures["rss_mb"] > 0


def test_storms_are_measured() -> None:
    results = storm_bench.run(tunnels=5, idle_seconds=0.01)
    for name in ("storm of 5 connects", "storm of 5 when all are dropped"):
        assert results[name]["connects_per_second"] > 0
        assert results[name]["service_cpu_ms"] > 0
    assert "percent_of_a_core_with_pings" in results["5 idle tunnels"]


def test_tunnels_at_a_steady_rate_are_measured() -> None:
    figures = load_bench.steady(tunnels=2, bytes_per_second=1_000, seconds=0.5)
    assert 0 < figures["least_bytes_per_second"] <= figures["mean_bytes_per_second"]


def test_short_connections_are_measured() -> None:
    assert load_bench.short(connections=20)["connections_per_second"] > 0


@pytest.mark.long
def test_workers_are_measured() -> None:
    assert load_bench.workers(tunnels=2, seconds=3.0)["two_workers_mb_per_second"] > 0


@pytest.mark.parametrize("section", ["nonsense", "kernels"])
def test_an_unknown_section_is_a_usage_error(section: str) -> None:
    command = [sys.executable, "-m", "tests.bench", "--only", section]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert section in done.stderr


def test_the_result_is_one_json_object_on_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "--quick", "--only", "idle"]
    command += ["--history", str(tmp_path / "history.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "100 idle TLS tunnels" in json.loads(done.stdout)
    assert "kb_per_tunnel" in done.stderr
