"""The throttle by its arithmetic, and the syntax of rates."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.token_bucket import (
    MAX_KERNEL_BUFFER_BYTES,
    MAX_QUANTUM_BYTES,
    MIN_KERNEL_BUFFER_BYTES,
    MIN_QUANTUM_BYTES,
    Throttle,
    kernel_buffer_bytes,
    parse_rate,
)
from tunnelfleet.proto import ConfigError


@pytest.mark.parametrize("rate", [1000, 100_000, 3_000_000, 50_000_000])
def test_reads_at_the_rate_over_time(rate: float) -> None:
    throttle, now, taken = Throttle(rate, 0.0), 0.0, 0
    while now < 10:
        now += throttle.wait_seconds(now)
        throttle.spend(throttle.quantum_bytes, now)
        taken += throttle.quantum_bytes
    assert abs(taken - rate * 10) <= 3 * throttle.quantum_bytes


def test_an_idle_bucket_keeps_only_a_short_burst() -> None:
    throttle, taken = Throttle(100_000, 0.0), 0
    while throttle.wait_seconds(3600.0) == 0:
        throttle.spend(throttle.quantum_bytes, 3600.0)
        taken += throttle.quantum_bytes
    assert taken <= 100_000 * 0.05


def test_a_debt_is_waited_out() -> None:
    throttle = Throttle(1000, 0.0)
    throttle.spend(throttle.quantum_bytes + 2000, 0.0)
    assert throttle.wait_seconds(0.0) == pytest.approx((2000 + throttle.quantum_bytes) / 1000)
    assert throttle.wait_seconds(3.0) == 0


def test_the_quantum_is_fine_and_bounded() -> None:
    assert Throttle(1, 0.0).quantum_bytes == MIN_QUANTUM_BYTES
    assert Throttle(100_000, 0.0).quantum_bytes == 2000
    assert Throttle(1e9, 0.0).quantum_bytes == MAX_QUANTUM_BYTES


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_bucket_needs_a_rate(rate: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Throttle(rate, 0.0)


@pytest.mark.parametrize(
    ("rate", "size"),
    [
        (None, MAX_KERNEL_BUFFER_BYTES),
        (1000, MIN_KERNEL_BUFFER_BYTES),
        (1e6, 100_000),
        (1e9, MAX_KERNEL_BUFFER_BYTES),
    ],
)
def test_the_kernels_part_of_the_queue(rate: float | None, size: int) -> None:
    assert kernel_buffer_bytes(rate) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("12500", 12_500),
        ("100kB/s", 100_000),
        ("100 KB/s", 100_000),
        ("800kbit/s", 100_000),
        ("1.5MB/s", 1_500_000),
        ("8bit/s", 1),
        ("2GB/s", 2e9),
        (" 5B/s ", 5),
    ],
)
def test_parses_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-5", "0", "100k", "100kB", "1e9", "0kB/s", "nan"])
def test_refuses_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_rate(text)
