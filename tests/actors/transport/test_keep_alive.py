"""When to ping, and whom to give up: by table, with a clock that is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.transport.established import (
    MIN_WAIT_SECONDS,
    MOST_SLACK_SECONDS,
    RECHECK_SECONDS,
    SLACK_PARTS,
    GiveUp,
    KeepAlive,
    SendPing,
)

if TYPE_CHECKING:
    from tunnelfleet.actors.transport.established import Command

START = 1_000.0


class Connection:
    """A KeepAlive and its clock; times are seconds since the connection was established."""

    def __init__(
        self, interval: float = 20.0, timeout: float = 5.0, stall: float = 60.0, now: float = START
    ) -> None:
        limits = Limits(
            ping_interval_seconds=interval,
            pong_timeout_seconds=timeout,
            stall_timeout_seconds=stall,
        )
        self.start = now
        self.keep_alive = KeepAlive(limits, now)
        self.is_reading = True
        self.is_blocked = False

    def due(self, at: float) -> Command | None:
        return self.keep_alive.on_due(
            self.start + at, is_reading=self.is_reading, is_blocked=self.is_blocked
        )

    def heard(self, at: float) -> None:
        self.keep_alive.on_heard(self.start + at)

    def pong(self, at: float) -> float | None:
        return self.keep_alive.on_pong(self.start + at)

    def wait(self, at: float) -> float:
        return self.keep_alive.wait_seconds(self.start + at)

    def run(self, until: float, at: float = 0.0) -> list[tuple[float, Command]]:
        """Call `on_due` whenever it wants to be called; return its commands with their times."""
        commands: list[tuple[float, Command]] = []
        while (at := at + self.wait(at)) <= until:
            command = self.due(at)
            if command is not None:
                commands.append((round(at, 3), command))
            if isinstance(command, GiveUp):
                break
        return commands


# -- pings


def test_the_first_ping_is_sent_after_an_interval() -> None:
    connection = Connection(interval=20)
    assert connection.wait(0) == 20
    assert connection.due(19.9) is None
    assert connection.due(20) == SendPing()


def test_while_pings_are_answered_there_is_one_every_interval() -> None:
    connection = Connection(interval=20, timeout=5)
    for at in (20, 40, 60):
        assert connection.run(at, at - 19) == [(at, SendPing())]
        connection.heard(at + 1)
        assert connection.pong(at + 1) == 1.0


def test_there_is_no_second_ping_before_the_first_is_answered() -> None:
    connection = Connection(interval=10, timeout=100)
    assert connection.run(95) == [(10, SendPing())]
    assert connection.pong(95) == 85.0
    assert connection.run(130, 95) == [(100, SendPing())], "back in its old step"


def test_a_late_call_delays_the_pings_and_sends_none_twice() -> None:
    connection = Connection(interval=10, timeout=5)
    assert connection.due(37) == SendPing()
    connection.heard(38)
    assert connection.pong(38) == 1.0
    assert connection.wait(38) == 9.0


# -- pongs


def test_only_the_first_pong_of_a_ping_counts() -> None:
    connection = Connection(interval=20)
    assert connection.pong(1) is None, "unasked for"
    connection.due(20)
    assert connection.pong(20.25) == 0.25
    assert connection.pong(20.5) is None


# -- giving up

GIVE_UP = [
    # interval, timeout, last heard at, given up at
    pytest.param(20, 5, None, 25, id="silent"),
    pytest.param(20, 20, None, 40, id="the defaults: with the next ping due at the same time"),
    pytest.param(5, 20, None, 25, id="several intervals long"),
    pytest.param(20, 5, 19, 25, id="last heard before the ping"),
    pytest.param(20, 5, 20, 25, id="last heard when it was sent"),
    pytest.param(20, 5, 22, 27, id="last heard after the ping: bytes prove life, too"),
]


@pytest.mark.parametrize(("interval", "timeout", "heard_at", "given_up_at"), GIVE_UP)
def test_silence_after_a_ping_is_the_end(
    interval: float, timeout: float, heard_at: float | None, given_up_at: float
) -> None:
    connection = Connection(interval, timeout)
    if heard_at is None:
        commands = connection.run(1_000)
    else:
        commands = connection.run(heard_at)
        connection.heard(heard_at)
        commands += connection.run(1_000, heard_at)
    assert commands == [(interval, SendPing()), (given_up_at, GiveUp(timeout))]


def test_silence_before_a_ping_is_nothing() -> None:
    connection = Connection(interval=20, timeout=5)
    assert connection.due(19) is None
    assert connection.run(24) == [(20, SendPing())]


def test_a_service_that_answers_no_ping_but_sends_bytes_lives() -> None:
    connection = Connection(interval=10, timeout=3)
    assert connection.run(10) == [(10, SendPing())]
    for at in range(10, 500):
        connection.heard(at)
        assert connection.run(at + 1, at) == []


def test_a_pong_ends_the_waiting_although_reading_rests_after_it() -> None:
    connection = Connection(interval=20, timeout=5)
    connection.run(20)
    assert connection.pong(21) == 1.0
    assert connection.wait(21) == 19.0, "nothing is to be judged before the next ping"
    assert connection.run(39, 21) == []


# -- silence that proves nothing


def test_while_nothing_is_read_nobody_is_given_up() -> None:
    connection = Connection(interval=20, timeout=5)
    connection.is_reading = False
    assert connection.run(500) == [(20, SendPing())]
    connection.is_reading = True
    connection.heard(500)
    assert connection.run(1_000, 500) == [(505, GiveUp(5))], "a timeout after reading went on"


def test_while_nothing_is_read_it_looks_again_and_again_but_not_all_the_time() -> None:
    connection = Connection(interval=20, timeout=5)
    connection.is_reading = False
    connection.due(20)
    for at in (25.0, 30.0, 35.0):
        assert connection.due(at) is None
        assert connection.wait(at) == pytest.approx(RECHECK_SECONDS)


def test_a_service_that_reads_nothing_has_the_stall_timeout_on_top() -> None:
    connection = Connection(interval=20, timeout=5, stall=60)
    connection.is_blocked = True
    assert connection.run(1_000) == [(20, SendPing()), (65, GiveUp(65))]


def test_a_service_that_reads_again_has_the_pong_timeout_only() -> None:
    connection = Connection(interval=20, timeout=5, stall=60)
    connection.is_blocked = True
    connection.run(30)
    connection.is_blocked = False
    connection.heard(30)
    (given_up,) = connection.run(1_000, 30)
    assert given_up[1] == GiveUp(5)


# -- waiting


def test_a_timer_that_fires_early_is_set_again_for_more_than_nothing() -> None:
    connection = Connection(interval=20)
    assert connection.due(19.9999) is None
    assert connection.wait(19.9999) == MIN_WAIT_SECONDS


@given(
    st.floats(0.01, 100),
    st.floats(0.01, 100),
    st.lists(st.tuples(st.sampled_from(["due", "heard", "pong"]), st.floats(0, 50)), max_size=50),
)
def test_pings_never_overlap_nor_come_closer_than_an_interval(
    interval: float, timeout: float, steps: list[tuple[str, float]]
) -> None:
    connection = Connection(interval, timeout, now=0.0)
    at, pinged_at, unanswered = 0.0, 0.0, False
    for what, pause in steps:
        at += pause
        if what == "heard":
            connection.heard(at)
        elif what == "pong":
            seconds = connection.pong(at)
            assert seconds == (at - pinged_at if unanswered else None)
            unanswered = False
        else:
            command = connection.due(at)
            if isinstance(command, GiveUp):
                assert unanswered
                assert at - pinged_at >= timeout * 0.999_999
                return
            if command is not None:
                assert not unanswered
                assert at - pinged_at >= interval * 0.999_999
                pinged_at, unanswered = at, True
        slack = min(interval / SLACK_PARTS, MOST_SLACK_SECONDS)
        assert (
            MIN_WAIT_SECONDS
            <= connection.wait(at)
            <= max(interval * 1.000_001 + slack, MIN_WAIT_SECONDS)
        )


@pytest.mark.parametrize(("interval", "slack"), [(20, MOST_SLACK_SECONDS), (0.64, 0.01)])
def test_many_connections_are_woken_for_their_pings_together(interval: float, slack: float) -> None:
    begin = 1_000 * slack
    starts = [begin + part * slack for part in (0.01, 0.5, 0.99)]
    wakes = [at + Connection(interval, now=at).wait(0.0) for at in starts]
    assert wakes == pytest.approx([wakes[0]] * len(wakes))
    assert all(
        0.0 <= wake - at - interval <= 1.01 * slack for wake, at in zip(wakes, starts, strict=True)
    )


def test_the_end_is_told_to_people_with_its_seconds() -> None:
    assert str(GiveUp(20.0)) == "the service has not answered a ping for 20 s"
    assert str(GiveUp(0.25)).endswith("for 0.25 s")
