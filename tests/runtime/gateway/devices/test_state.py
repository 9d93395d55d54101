"""What NotifyActor keeps and says: lines and records are few, and a thread keeps the tokens."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.devices import log as log_module
from tunnelfleet.runtime.gateway.devices import state as state_module
from tunnelfleet.runtime.gateway.devices.book import Decision, Verdict
from tunnelfleet.runtime.gateway.devices.log import (
    log_broker,
    log_notification,
    log_subscriptions,
    log_wrong,
)
from tunnelfleet.runtime.gateway.devices.notification import (
    Arrived,
    ConnectionChanged,
    Notification,
    SubscriptionRefused,
    TellsArrivals,
)
from tunnelfleet.runtime.gateway.devices.state import (
    BURST,
    MAX_KEYS,
    QUIET_SECONDS,
    DeviceKeeper,
    DeviceState,
    KeepsDevices,
    Seldom,
    failure_of,
)
from tunnelfleet.runtime.gateway.fleet_state import FleetState

TOKEN = "t0ken-" + "k" * 40
URL = "mqtts://broker.example:8883"
BROKER = cast("TellsArrivals", SimpleNamespace(settings=URL, client_id="gw-1"))
TOLD = Notification("press-1", TOKEN, ("SSH",), "eu-west-1")


def made(store: KeepsDevices | None = None) -> DeviceState:
    return DeviceState(cast("FleetState", SimpleNamespace(sources={})), store)


# -- few of each


def test_few_of_a_key_are_let_through_a_minute_and_the_others_are_counted() -> None:
    seldom = Seldom(burst=2)
    assert [seldom.ask("a", 1.0) for _ in range(5)] == [0, 0, None, None, None]
    assert seldom.ask("b", 1.0) == 0
    assert seldom.ask("a", 1.0 + QUIET_SECONDS) == 3
    assert seldom.ask("a", 2.0 + QUIET_SECONDS) == 0
    assert seldom.ask("a", 1.0 + 2 * QUIET_SECONDS) == 0


def test_of_too_many_keys_the_one_that_was_asked_for_longest_ago_goes() -> None:
    seldom = Seldom(burst=1)
    for number in range(MAX_KEYS):
        assert seldom.ask(number, 0.0) == 0
    assert seldom.ask(0, 0.0) is None
    assert seldom.ask("one more", 0.0) == 0
    # 1 went for it, and begins anew; 0 was asked for since.
    assert seldom.ask(0, 0.0) is None
    assert seldom.ask(1, 0.0) == 0


# -- the thread


def test_no_more_than_a_bound_waits_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_WAITING", 2)
    may_go = threading.Event()

    class Slow:
        def forget_devices(self, token_hashes: list[str]) -> None:
            assert may_go.wait(WAIT_SECONDS)

    keeper = DeviceKeeper(cast("KeepsDevices", Slow()))
    begun = [keeper.forget(["a"]), keeper.forget(["b"])]
    assert keeper.forget(["c"]) is None
    may_go.set()
    for each in begun:
        assert each is not None
        assert each.result(WAIT_SECONDS) is None
    keeper.join()
    # After its end nothing is taken, and what it had room for is not lost by that.
    for _ in range(3):
        assert keeper.load() is None


def test_without_a_state_nothing_is_kept() -> None:
    keeper = DeviceKeeper(None)
    loaded, forgotten = keeper.load(), keeper.forget(["a"])
    assert loaded is not None
    assert forgotten is not None
    assert loaded.result(WAIT_SECONDS) == []
    assert forgotten.result(WAIT_SECONDS) is None
    keeper.end()
    keeper.join()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, None),
        (TunnelError("the state is away"), "the state is away"),
        # Whose text may be anything.
        (ValueError("secret"), "ValueError"),
    ],
    ids=["none", "ours", "another"],
)
def test_why_a_task_has_failed(error: Exception | None, said: str | None) -> None:
    future: Future[Any] = Future()
    if error is None:
        future.set_result(1)
    else:
        future.set_exception(error)
    assert failure_of(future) == said


def test_a_task_that_was_given_up() -> None:
    future: Future[Any] = Future()
    future.cancel()
    assert failure_of(future) == "it was given up"


# -- the records


class Audit:
    """Takes refusals down."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def note_denied(
        self, tunnel: str, service_id: str, *, peer: str, user: str, reason: str
    ) -> None:
        assert (tunnel, service_id, peer, user) == ("press-1", "SSH", "broker", "")
        self.reasons.append(reason)


def test_refusals_are_taken_down_few_a_minute_with_how_many_there_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audit = Audit()
    state = made(cast("KeepsDevices", audit))
    clock = [0.0]
    monkeypatch.setattr(state_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(log_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for _ in range(BURST + 4):
        state.note_refused("press-1", "SSH", "broker")
    reason = "the service is not in the allow-list of [[notify]]"
    assert audit.reasons == [reason] * BURST
    clock[0] = QUIET_SECONDS
    state.note_refused("press-1", "SSH", "broker")
    assert audit.reasons[BURST:] == [f"{reason}; so it was 4 times more since"]


# -- the log


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    assert TOKEN not in caplog.text
    return [(each.levelname, each.getMessage()) for each in caplog.records]


def test_what_is_wrong_with_a_notification_is_said_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    refused = Decision(Verdict.REFUSED, refused=("HTTP", "", "a\nb"), reason="nothing is left")
    log_notification(made(), TOLD, "broker", refused)
    log_notification(made(), TOLD, "broker", Decision(Verdict.DUPLICATE))
    (level, text), (quiet_level, quiet) = lines(caplog)
    assert level == "WARNING"
    assert text.startswith("press-1 was told of a tunnel of which it carries nothing: nothing is")
    assert '; not in the allow-list: HTTP, "", ' in text
    assert text.isprintable()
    assert (quiet_level, quiet) == ("INFO", "press-1 was told of a tunnel again")
    fields: Any = caplog.records[0]
    assert fields.fields["refused"] == ["HTTP", "", "a\nb"]


def test_who_publishes_much_gets_few_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = made()
    clock = [0.0]
    monkeypatch.setattr(state_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(log_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    arrived = Arrived(BROKER, 1, 1, 1, "press-1", None, "it is no JSON")
    lost = ConnectionChanged(BROKER, is_up=False, subscribed=0, reason="connection refused")
    not_granted = SubscriptionRefused(BROKER, ("a", "b", "c", "d", "e"), "not authorized")

    def say_all() -> None:
        log_notification(state, TOLD, "broker", Decision(Verdict.UNKNOWN_THING))
        log_wrong(state, arrived)
        log_broker(state, lost)
        log_subscriptions(state, not_granted)

    for _ in range(BURST + 3):
        say_all()
    assert len(lines(caplog)) == 4 * BURST
    caplog.clear()
    clock[0] = QUIET_SECONDS
    say_all()
    assert [text.partition("; may this")[0] for _level, text in lines(caplog)] == [
        "press-1 was told of a tunnel, and is in no [[notify]] (and 3 times more)",
        f"what press-1 got from {URL} is no notification: it is no JSON (and 3 times more)",
        f"the broker {URL} is away, and is tried again: connection refused",
        f"the broker {URL} does not tell what a, b, c and 2 more is told: not authorized",
    ]


def test_a_broker_that_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for subscribed in (0, 7):
        log_broker(made(), ConnectionChanged(BROKER, is_up=True, subscribed=subscribed, reason=""))
    assert [text for _level, text in lines(caplog)] == [
        f"the broker {URL} is there",
        f"the broker {URL} tells 7 things of their tunnels",
    ]
