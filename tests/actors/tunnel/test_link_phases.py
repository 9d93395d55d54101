"""Link alone: its phases, and what its WebSocketActor is told in each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tunnel_parts import PartBench, Teller
from tunnelfleet.actors.kernel import NORMAL, ExitReason, RestartChild
from tunnelfleet.actors.tunnel.link import Link, LinkPhase
from tunnelfleet.actors.tunnel.messages import (
    Abandon,
    CloseGracefully,
    ConnectionEstablished,
    PauseReading,
    ResumeReading,
    SetLowWater,
)
from tunnelfleet.proto import ConnectionLost

LOST = ExitReason.failed(ConnectionLost("lost", "the connection broke"))


class Setting(PartBench):
    """A link, and what its WebSocketActor was told."""

    def __init__(self, phase: LinkPhase = LinkPhase.ANNOUNCED) -> None:
        super().__init__()
        self.link = Link(self.common)
        self.websocket = Teller()
        if phase is not LinkPhase.DOWN:
            self.establish()
        if phase in (LinkPhase.ANNOUNCED, LinkPhase.CLOSING, LinkPhase.GIVEN_UP):
            self.link.announced()
        if phase is LinkPhase.CLOSING:
            self.link.close()
        elif phase is LinkPhase.GIVEN_UP:
            self.link.give_up("protocol_error", "nonsense")
        assert self.link.phase is phase
        self.websocket.told.clear()

    def establish(self, epoch: int = 1) -> None:
        websocket: Any = self.websocket
        self.link.started(websocket)
        self.link.established(ConnectionEstablished(epoch, websocket, "channel"))


def told_kinds(setting: Setting) -> list[str]:
    return [type(message).__name__ for message in setting.websocket.told]


@pytest.mark.parametrize(
    ("phase", "is_up", "is_announced"),
    [
        (LinkPhase.DOWN, False, False),
        (LinkPhase.OPEN, True, False),
        (LinkPhase.ANNOUNCED, True, True),
        (LinkPhase.GIVEN_UP, True, False),
        (LinkPhase.CLOSING, True, False),
    ],
)
def test_what_each_phase_allows(phase: LinkPhase, is_up: bool, is_announced: bool) -> None:
    link = Setting(phase).link
    assert (link.is_up, link.is_announced) == (is_up, is_announced)
    assert link.is_of(1) is is_up
    assert not link.is_of(2), "a message of another link is late"


@pytest.mark.parametrize(
    ("phase", "closes"),
    [
        (LinkPhase.DOWN, False),
        (LinkPhase.OPEN, True),
        (LinkPhase.ANNOUNCED, True),
        (LinkPhase.GIVEN_UP, False),
        (LinkPhase.CLOSING, False),
    ],
)
def test_it_is_closed_once_and_only_where_it_is_up(phase: LinkPhase, closes: bool) -> None:
    setting = Setting(phase)
    setting.link.close()
    assert setting.websocket.told == ([CloseGracefully()] if closes else [])


def test_its_websocket_is_there_for_messages_while_it_is_up() -> None:
    setting = Setting()
    assert setting.link.websocket is setting.websocket
    setting.link.ended(LOST)
    assert setting.link.websocket is None


def test_it_is_held_and_let_go_once_each() -> None:
    setting = Setting()
    changes = [setting.link.hold(must_hold=must) for must in (False, True, True, False)]
    assert changes == [False, True, False, True]
    assert setting.websocket.told == [PauseReading(), ResumeReading()]


def test_what_is_down_is_not_held_and_what_comes_up_is_not_held_yet() -> None:
    setting = Setting(LinkPhase.DOWN)
    assert not setting.link.hold(must_hold=True)
    setting.establish()
    setting.link.hold(must_hold=True)
    setting.link.ended(LOST)
    setting.establish(2)
    assert not setting.link.is_held


def test_low_water_is_set_where_the_rate_is_another_one_by_far() -> None:
    setting = Setting()
    present = setting.common.limits.notsent_low_water_bytes
    for wanted in (present, present // 2 + 1, present // 2, present // 2 + 1, present):
        setting.link.adapt_low_water(wanted)
    assert setting.websocket.told == [SetLowWater(present // 2), SetLowWater(present)]


def test_a_link_that_is_given_up_says_why() -> None:
    setting = Setting()
    setting.link.give_up("protocol_error", "nonsense")
    (abandon,) = setting.websocket.told
    assert (abandon.label, str(abandon.error)) == ("protocol_error", "nonsense")
    assert setting.link.ended(LOST)
    assert setting.link.phase is LinkPhase.DOWN


def test_a_loss_is_counted_as_a_reconnect_once_it_is_back() -> None:
    setting = Setting()
    assert setting.link.ended(LOST), "there was a link"
    assert setting.link.lost_text == "the connection broke"
    assert setting.stats.reconnects == {}
    setting.establish(2)
    setting.link.announced()
    assert setting.stats.reconnects == {"lost": 1}
    assert setting.link.lost_text == ""
    assert setting.stats.connect_failures == {}


def test_an_attempt_that_fails_is_no_loss() -> None:
    setting = Setting(LinkPhase.DOWN)
    assert not setting.link.ended(ExitReason.failed(ConnectionLost("tls", "no")))
    assert not setting.link.ended(ExitReason.failed(ZeroDivisionError()))
    assert setting.stats.connect_failures == {"tls": 1, "crashed": 1}


def test_a_new_token_ends_the_attempt_and_is_tried_at_once_however_that_ends() -> None:
    for reason in (LOST, NORMAL):
        setting = Setting()
        setting.link.try_with_new_token()
        assert [type(message) for message in setting.websocket.told] == [Abandon]
        setting.link.ended(reason)
        # After a failure the supervisor waits, and says so; a refusal it does not try again.
        assert setting.link.try_again_if_wanted() is reason.is_failure
        assert setting.transport.told == [RestartChild("websocket")]
        assert not setting.link.try_again_if_wanted(), "once"


def test_a_new_token_without_an_attempt_is_tried_at_once() -> None:
    setting = Setting()
    setting.websocket.alive = False
    setting.link.try_with_new_token()
    assert setting.transport.told == [RestartChild("websocket")]
    assert told_kinds(setting) == []


def test_a_backoff_says_for_how_long_and_after_what() -> None:
    setting = Setting()
    setting.link.tell_backoff(1.54)
    assert setting.stats.reason == "retry in 1.5 s"
    setting.link.ended(LOST)
    setting.link.tell_backoff(3.0)
    assert setting.stats.reason == "the connection broke; retry in 3.0 s"
