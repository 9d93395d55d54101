from __future__ import annotations

import itertools

import pytest

from tests.support.clocks import NOW, SetClock
from tunnelfleet.actors.kernel import moments
from tunnelfleet.actors.kernel.moments import TRUST_SECONDS, Clock, TrustedClock, UnixTime

YEARS = 56 * 365 * 86_400.0
STEPS = pytest.mark.parametrize("step_seconds", [3_600.0, -3_600.0, YEARS, -YEARS])


@STEPS
def test_a_moment_is_told_by_what_the_clock_says_now(step_seconds: float) -> None:
    clock = SetClock()
    moment = clock.moment(NOW)
    clock.passes(60.0)
    clock.steps(step_seconds)
    assert clock.unix(moment) == NOW + step_seconds
    assert clock.wall() - clock.unix(moment) == clock.now() - moment == 60.0


def test_what_is_told_does_not_tremble() -> None:
    """The two clocks are not read at once: what was told would be a change for who compares it."""
    late = itertools.cycle((0.0, 0.1, 0.02))
    clock = Clock(lambda: NOW + next(late), lambda: 0.0)
    assert len({clock.unix(5.0) for _ in range(20)}) == 1


def test_a_process_that_stood_still_between_two_looks_has_not_set_the_clock() -> None:
    class Frozen(SetClock):
        sleeps = 0

        def wall(self) -> float:
            said = super().wall()
            if self.sleeps:
                self.sleeps -= 1
                self.passes(100.0)
            return said

    clock = Frozen()
    before = clock.offset
    clock.sleeps = 2
    assert clock.offset == before
    clock.sleeps = 1
    clock.steps(10.0)
    assert clock.offset == before + 10.0


class Holder:
    __slots__ = ("_since",)
    since = UnixTime()


@STEPS
def test_an_attribute_that_is_a_moment(
    monkeypatch: pytest.MonkeyPatch, step_seconds: float
) -> None:
    clock = SetClock()
    monkeypatch.setattr(moments, "CLOCK", clock)
    holder = Holder()
    holder.since = clock.wall()
    assert holder.since == NOW
    clock.steps(step_seconds)
    clock.passes(5.0)
    assert clock.wall() - holder.since == 5.0
    holder.since = 0.0
    assert holder.since == 0.0


class TestTrust:
    def test_what_was_set_forwards_is_believed_when_it_stays_so(self) -> None:
        clock = SetClock()
        trusted = TrustedClock(clock)
        clock.steps(YEARS)
        assert trusted.unix() == NOW
        clock.passes(TRUST_SECONDS - 1)
        assert trusted.unix() == NOW + TRUST_SECONDS - 1
        clock.passes(1.0)
        assert trusted.unix() == clock.wall()

    def test_what_was_set_back_again_was_never_believed(self) -> None:
        clock = SetClock()
        trusted = TrustedClock(clock)
        clock.steps(YEARS)
        clock.passes(TRUST_SECONDS / 2)
        assert trusted.unix() == clock.wall() - YEARS
        clock.steps(-YEARS)
        assert trusted.unix() == clock.wall()
        clock.passes(TRUST_SECONDS)
        assert trusted.unix() == clock.wall()

    def test_an_earlier_time_is_believed_at_once(self) -> None:
        clock = SetClock()
        trusted = TrustedClock(clock)
        clock.steps(-3_600.0)
        assert trusted.unix() == clock.wall() == NOW - 3_600.0


def test_the_class_has_the_attribute_itself() -> None:
    assert isinstance(Holder.since, UnixTime)


def test_looks_that_are_never_quick_are_taken_as_they_are() -> None:
    seconds = itertools.count(0.0, 10.0)
    assert Clock(lambda: NOW, lambda: next(seconds)).offset == pytest.approx(NOW, abs=1_000.0)
