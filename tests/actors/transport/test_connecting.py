"""Connecting alone: what each message of an attempt leads to, between recorders."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fakes import CLIENT_TOKEN, FakeRef, make_config
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.events import AttemptOutcome
from tunnelfleet.actors.kernel import NOPROC, ExitReason, Terminated
from tunnelfleet.actors.transport.attempt import (
    AttemptTimedOut,
    Connecting,
    WebSocketContext,
)
from tunnelfleet.actors.transport.connector import ConnectFailed
from tunnelfleet.actors.tunnel.context import Credentials
from tunnelfleet.actors.tunnel.messages import (
    ConnectionRefused,
    PermitCalledBack,
    ReleasePermit,
    RequestPermit,
)
from tunnelfleet.proto import ConnectionLost, Endpoint, HandshakeError, Mode

ADDRESS = Endpoint("ws", "127.0.0.1", 9)
"""It needs no look-up."""
EPOCH = 3


def refused(status: int, *, retryable: bool) -> ConnectFailed:
    error = HandshakeError("no", status=status, channel_id=None, retryable=retryable)
    return ConnectFailed(error)


class Tunnel(FakeRef):
    """A TunnelActor that has a name."""

    actor_urn = "urn:tunnel"


class Actor:
    """A WebSocketActor, as what connects sees it."""

    def __init__(self) -> None:
        self.actor_ref = FakeRef()
        self.watching: list[Any] = []
        self.timers: list[float] = []
        self.exits: list[ExitReason | None] = []

    def watch(self, ref: Any) -> None:
        self.watching.append(ref)

    def unwatch(self, ref: Any) -> None:
        self.watching.remove(ref)

    def schedule(self, seconds: float, _message: Any) -> Actor:
        self.timers.append(seconds)
        return self

    def cancel(self) -> None:
        self.timers.pop()

    def exit(self, reason: ExitReason | None = None) -> None:
        self.exits.append(reason)


class Setting:
    """An attempt that waits for its permit."""

    def __init__(self) -> None:
        actor: Any = Actor()
        tunnel: Any = Tunnel()
        governor: Any = FakeRef()
        nobody: Any = None
        self.actor, self.tunnel, self.governor = actor, tunnel, governor
        self.stats = TunnelStats()
        context = WebSocketContext(
            make_config(Mode.SOURCE, endpoint=ADDRESS),
            Credentials("access", CLIENT_TOKEN),
            tunnel,
            governor,
            nobody,
            nobody,
            None,
            self.stats,
        )
        self.connecting = Connecting(actor, context, EPOCH)
        self.connecting.begin()
        assert [type(each) for each in governor.told] == [RequestPermit]
        governor.told.clear()

    @property
    def lost(self) -> ConnectionLost:
        (reason,) = self.actor.exits
        assert isinstance(reason.exception, ConnectionLost)
        return reason.exception


def test_waiting_for_the_permit_takes_no_time_and_is_no_attempt() -> None:
    setting = Setting()
    assert setting.actor.timers == []
    assert setting.actor.watching == [setting.governor]
    assert setting.stats.connect_attempts == 0


@pytest.mark.parametrize(
    ("message", "label", "attempts", "outcome"),
    [
        (PermitCalledBack("suspended", "no lease"), "suspended", 0, None),
        (Terminated(FakeRef(), NOPROC), "connect_failed", 0, None),  # type: ignore[arg-type]
        (AttemptTimedOut(), "connect_timeout", 1, AttemptOutcome.FAILED),
        (refused(503, retryable=True), "http_503", 1, AttemptOutcome.FAILED),
        (refused(429, retryable=True), "http_429", 1, AttemptOutcome.REFUSED),
    ],
    ids=["called back", "the governor ended", "timed out", "server error", "throttled"],
)
def test_what_ends_an_attempt_that_may_be_made_again(
    message: Any, label: str, attempts: int, outcome: AttemptOutcome | None
) -> None:
    setting = Setting()
    setting.connecting.handle(message)
    assert setting.lost.label == label
    assert not setting.lost.was_established
    assert setting.stats.connect_attempts == attempts
    given_back = [each.outcome for each in setting.governor.told]
    assert given_back == ([] if outcome is None else [outcome])
    assert setting.tunnel.told == []


def test_a_refusal_that_no_retry_can_help_is_told_to_the_tunnel() -> None:
    setting, message = Setting(), refused(403, retryable=False)
    setting.connecting.handle(message)
    (told,) = setting.tunnel.told
    assert isinstance(told, ConnectionRefused)
    assert told == (EPOCH, message.error)
    assert setting.actor.exits == [None], "in good order: it is not restarted"


def test_an_attempt_counts_once() -> None:
    setting = Setting()
    setting.connecting.handle(AttemptTimedOut())
    setting.connecting.handle(refused(503, retryable=True))
    assert setting.stats.connect_attempts == 1


def test_a_success_gives_the_permit_back_and_ends_the_timer() -> None:
    setting = Setting()
    setting.connecting.succeeded(5.0)
    assert setting.governor.told == [
        ReleasePermit(setting.actor.actor_ref, AttemptOutcome.CONNECTED)
    ]
    assert setting.actor.timers == []
    assert setting.actor.exits == []
