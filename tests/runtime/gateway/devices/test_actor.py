"""NotifyActor by transcript: what it tells the fleet, keeps in the state, and answers to brokers.

The fleet, the state and the connections are doubles; they come in as arguments.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.notifications import BROKER, SECTION, told
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelRuntime, TunnelState, TunnelStateChanged
from tunnelfleet.runtime.gateway import PutWanted, RemoveWanted, SetWanted
from tunnelfleet.runtime.gateway.config import FleetConfig, GatewaySettings
from tunnelfleet.runtime.gateway.devices import actor as actor_module
from tunnelfleet.runtime.gateway.devices import book as book_module
from tunnelfleet.runtime.gateway.devices.actor import NotifyActor
from tunnelfleet.runtime.gateway.devices.book import Verdict
from tunnelfleet.runtime.gateway.devices.notification import Arrived
from tunnelfleet.runtime.gateway.devices.state import DeviceKeeper, DeviceState
from tunnelfleet.runtime.gateway.fleet_state import FleetState
from tunnelfleet.runtime.gateway.messages import FilesTaken, RuntimeStarted
from tunnelfleet.runtime.gateway.reconcile import Running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tunnelfleet.runtime.gateway.config.devices import BrokerSettings
    from tunnelfleet.runtime.gateway.devices import DeviceTunnel, Notification

SETTINGS = GatewaySettings(name="gw", admin="unix:unused")


class ToldConnection:
    """Stands for a connection to a broker: notes what was dealt with."""

    settings: BrokerSettings = BROKER
    client_id = "gw"

    def __init__(self) -> None:
        self.dealt_with: queue.SimpleQueue[Arrived] = queue.SimpleQueue()

    def done(self, arrived: Arrived) -> None:
        self.dealt_with.put(arrived)


class Kept:
    """Stands for the state: a dictionary that can fail, or be waited for."""

    def __init__(self) -> None:
        self.tunnels: dict[str, DeviceTunnel] = {}
        self.is_down = False
        self.may_save = threading.Event()
        self.may_save.set()
        self.denials: list[tuple[str, str]] = []

    def _require(self) -> None:
        assert self.may_save.wait(WAIT_SECONDS)
        if self.is_down:
            raise TunnelError("it is away")

    def load_devices(self) -> list[DeviceTunnel]:
        self._require()
        return list(self.tunnels.values())

    def save_device(self, tunnel: DeviceTunnel) -> None:
        self._require()
        self.tunnels[tunnel.notification.token_hash] = tunnel

    def forget_devices(self, token_hashes: Sequence[str]) -> None:
        self._require()
        for each in token_hashes:
            self.tunnels.pop(each, None)

    def note_denied(self, tunnel: str, service_id: str, **_more: str) -> None:
        self.denials.append((tunnel, service_id))


class Stage:
    """The actor on a dispatcher of its own."""

    def __init__(self, dispatcher: Dispatcher, reached: threading.Event) -> None:
        self.kept = Kept()
        self.fleet = FleetState(FleetConfig(SETTINGS, notify=(SECTION,)))
        self.fleet.config = FleetConfig(SETTINGS, notify=(SECTION,))
        self.state = DeviceState(self.fleet, self.kept)
        self.runtime = TunnelRuntime()
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.has_fleet = True
        self.connection = ToldConnection()
        self._dispatcher = dispatcher
        self._reached = reached
        self._keepers: list[DeviceKeeper] = []

    def start(self) -> None:
        """Start it, and wait until it would reach the brokers."""
        self._reached.clear()
        keeper = DeviceKeeper(self.kept)
        self._keepers.append(keeper)
        self.ref = NotifyActor.start(
            self.state, keeper, self.runtime, self._tell_fleet, dispatcher=self._dispatcher
        )
        assert self._reached.wait(WAIT_SECONDS)

    def _tell_fleet(self, message: Any) -> bool:
        if self.has_fleet:
            self.told.put(message)
        return self.has_fleet

    def close(self) -> None:
        self.kept.may_save.set()
        with contextlib.suppress(Exception):
            self.ref.stop(block=True, timeout=WAIT_SECONDS)
        for keeper in self._keepers:
            keeper.end()
            keeper.join()
        for connection in (*self.state.connections, *self.state.ending):
            connection.end()
            assert connection.join(WAIT_SECONDS)

    # -- the transcript

    def notify(self, notification: Notification | None, problem: str = "") -> None:
        thing = notification.thing if notification else "press-4"
        self.ref.tell(Arrived(self.connection, 1, 1, 1, thing, notification, problem))

    def next(self) -> Any:
        """What the fleet is told next."""
        return self.told.get(timeout=WAIT_SECONDS)

    def dealt_with(self) -> Arrived:
        """What the broker is told next that it need not tell again."""
        return self.connection.dealt_with.get(timeout=WAIT_SECONDS)

    def count(self, verdict: Verdict) -> int:
        return self.state.counters.notifications[verdict]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    # No connection is made: what arrives is told by the tests, once connections would be made.
    reached = threading.Event()
    monkeypatch.setattr(
        "tunnelfleet.runtime.gateway.devices.state.Brokers.change",
        lambda *_given: reached.set(),
    )
    monkeypatch.setattr(actor_module, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(actor_module, "AGAIN_SECONDS", 0.01)
    dispatcher = Dispatcher("devices-test").start()
    made = Stage(dispatcher, reached)
    try:
        yield made
    finally:
        made.close()
        dispatcher.stop(WAIT_SECONDS)


def test_a_notification_is_kept_wanted_and_then_dealt_with(stage: Stage) -> None:
    stage.start()
    assert stage.next() == SetWanted("notify", {})
    stage.kept.may_save.clear()
    stage.notify(told(1))
    put = stage.next()
    assert isinstance(put, PutWanted)
    assert (put.source, put.tunnel.name) == ("notify", "press-4")
    # The broker has to tell it again if this process dies now.
    assert stage.connection.dealt_with.empty()
    stage.kept.may_save.set()
    assert stage.dealt_with().notification == told(1)
    assert [each.name for each in stage.kept.tunnels.values()] == ["press-4"]
    assert stage.count(Verdict.OPENED) == 1


def test_what_opens_nothing_is_dealt_with_at_once(stage: Stage) -> None:
    stage.start()
    stage.next()
    stage.notify(told(1))
    stage.next()
    stage.dealt_with()
    for verdict, notification in (
        (Verdict.DUPLICATE, told(1)),
        (Verdict.REFUSED, told(2, "press-4", "VNC")),
        (Verdict.UNKNOWN_THING, told(3, "oven")),
        (Verdict.INVALID, None),
    ):
        stage.notify(notification, "it is no JSON")
        stage.dealt_with()
        assert stage.count(verdict) == 1
    assert stage.told.empty()
    assert stage.kept.denials == [("press-4", "VNC")]
    assert len(stage.kept.tunnels) == 1


def test_a_state_that_is_away_holds_up_no_tunnel(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.kept.is_down = True
    stage.start()
    stage.next()
    for number in (1, 2):
        stage.notify(told(number))
        assert isinstance(stage.next(), PutWanted)
        stage.dealt_with()
    assert len(stage.state.unsaved) == 2
    assert caplog.text.count("cannot be kept") == 1
    stage.kept.is_down = False
    eventually(lambda: len(stage.kept.tunnels) == 2 and not stage.state.unsaved)
    eventually(lambda: "are kept again" in caplog.text)
    assert told(1).access_token not in caplog.text


def test_what_was_kept_is_wanted_again(stage: Stage) -> None:
    stage.start()
    stage.next()
    stage.notify(told(1))
    stage.next()
    stage.dealt_with()
    stage.ref.stop(block=True, timeout=WAIT_SECONDS)
    # Another process, with the same state.
    stage.state = DeviceState(stage.fleet, stage.kept)
    stage.start()
    assert stage.next() == SetWanted("notify", {})
    restored = stage.next()
    assert list(restored.tunnels) == ["press-4"]
    assert restored.tunnels["press-4"].access_token == told(1).access_token
    stage.notify(told(1))
    stage.dealt_with()
    assert stage.count(Verdict.DUPLICATE) == 1


def test_a_crash_of_the_actor_loses_nothing(stage: Stage) -> None:
    stage.start()
    stage.next()
    stage.notify(told(1))
    stage.next()
    stage.dealt_with()
    stage.ref.tell(Arrived(None, 1, 1, 1, "a", None, ""))  # type: ignore[arg-type]
    eventually(lambda: not stage.ref.is_alive())
    stage.start()
    assert list(stage.next().tunnels) == ["press-4"]


def test_a_fleet_that_is_away_is_told_again(stage: Stage) -> None:
    stage.has_fleet = False
    stage.start()
    stage.notify(told(1))
    stage.dealt_with()
    assert stage.told.empty()
    stage.has_fleet = True
    assert list(stage.next().tunnels) == ["press-4"]


def test_a_tunnel_that_is_over_is_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "CONFIRM_SECONDS", 0.01)
    stage.start()
    stage.next()
    stage.notify(told(1))
    wish = stage.next().tunnel
    stage.dealt_with()
    refuse(stage, monkeypatch, wish)
    stage.ref.tell(TunnelStateChanged("press-4", TunnelState.REFUSED, "HTTP 403"))
    assert stage.next() == RemoveWanted("notify", "press-4")
    eventually(lambda: stage.kept.tunnels == {})


def test_the_end_of_an_old_token_does_not_end_the_new_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "CONFIRM_SECONDS", 0.01)
    stage.start()
    stage.next()
    stage.notify(told(1))
    before = stage.next().tunnel
    stage.dealt_with()
    for state in (TunnelState.CONNECTED, TunnelState.BACKOFF):
        stage.ref.tell(TunnelStateChanged("press-4", state))
    # The fleet runs the old token still, and the service refuses it.
    refuse(stage, monkeypatch, before)
    stage.notify(told(2))
    after = stage.next().tunnel
    assert (after.name, after.access_token) == ("press-4", told(2).access_token)
    stage.ref.tell(TunnelStateChanged("press-4", TunnelState.REFUSED, "HTTP 403"))
    stage.dealt_with()
    stage.notify(None, "a mark: it comes after the question whether it is refused")
    stage.dealt_with()
    assert stage.count(Verdict.TAKES_OVER) == 1
    eventually(lambda: list(stage.kept.tunnels) == [told(2).token_hash])
    assert stage.told.empty()


def refuse(stage: Stage, monkeypatch: pytest.MonkeyPatch, wish: Any) -> None:
    """The fleet runs this, and the service refuses it."""

    class Stats:
        state = TunnelState.REFUSED

    class Tunnel:
        stats = Stats()
        reason = "HTTP 403"

    stage.fleet.running[wish.name] = Running(wish)
    monkeypatch.setattr(TunnelRuntime, "tunnel", lambda _self, _name: Tunnel())


def test_files_that_were_taken_over_change_what_is_wanted(stage: Stage) -> None:
    stage.start()
    stage.next()
    stage.notify(told(1))
    stage.next()
    stage.dealt_with()
    other = replace(SECTION, services={"SSH": "127.0.0.1:2222"})
    stage.fleet.config = FleetConfig(SETTINGS, notify=(other,))
    stage.ref.tell(FilesTaken())
    assert str(stage.next().tunnels["press-4"].services["SSH"]) == "127.0.0.1:2222"
    stage.fleet.config = FleetConfig(SETTINGS, notify=())
    stage.ref.tell(FilesTaken())
    assert stage.next() == SetWanted("notify", {})
    # It is kept: the thing may come back.
    assert len(stage.kept.tunnels) == 1
    stage.fleet.config = FleetConfig(SETTINGS, notify=(SECTION,))
    stage.ref.tell(FilesTaken())
    assert list(stage.next().tunnels) == ["press-4"]


def test_a_name_that_files_have_is_left_to_them(stage: Stage) -> None:
    stage.fleet.sources["files"] = {"press-4": None}  # type: ignore[dict-item]
    stage.start()
    stage.next()
    stage.notify(told(1))
    assert stage.next().tunnel.name == "press-4.2"


def test_what_could_not_be_forgotten_is_forgotten_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "CONFIRM_SECONDS", 0.01)
    stage.start()
    stage.next()
    stage.notify(told(1))
    wish = stage.next().tunnel
    stage.dealt_with()
    stage.kept.is_down = True
    refuse(stage, monkeypatch, wish)
    stage.ref.tell(TunnelStateChanged("press-4", TunnelState.REFUSED, "HTTP 403"))
    assert stage.next() == RemoveWanted("notify", "press-4")
    eventually(lambda: list(stage.state.unforgotten) == [told(1).token_hash])
    assert len(stage.kept.tunnels) == 1
    stage.kept.is_down = False
    eventually(lambda: stage.kept.tunnels == {} and not stage.state.unforgotten)


def test_what_was_not_saved_and_is_over_is_saved_no_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service ends a tunnel while the state is away: nothing of it is kept afterwards."""
    stage.kept.is_down = True
    stage.start()
    stage.next()
    stage.notify(told(1))
    wish = stage.next().tunnel
    stage.dealt_with()
    refuse(stage, monkeypatch, wish)
    # No event tells it: the sweep sees it.
    assert stage.next() == RemoveWanted("notify", "press-4")
    stage.kept.is_down = False
    eventually(lambda: not stage.state.unsaved and not stage.state.unforgotten)
    assert stage.kept.tunnels == {}


def test_a_thing_that_stays_away_from_the_files_is_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.start()
    stage.next()
    stage.notify(told(1))
    stage.next()
    stage.dealt_with()
    stage.fleet.config = FleetConfig(SETTINGS, notify=())
    stage.ref.tell(FilesTaken())
    assert stage.next() == SetWanted("notify", {})
    monkeypatch.setattr(book_module, "KEEP_SECONDS", -1.0)
    assert stage.next() == RemoveWanted("notify", "press-4")
    eventually(lambda: stage.kept.tunnels == {})


def test_events_of_the_core_come_again_after_it_was_started_anew(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribed: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stage.start()
    stage.next()
    monkeypatch.setattr(
        TunnelRuntime, "subscribe", lambda _self, ref, **_kinds: subscribed.put(ref)
    )
    stage.ref.tell(RuntimeStarted())
    assert subscribed.get(timeout=WAIT_SECONDS) == stage.ref
