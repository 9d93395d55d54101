"""When a tunnel gives up on marks, by table: the clock of the hello, and links that do not survive.

Every time is in seconds of the same clock.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.tunnel.ends import (
    TRIAL_SECONDS,
    TRIALS,
    HelloClock,
    Marking,
    MarkTrial,
)
from tunnelfleet.actors.tunnel.messages import ConnectionKey
from tunnelfleet.proto import Message, MessageType, Mode, Session

HELLO_SECONDS = 5.0
SSH, HTTP = ("SSH", 1), ("HTTP", 4)

Step = tuple[float, str, object]


def play(clock: HelloClock, steps: list[Step]) -> None:
    """Do each step at its time; `overdue` and `wait` are what the clock must answer."""
    for now, step, argument in steps:
        if step == "started":
            assert isinstance(argument, tuple)
            service_id, stream_id = argument
            clock.started(service_id, stream_id, now)
        elif step == "overdue":
            assert clock.take_overdue(now) == argument, (now, step)
        elif step == "wait":
            assert clock.wait_seconds(now) == pytest.approx(argument), (now, step)
        else:
            {"hold": clock.hold, "go on": clock.go_on}[step](now)


TABLE: dict[str, list[Step]] = {
    "nothing has been sent": [(0, "wait", None), (1e9, "overdue", [])],
    "a hello is overdue after its time, and once": [
        (10, "started", SSH),
        (10, "wait", 5.0),
        (14.9, "overdue", []),
        (14.9, "wait", 0.1),
        (15, "wait", 0.0),
        (15, "overdue", [SSH]),
        (15, "wait", None),
        (99, "overdue", []),
    ],
    "a late look waits no negative time": [(10, "started", SSH), (99, "wait", 0.0)],
    "services have times of their own, and the first to be overdue is waited for": [
        (10, "started", SSH),
        (12, "started", HTTP),
        (12, "wait", 3.0),
        (15, "overdue", [SSH]),
        (15, "wait", 2.0),
        (17, "overdue", [HTTP]),
    ],
    "what is overdue together is told together": [
        (10, "started", SSH),
        (12, "started", HTTP),
        (20, "overdue", [SSH, HTTP]),
    ],
    "the next stream of a service has its own time, and takes the place of the one before": [
        (10, "started", SSH),
        (14, "started", ("SSH", 2)),
        (15, "overdue", []),
        (19, "overdue", [("SSH", 2)]),
    ],
    "it stands still while nothing is read": [
        (10, "started", SSH),
        (12, "hold", None),
        (12, "wait", None),
        (1_000, "overdue", []),
        (1_000, "go on", None),
        (1_000, "wait", 3.0),
        (1_002.9, "overdue", []),
        (1_003, "overdue", [SSH]),
    ],
    "holding twice is holding once": [
        (10, "started", SSH),
        (12, "hold", None),
        (20, "hold", None),
        (30, "go on", None),
        (40, "go on", None),
        (30, "wait", 3.0),
        (33, "overdue", [SSH]),
    ],
    "several pauses add up": [
        (10, "started", SSH),
        (11, "hold", None),
        (21, "go on", None),
        (22, "hold", None),
        (42, "go on", None),
        (44.9, "overdue", []),
        (45, "overdue", [SSH]),
    ],
    "what starts while nothing is read has its whole time afterwards": [
        (10, "hold", None),
        (20, "started", SSH),
        (30, "go on", None),
        (34.9, "overdue", []),
        (35, "overdue", [SSH]),
    ],
    "a pause before a start is no part of its time": [
        (0, "hold", None),
        (7, "go on", None),
        (10, "started", SSH),
        (10, "wait", 5.0),
        (15, "overdue", [SSH]),
    ],
    "what was overdue already when the pause began is told": [
        (10, "started", SSH),
        (16, "hold", None),
        (20, "overdue", [SSH]),
    ],
}


@pytest.mark.parametrize("name", TABLE)
def test_the_clock_of_the_hello(name: str) -> None:
    play(HelloClock(HELLO_SECONDS), TABLE[name])


def test_a_new_link_starts_with_nothing_and_running() -> None:
    """The one before was lost while it was not read."""
    clock = HelloClock(HELLO_SECONDS)
    play(clock, [(10, "started", SSH), (12, "hold", None)])
    clock.clear()
    play(
        clock,
        [
            (100, "wait", None),
            (100, "started", HTTP),
            (100, "wait", 5.0),
            (104.9, "overdue", []),
            (105, "overdue", [HTTP]),
        ],
    )


@given(st.lists(st.tuples(st.floats(0.01, 10.0), st.booleans()), min_size=1))
def test_only_the_time_in_which_the_link_is_read_counts(spans: list[tuple[float, bool]]) -> None:
    clock = HelloClock(HELLO_SECONDS)
    clock.started("SSH", 1, 0.0)
    now = read_seconds = 0.0
    for seconds, is_read in spans:
        (clock.go_on if is_read else clock.hold)(now)
        now += seconds
        read_seconds += seconds if is_read else 0.0
        if abs(read_seconds - HELLO_SECONDS) < 1e-6:
            return
        is_overdue = bool(clock.take_overdue(now))
        assert is_overdue == (read_seconds >= HELLO_SECONDS)
        if is_overdue:
            return


# -- links that do not survive marks


def test_how_long_and_how_often() -> None:
    assert (TRIAL_SECONDS, TRIALS) == (5.0, 2)


TRIAL_TABLE: dict[str, tuple[list[tuple[float, str]], bool]] = {
    "lost twice right after the first marks": (
        [(0, "sent"), (1, "lost"), (10, "sent"), (15, "lost")],
        True,
    ),
    "lost once": ([(0, "sent"), (1, "lost")], False),
    "the first mark counts, not the last": (
        [(0, "sent"), (4, "sent"), (6, "lost"), (10, "sent"), (11, "lost")],
        False,
    ),
    "too late to be because of it": (
        [(0, "sent"), (5.1, "lost"), (10, "sent"), (15.1, "lost")],
        False,
    ),
    "heard from the peer in between": (
        [(0, "sent"), (1, "heard"), (2, "lost"), (10, "sent"), (11, "lost")],
        False,
    ),
    "what was heard before the first marks says nothing: a destination is asked first": (
        [(0, "heard"), (0, "sent"), (1, "lost"), (10, "heard"), (11, "sent"), (12, "lost")],
        True,
    ),
    "a link that survived in between: the count starts anew": (
        [
            *[(0, "sent"), (1, "lost")],
            *[(10, "sent"), (11, "heard"), (12, "lost")],
            *[(20, "sent"), (21, "lost")],
        ],
        False,
    ),
    "a link that was lost for another reason is no suspect, and none after it": (
        [(0, "sent"), (1, "lost"), (10, "lost"), (20, "sent"), (21, "lost")],
        False,
    ),
    "nothing marked was sent": ([(0, "lost"), (1, "lost"), (2, "lost")], False),
    "marks of a link that is over are no reason for the next": (
        [(0, "sent"), (9, "lost"), (10, "lost"), (11, "lost")],
        False,
    ),
    "a link that has survived the first marks is no suspect because of later ones": (
        [
            *[(0, "sent"), (1, "heard"), (2, "sent"), (3, "lost")],
            *[(10, "sent"), (11, "heard"), (12, "sent"), (13, "lost")],
        ],
        False,
    ),
}


@pytest.mark.parametrize("name", TRIAL_TABLE)
def test_whether_links_survive_marks(name: str) -> None:
    steps, expected = TRIAL_TABLE[name]
    trial = MarkTrial()
    answer = False
    for now, step in steps:
        assert not answer, "no earlier than at the last step"
        if step == "lost":
            answer = trial.lost(now)
        elif step == "sent":
            trial.sent(now)
        else:
            trial.heard()
    assert answer is expected


class MarkedTunnel:
    """The marks of a source, whose session has started one stream."""

    def __init__(self) -> None:
        self.session = Session(Mode.SOURCE)
        self.session.connected()
        services = Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",))
        self.session.receive(services)
        self.marking = Marking(self.session, 5.0)
        opened = self.session.open_connection("SSH")
        self.key = ConnectionKey("SSH", opened.stream_id, opened.connection_id, 1)
        self.marking.start_queued(opened.messages[-1], self.key, 0.0)


def test_the_time_for_a_hello_begins_when_the_start_has_left() -> None:
    tunnel = MarkedTunnel()
    marking = tunnel.marking
    assert marking.queued
    assert marking.wait_seconds(100.0) is None, "it may wait as long as it likes"
    marking.left([tunnel.key._replace(serial=2)], 100.0)
    assert marking.queued, "that was another connection's"
    marking.left([tunnel.key], 100.0)
    assert not marking.queued
    assert marking.wait_seconds(101.0) == 4.0
    assert marking.overdue(104.9) == []
    assert tunnel.session.awaits_hello("SSH", 1)
    marking.overdue(105.0)
    assert not tunnel.session.awaits_hello("SSH", 1)


def test_a_link_that_is_held_has_more_time_for_its_hello() -> None:
    tunnel = MarkedTunnel()
    tunnel.marking.left([tunnel.key], 0.0)
    tunnel.marking.hold(1.0, is_held=True)
    assert tunnel.marking.wait_seconds(50.0) is None
    tunnel.marking.hold(50.0, is_held=False)
    assert tunnel.marking.wait_seconds(50.0) == 4.0


def test_with_the_link_all_that_waited_is_over() -> None:
    tunnel = MarkedTunnel()
    assert not tunnel.marking.link_ended(0.0, is_lost=False)
    assert not tunnel.marking.queued
    assert tunnel.marking.wait_seconds(0.0) is None


def test_two_links_that_do_not_survive_marks_are_the_last_ones_with_marks() -> None:
    tunnel = MarkedTunnel()
    assert not tunnel.marking.link_ended(1.0, is_lost=True)
    tunnel.marking.sent(Message(MessageType.DATA, 1, ignorable=True), 2.0)
    assert tunnel.marking.link_ended(3.0, is_lost=True)
    tunnel.session.disconnected()
    services = Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",))
    tunnel.session.receive(services)
    assert not tunnel.session.open_connection("SSH").messages[-1].ignorable
