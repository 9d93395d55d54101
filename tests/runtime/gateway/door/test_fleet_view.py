"""What a client of a front door is told, by how the tunnel is that it asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fleet import wanted
from tunnelfleet.runtime import Mode, TunnelState
from tunnelfleet.runtime.gateway.config import FleetConfig, GatewaySettings
from tunnelfleet.runtime.gateway.door.fleet_view import Away, Entrance, FleetView, NotYet
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.door.names import DoorRefused
from tunnelfleet.runtime.gateway.fleet_state import FleetState
from tunnelfleet.runtime.gateway.reconcile import Running, RunPhase

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "press-4"


class Stage:
    """A fleet of one tunnel, which is connected and offers SSH, until a test changes it."""

    def __init__(self) -> None:
        self.state = FleetState(FleetConfig(GatewaySettings(name="gw", admin="off")))
        self.state.shards = frozenset(range(self.state.shard_count))
        self.wants(Mode.SOURCE)
        self.stats = SimpleNamespace(state=TunnelState.CONNECTED, service_ids=("SSH",))
        self.tunnels: dict[str, Any] = {NAME: SimpleNamespace(stats=self.stats, reason="")}

    def wants(self, mode: Mode, **given: Any) -> None:
        """Have this in the files, and running."""
        wish = wanted(NAME, mode=mode, **given)
        self.state.sources["files"] = {NAME: wish}
        self.state.running[NAME] = Running(wish)

    def view(self, *, is_shared: bool = False) -> FleetView:
        runtime: Any = SimpleNamespace(tunnel=self.tunnels.__getitem__)
        return FleetView(self.state, lambda: runtime, is_shared=is_shared)

    def refusal(self, text: str = NAME) -> DoorRefused:
        """Why a client does not get in."""
        with pytest.raises(DoorRefused) as caught:
            self.view().enter(text, None, "")
        return caught.value


def drained(stage: Stage) -> None:
    del stage.state.running[NAME]
    stage.state.held[NAME] = 0.0


def leaving(stage: Stage) -> None:
    stage.state.is_leaving = True


def draining(stage: Stage) -> None:
    stage.state.running[NAME] = Running(wanted(NAME, mode=Mode.SOURCE), RunPhase.DRAINING)


def refused(stage: Stage) -> None:
    stage.stats.state = TunnelState.REFUSED
    stage.tunnels[NAME].reason = "the token\x07 is not valid"


def stopped(stage: Stage) -> None:
    stage.stats.state = TunnelState.STOPPED


def failed(stage: Stage) -> None:
    del stage.state.running[NAME]
    stage.state.failures[NAME] = ("there is no such certificate", 0.0)


def elsewhere(stage: Stage) -> None:
    del stage.state.running[NAME]
    stage.state.shards = frozenset()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_who_asks_for_what_is_there_gets_in(stage: Stage) -> None:
    found = stage.view().enter(f"{NAME}:ssh", None, "")
    assert found == Entrance(stage.tunnels[NAME], "SSH")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (leaving, "the gateway is stopping"),
        (draining, "tunnel press-4 is draining: it takes no new connections"),
        (drained, "tunnel press-4 is down: drained by an operator"),
        (failed, "tunnel press-4 is down: there is no such certificate"),
        (elsewhere, "tunnel press-4 is down: "),
        (refused, "tunnel press-4 is refused: the token is not valid"),
        (stopped, "tunnel press-4 is stopped"),
    ],
    ids=lambda each: getattr(each, "__name__", "says"),
)
def test_who_would_wait_in_vain_is_told_at_once(
    stage: Stage, change: Callable[[Stage], None], says: str
) -> None:
    change(stage)
    found = stage.refusal()
    assert found.refusal is Denial.UNAVAILABLE
    assert found.text.startswith(says[:30])
    assert found.text.isprintable()


def test_a_destination_lets_nobody_in(stage: Stage) -> None:
    stage.wants(Mode.DESTINATION)
    found = stage.refusal()
    assert found.refusal is Denial.NAME
    assert "is a destination here: clients enter at its source" in found.text


def test_who_may_wait_is_told_for_what(stage: Stage) -> None:
    stage.stats.state = TunnelState.BACKOFF
    stage.tunnels[NAME].reason = "the link broke"
    found = stage.view().enter(f"{NAME}:SSH", None, "")
    assert isinstance(found, NotYet)
    assert found.reason == "is backoff: the link broke"
    # Before the runtime has it.
    del stage.tunnels[NAME]
    assert stage.view().enter(f"{NAME}:SSH", None, "") == found._replace(reason="is about to start")
    # And before it was opened.
    del stage.state.running[NAME]
    assert stage.view().enter(NAME, None, "") == found._replace(reason="is about to start")


def test_services_that_are_not_announced_yet_are_waited_for(stage: Stage) -> None:
    stage.wants(Mode.SOURCE, services=None)
    stage.stats.state, stage.stats.service_ids = TunnelState.CONNECTING, ()
    assert isinstance(stage.view().enter(NAME, None, ""), NotYet)
    # Those of the link before are known.
    stage.stats.service_ids = ("SSH",)
    assert isinstance(stage.view().enter(f"{NAME}:SSH", None, ""), NotYet)
    stage.stats.state = TunnelState.CONNECTED
    assert isinstance(stage.view().enter(f"{NAME}:SSH", None, ""), Entrance)


@pytest.mark.parametrize("change", [elsewhere, draining], ids=["elsewhere", "moving"])
def test_in_a_shared_fleet_the_owner_is_looked_for(
    stage: Stage, change: Callable[[Stage], None]
) -> None:
    change(stage)
    stage.state.shards = frozenset()
    found = stage.view(is_shared=True).enter(f"{NAME}:SSH", 22, "")
    assert isinstance(found, Away)
    assert (found.tunnel, found.service, found.port) == (NAME, "SSH", None)


class TestWhoWasLetIn:
    """To a tunnel that the resolver has opened."""

    def test_when_it_is_connected(self, stage: Stage) -> None:
        assert stage.view().enter_tunnel(NAME, "SSH") == Entrance(stage.tunnels[NAME], "SSH")

    def test_while_it_is_not(self, stage: Stage) -> None:
        stage.stats.state = TunnelState.CONNECTING
        found = stage.view().enter_tunnel(NAME, "SSH")
        assert isinstance(found, NotYet)
        assert found.reason == "is connecting"
        del stage.tunnels[NAME]
        found = stage.view().enter_tunnel(NAME, "SSH")
        assert isinstance(found, NotYet)
        assert found.reason == "is about to start"

    def test_when_it_has_ended(self, stage: Stage) -> None:
        with pytest.raises(DoorRefused, match="tunnel press-5 has ended; try again"):
            stage.view().enter_tunnel("press-5", "SSH")
