"""Brake alone: who may hold the link, and when it is looked for what stalls it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.tunnel_parts import PartBench, Teller
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.tunnel.connections import Connection, ConnectionTable
from tunnelfleet.actors.tunnel.link import (
    LEAST_STALL_CHECK_SECONDS,
    Brake,
    BrakeHooks,
    CheckStalled,
    Link,
)
from tunnelfleet.actors.tunnel.messages import (
    ConnectionEstablished,
    ConnectionKey,
    PauseReading,
    ResumeReading,
)

KEY = ConnectionKey("SSH", 1, 1, 1)


class Setting(PartBench):
    """A brake on a link that is up, and what came of it."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(limits=Limits(**limits))
        common = self.common
        self.websocket = Teller()
        websocket: Any = self.websocket
        self.link = Link(common)
        self.link.established(ConnectionEstablished(1, websocket, "channel"))
        self.connections = ConnectionTable(common.limits, common.session, common.stats)
        self.scheduled: list[tuple[float, Any]] = []
        self.changes: list[bool] = []
        hooks = BrakeHooks(self._schedule, lambda is_held, _now: self.changes.append(is_held))
        self.brake = Brake(common, self.connections, self.link, hooks)

    def _schedule(self, seconds: float, message: Any) -> Any:
        self.scheduled.append((seconds, message))
        return object()

    def fill(self) -> Connection:
        """A connection that has not taken more than it may."""
        stream: Any = Teller()
        counters = self.common.stats.service(KEY.service_id)
        connection = self.connections.add(KEY, stream, counters, 0.0)
        size_bytes = self.common.limits.receive_backlog_bytes + 1
        self.connections.received(connection, size_bytes, 0.0)
        return connection

    @property
    def told(self) -> list[type]:
        return [type(message) for message in self.websocket.told]


def test_nothing_holds_a_link_that_everybody_keeps_up_with() -> None:
    setting = Setting()
    setting.brake.add(lambda: False)
    setting.brake.check()
    assert setting.told == []
    assert setting.changes == []
    assert setting.scheduled == []


def test_a_backlog_holds_the_link_once_until_it_was_taken() -> None:
    setting = Setting(stall_timeout_seconds=7.0)
    connection = setting.fill()
    setting.brake.check()
    setting.brake.check()
    assert setting.told == [PauseReading]
    assert setting.scheduled == [(1.75, CheckStalled())]
    setting.connections.delivered(connection, connection.backlog_bytes, 1.0)
    setting.brake.check()
    assert setting.told == [PauseReading, ResumeReading]
    assert setting.changes == [True, False]


@pytest.mark.parametrize("full", [(True, False), (False, True), (True, True)])
def test_each_of_those_that_were_added_may_hold_it(full: tuple[bool, bool]) -> None:
    setting = Setting()
    for is_full in full:
        setting.brake.add(lambda is_full=is_full: is_full)
    setting.brake.check()
    assert setting.told == [PauseReading]


@pytest.mark.parametrize(("stall", "wait"), [(20.0, 5.0), (0.01, LEAST_STALL_CHECK_SECONDS)])
def test_while_it_is_held_it_is_looked_after_each_quarter_of_the_time(
    stall: float, wait: float
) -> None:
    setting = Setting(stall_timeout_seconds=stall)
    setting.fill()
    setting.brake.check()
    assert setting.brake.must_look_for_stalled(time.monotonic())
    setting.brake.look_again()
    setting.brake.look_again()
    assert setting.scheduled == [(wait, CheckStalled())] * 2


@pytest.mark.parametrize(
    ("late", "is_excused"), [(0.5, False), (40.0, True), (300.0, True)], ids=str
)
def test_the_time_in_which_the_process_stood_still_is_held_against_nobody(
    late: float, is_excused: bool
) -> None:
    setting = Setting(stall_timeout_seconds=60.0)
    connection = setting.fill()
    setting.brake.check()
    due_at = time.monotonic() + 15.0
    connection.progress_at = due_at - 15.0
    quiet = setting.connections.add(
        KEY._replace(connection_id=2), connection.stream, connection.counters, 0.0
    )
    assert setting.brake.must_look_for_stalled(due_at + late)
    # 45 s of the 60 are left, from when the process ran again.
    assert setting.connections.stalled(due_at + late + 44.0) == []
    assert bool(setting.connections.stalled(due_at + 46.0)) is not is_excused
    assert setting.connections.stalled(due_at + late + 46.0) == [connection]
    assert quiet.progress_at <= due_at + late


def test_a_look_that_comes_after_the_link_was_let_go_finds_nothing() -> None:
    setting = Setting()
    connection = setting.fill()
    setting.brake.check()
    setting.connections.delivered(connection, connection.backlog_bytes, 1.0)
    setting.brake.check()
    assert not setting.brake.must_look_for_stalled(time.monotonic())


def test_without_a_link_there_is_nothing_to_hold() -> None:
    setting = Setting()
    setting.link.websocket = None
    setting.fill()
    setting.brake.check()
    assert setting.changes == []
    assert setting.scheduled == []


def test_when_the_actor_has_ended_it_calls_nobody() -> None:
    setting = Setting()
    setting.brake.add(lambda: pytest.fail("it was asked"))
    setting.brake.let_go()
    setting.fill()
    setting.brake.check()
    setting.brake.look_again()
    assert setting.changes == []
    assert setting.scheduled == []
