"""What may be in flight: over simulated links, by property, and by table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.simulated_link import SimulatedLink
from tunnelfleet.actors.tunnel.in_flight import (
    FIRST_WINDOW_BYTES,
    HOPELESS_SECONDS,
    MIN_WINDOW_BYTES,
    PATIENCE,
    QUIET_WINDOW_BYTES,
    UNLIMITED,
    FlightPhase,
    InFlight,
    Standing,
)
from tunnelfleet.actors.tunnel.pacing import DRAIN_AFTER_SECONDS

TARGET_SECONDS = 0.1
RATES = (10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0, 100_000_000.0)
WARM_UP_SECONDS = 5.0
LEAST_SHARE = 0.85


def duration(rate: float) -> float:
    """Seconds of a run behind the warm-up: fewer where a second has many messages."""
    return 3.0 if rate > 20_000_000 else 25.0


# -- links on which pings follow the data


LINKS = [
    (rate, way_seconds, buffer_bytes)
    for rate in RATES
    for way_seconds in (0.0005, 0.02, 0.15)
    for buffer_bytes in (65_536, 4_000_000)
    # Otherwise the kernel of the service holds back the tunnel, whatever we do.
    if rate * 2 * way_seconds * 4 <= buffer_bytes
]


@pytest.mark.parametrize(("rate", "way_seconds", "buffer_bytes"), LINKS)
def test_a_link_is_filled_and_hardly_a_queue_stands(
    rate: float, way_seconds: float, buffer_bytes: int
) -> None:
    link = SimulatedLink(rate, way_seconds, buffer_bytes).run(WARM_UP_SECONDS + duration(rate))
    assert link.rate_since(WARM_UP_SECONDS) >= LEAST_SHARE * rate
    floor_seconds = 2 * MIN_WINDOW_BYTES / rate
    assert link.delay_since(WARM_UP_SECONDS) <= 1.5 * TARGET_SECONDS + floor_seconds


@pytest.mark.parametrize("jitter_seconds", [0.01, 0.03, 0.05])
@pytest.mark.parametrize("rate", [10_000.0, 100_000.0, 1_000_000.0])
def test_a_link_whose_way_varies_is_filled(rate: float, jitter_seconds: float) -> None:
    link = SimulatedLink(rate, 0.02, jitter_seconds=jitter_seconds).run(45.0)
    assert link.rate_since(15.0) >= LEAST_SHARE * rate
    floor_seconds = 2 * MIN_WINDOW_BYTES / rate
    # A message that waits for another one on its way counts as if it stood in the service.
    assert link.delay_since(15.0) <= 2 * TARGET_SECONDS + jitter_seconds + floor_seconds


@pytest.mark.parametrize(("before", "behind"), [(1e5, 1e6), (1e6, 1e5), (1e5, 1e7), (1e7, 1e5)])
def test_a_rate_that_changes_is_followed(before: float, behind: float) -> None:
    link = SimulatedLink(lambda now: before if now < 10.0 else behind, 0.02, 1_000_000)
    link.run(10.0)
    assert link.rate_since(WARM_UP_SECONDS) >= LEAST_SHARE * before
    # What was in flight by then has to leave, at the new rate.
    begin = 20.0 + 1_000_000 / behind
    link.run(begin + 20.0 - link.now)
    assert link.rate_since(begin) >= LEAST_SHARE * behind
    assert link.delay_since(begin) <= 2 * TARGET_SECONDS


@pytest.mark.parametrize(("before", "behind"), [(1e6, 1e5), (1e5, 1e4), (2e5, 1.5e4)])
def test_a_link_that_becomes_slow_for_a_while_stays_paced(before: float, behind: float) -> None:
    link = SimulatedLink(lambda now: behind if 10.0 <= now < 60.0 else before, 0.02)
    link.run(80.0)
    assert link.rate_since(10.0) >= LEAST_SHARE * (50 * behind + 20 * before) / 70
    # Whether more in flight helps is tried out with such a window, and no more of it.
    tried_seconds = QUIET_WINDOW_BYTES / behind + HOPELESS_SECONDS
    assert max(r.seconds for r in link.relayed) <= tried_seconds + 2.0
    slow = {int(r.at) for r in link.relayed if r.seconds > 5 * TARGET_SECONDS}
    assert len(slow) <= 20


def test_a_way_that_becomes_longer_does_not_slow_the_link_down() -> None:
    link = SimulatedLink(100_000.0, 0.005).run(10.0)
    link.way_seconds = 0.1
    link.run(4 * DRAIN_AFTER_SECONDS)
    assert link.rate_since(link.now - 15.0) >= LEAST_SHARE * 100_000
    assert link.delay_since(link.now - 15.0) <= 2 * TARGET_SECONDS


def test_the_queue_does_not_creep_up_in_a_copy_without_end() -> None:
    link = SimulatedLink(100_000.0, 0.01).run(120.0)
    assert link.delay_since(90.0) <= 1.5 * TARGET_SECONDS
    assert link.rate_since(WARM_UP_SECONDS) >= 0.95 * 100_000


def test_without_it_the_same_link_has_a_long_queue() -> None:
    link = SimulatedLink(100_000.0, 0.01, 200_000, in_flight=InFlight(None)).run(20.0)
    assert link.delay_since(WARM_UP_SECONDS) > 1.0
    assert link.pings == 0


def test_pings_are_a_few_a_second() -> None:
    link = SimulatedLink(100_000.0, 0.001).run(60.0)
    assert 5 * 60 < link.pings < 40 * 60


# -- links on which they do not


@pytest.mark.parametrize("stagger", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [50_000.0, 100_000.0, 200_000.0, 400_000.0])
@pytest.mark.parametrize(("ahead", "most_seconds"), [(1, 0.35), (4, 0.4), (16, 0.5)])
def test_a_service_that_parses_some_messages_ahead_has_a_short_queue(
    ahead: int, most_seconds: float, rate: float, stagger: float
) -> None:
    in_flight = InFlight(TARGET_SECONDS, stagger=stagger)
    link = SimulatedLink(rate, 0.001, 65_536, ahead=ahead, in_flight=in_flight).run(45.0)
    assert link.rate_since(WARM_UP_SECONDS) >= 0.95 * rate
    assert link.delay_since(WARM_UP_SECONDS) <= most_seconds


@pytest.mark.parametrize("rate", [100_000.0, 10_000_000.0])
@pytest.mark.parametrize("answers", ["never", "ahead"])
def test_a_service_whose_pongs_say_nothing_loses_nothing(answers: str, rate: float) -> None:
    with_it = SimulatedLink(rate, 0.01, 400_000, answers=answers).run(30.0)
    without = SimulatedLink(rate, 0.01, 400_000, in_flight=InFlight(None)).run(30.0)
    begin = WARM_UP_SECONDS
    assert with_it.rate_since(begin) >= 0.95 * without.rate_since(begin)


def test_a_service_that_answers_no_ping_is_asked_no_more() -> None:
    link = SimulatedLink(100_000.0, 0.01, 400_000, answers="never").run(10.0)
    assert link.in_flight.phase is FlightPhase.SILENT
    assert link.in_flight.does_answer is False
    pings = link.pings
    link.run(30.0)
    assert link.pings == pings


def test_a_service_that_falls_silent_does_not_hold_up_the_tunnel_for_ever() -> None:
    link = SimulatedLink(100_000.0, 0.01, 400_000).run(10.0)
    assert link.in_flight.phase is FlightPhase.LIMITED
    link.answers = "never"
    link.run(2.0 * 2 ** (PATIENCE + 2))
    assert link.in_flight.phase is FlightPhase.SILENT
    assert link.rate_since(link.now - 10.0) >= LEAST_SHARE * 100_000


def test_a_pong_that_comes_at_last_limits_again() -> None:
    flight = silent()
    assert flight.pong(1, FIRST_WINDOW_BYTES, 9.0) is not None
    assert flight.phase is FlightPhase.STARTING
    assert flight.does_answer is True


# -- tunnels that have little to send


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_tunnel_that_sends_less_than_its_link_carries_is_not_limited(share: float) -> None:
    offered = share * 100_000
    link = SimulatedLink(100_000.0, 0.01, offered=lambda now: offered * now).run(30.0)
    assert link.rate_since(WARM_UP_SECONDS) == pytest.approx(offered, rel=0.1)
    assert link.in_flight.bytes_per_second is None
    assert link.in_flight.window_bytes <= QUIET_WINDOW_BYTES


def test_bursts_that_have_time_are_not_taken_for_the_rate_of_the_link() -> None:
    link = SimulatedLink(100_000.0, 0.01, offered=lambda now: 20_000 * int(now)).run(40.0)
    assert link.rate_since(WARM_UP_SECONDS) == pytest.approx(20_000, rel=0.1)
    rate = link.in_flight.bytes_per_second
    assert rate is None or rate >= 80_000


def test_a_tunnel_that_has_sent_nothing_pings_in_front_of_its_first_byte() -> None:
    flight = InFlight(TARGET_SECONDS)
    assert flight.quiet_until == 0
    assert flight.is_ping_due(0, is_busy=False)
    flight.ping(0, 1.0, is_busy=False)
    assert flight.quiet_until > 0
    assert not flight.is_ping_due(0, is_busy=True)


# -- by property


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(10_000.0, 5_000_000.0),
    way=st.floats(0.0, 0.3),
    buffer_bytes=st.integers(16_384, 4_000_000),
    jitter=st.floats(0.0, 0.3),
    ahead=st.integers(0, 64),
    answers=st.sampled_from(["in order", "ahead", "never"]),
    changes=st.lists(st.tuples(st.floats(0.5, 10.0), st.floats(0.1, 10.0)), max_size=3),
)
def test_no_link_stops_for_ever(
    rate: float,
    way: float,
    buffer_bytes: int,
    jitter: float,
    ahead: int,
    answers: str,
    changes: list[tuple[float, float]],
) -> None:
    def rate_at(now: float) -> float:
        found = rate
        for at, factor in changes:
            found = found * factor if now >= at else found
        return min(max(found, 5_000.0), 20_000_000.0)

    link = SimulatedLink(rate_at, way, buffer_bytes, jitter, ahead, answers).run(12.0)
    for _ in range(3):
        before = len(link.relayed), link.sent_bytes
        # All that can stand in the service leaves in this time, at its lowest rate.
        link.run(20.0 + (buffer_bytes + 70_000 * (ahead + 1)) / rate_at(link.now))
        assert len(link.relayed) > before[0]
        assert link.sent_bytes > before[1]
    assert link.least_window >= MIN_WINDOW_BYTES


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("hand over"), st.integers(1, 70_000)),
            st.tuples(st.just("pong"), st.integers(0, 8)),
            st.tuples(st.just("wait"), st.floats(0.0, 3.0)),
            st.tuples(st.just("hold"), st.booleans()),
        ),
        max_size=60,
    )
)
def test_whoever_waits_has_a_ping_under_way_or_room_before_long(
    steps: list[tuple[str, float]],
) -> None:
    flight, now, pinged, handed = InFlight(TARGET_SECONDS), 0.0, 0, 0
    for what, number in steps:
        if what == "hand over" and flight.has_room(handed):
            handed += int(number)
        elif what == "pong":
            flight.pong(pinged - int(number), handed, now)
        elif what == "hold":
            flight.hold(handed, now, is_held=bool(number))
        now += number if what == "wait" else 0.001
        if flight.is_ping_due(handed, is_busy=True):
            pinged = flight.ping(handed, now, is_busy=True, burst=(now, handed))
    waited = 0.0
    while not flight.has_room(handed):
        seconds = flight.wait_seconds(handed, now)
        assert seconds >= 0.0
        waited, now = waited + seconds, now + seconds
        assert waited < 60.0
        if flight.is_ping_due(handed, is_busy=True):
            flight.ping(handed, now, is_busy=True)


# -- by table


def silent() -> InFlight:
    """Of a service that has not answered its first ping."""
    flight, now, handed = InFlight(TARGET_SECONDS), 0.0, 0
    flight.ping(handed, now, is_busy=True)
    while flight.phase is not FlightPhase.SILENT:
        handed += FIRST_WINDOW_BYTES
        now += 0.0 if flight.has_room(handed) else flight.wait_seconds(handed, now)
    return flight


def test_off_it_limits_nothing_and_asks_nothing() -> None:
    flight = InFlight(None)
    for position in range(0, 10**11, 10**9):
        assert flight.has_room(position)
        assert position < flight.quiet_until
        assert not flight.is_ping_due(position, is_busy=True)
    assert flight.payload_bytes == UNLIMITED
    assert flight.pong(1, 10**11, 2.0) is None


def test_a_link_after_one_without_answers_begins_without_a_limit() -> None:
    flight = InFlight(TARGET_SECONDS, does_answer=False)
    assert flight.phase is FlightPhase.SILENT
    assert flight.quiet_until == UNLIMITED
    assert not flight.is_ping_due(0, is_busy=True)


@pytest.mark.parametrize("number", [-1, 0, 2, 10**30])
def test_a_pong_that_nobody_waits_for_says_nothing(number: int) -> None:
    flight = InFlight(TARGET_SECONDS)
    assert flight.ping(0, 0.0, is_busy=True) == 1
    assert flight.pong(number, 0, 1.0) is None
    assert flight.does_answer is None


def test_the_answer_to_a_later_ping_answers_those_before_it() -> None:
    flight = InFlight(TARGET_SECONDS)
    flight.ping(0, 0.0, is_busy=True)
    second = flight.ping(5_000, 0.0, is_busy=True)
    assert flight.pong(second, 5_000, 0.5) == Standing(0.0, 0.0)
    assert flight.pong(1, 5_000, 0.6) is None


def test_it_tells_how_long_bytes_stood_and_the_tunnel_waited() -> None:
    flight = InFlight(TARGET_SECONDS)
    first, handed = flight.ping(0, 0.0, is_busy=True), FIRST_WINDOW_BYTES
    second = flight.ping(handed, 0.0, is_busy=True)
    assert flight.wait_seconds(handed, 0.0) > 0
    assert flight.pong(first, handed, 0.01) == Standing(0.0, 0.0)
    answer = flight.pong(second, handed, 0.05)
    assert answer == pytest.approx((0.04, 0.05))


def test_a_link_that_is_not_read_is_not_limited_meanwhile() -> None:
    flight = InFlight(TARGET_SECONDS)
    number, handed = flight.ping(0, 0.0, is_busy=True), FIRST_WINDOW_BYTES
    assert not flight.has_room(handed)
    flight.hold(handed, 0.0, is_held=True)
    assert flight.has_room(handed)
    assert flight.pong(number, handed, 5.0) is None
    flight.hold(handed, 6.0, is_held=False)
    assert flight.has_room(handed)
    assert flight.is_ping_due(handed, is_busy=True)
    assert flight.does_answer is None


def test_a_link_without_a_queue_is_not_held_back_for_long() -> None:
    link = SimulatedLink(100_000_000.0, 0.0005).run(0.2)
    assert link.in_flight.window_bytes > 1_000_000
    assert link.sent_bytes > LEAST_SHARE * 0.15 * 100_000_000
