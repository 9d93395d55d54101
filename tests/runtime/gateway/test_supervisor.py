from __future__ import annotations

from tests.support.fleet import FakePlacement, Fleet
from tests.support.waiting import eventually
from tunnelfleet.actors.kernel import WhichChildren, kill
from tunnelfleet.runtime.gateway import Assigned, StaticPlacement
from tunnelfleet.runtime.gateway.supervisor import FLEET, PLACEMENT, RUNTIME, GatewayRefs


def test_its_children_in_the_order_of_their_start(fleet: Fleet) -> None:
    fleet.start()
    children = fleet.gateway.supervisor.ask(WhichChildren())
    assert [child.id for child in children] == [RUNTIME, PLACEMENT, FLEET]


def test_a_placement_that_failed_tells_anew_and_no_tunnel_notices(fleet: Fleet) -> None:
    fleet.files.tunnels = {"one": fleet.tunnel("one")}
    fleet.start()
    fleet.wait_state("one", "connected")
    before = fleet.gateway.refs.by_id[PLACEMENT]
    kill(before)
    eventually(lambda: fleet.gateway.refs.by_id[PLACEMENT] is not before)
    fleet.gateway.snapshot()
    assert fleet.connects("one") == 1
    assert len(fleet.gateway.state.shards) == 256


def test_telling_nobody_is_harmless() -> None:
    GatewayRefs().tell(FLEET, Assigned(frozenset(), 1))


def test_an_engine_is_anything_with_start_and_stop() -> None:
    for engine in (FakePlacement(), StaticPlacement()):
        engine.start(lambda _message: None)
        engine.stop()
