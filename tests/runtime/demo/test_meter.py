from __future__ import annotations

from tunnelfleet.runtime.demo.plan import Meter


def test_right_bytes_are_verified() -> None:
    meter = Meter()
    meter.compared(1_000, 0, "press-01 HTTP")

    assert (meter.verified_bytes, meter.mismatched_bytes, meter.first_fault) == (1_000, 0, "")


def test_wrong_bytes_are_counted_and_the_first_are_described() -> None:
    meter = Meter()
    meter.compared(1_000, 3, "press-01 HTTP")
    meter.compared(10, 10, "press-02 ECHO")

    assert (meter.verified_bytes, meter.mismatched_bytes) == (997, 13)
    assert meter.first_fault == "press-01 HTTP: 3 of 1,000 bytes wrong"
