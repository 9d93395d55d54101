"""The leases of a shared fleet against a store that is a few lines, on time that does not pass.

Gateways come, die, freeze and leave; requests are lost before or after they were done; the store is
away. Whatever comes in whatever order: no shard has two gateways that may connect (`Simulation`
looks after each action), nobody who has left or is out may connect, and when all is well again each
shard is where it belongs.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.examples import stateful_settings
from tests.support.lease_simulation import BOUND_SECONDS, TIMES, Gateway, Network, Simulation
from tunnelfleet.runtime.gateway.placement.lease import LeasePhase

NAMES = ("one", "two", "three")
OUT = (LeasePhase.OUT, LeasePhase.LEFT)


def _has_gateways(model: PlacementModel) -> bool:
    return bool(model.world.living)


class PlacementModel(RuleBasedStateMachine):
    """What can happen to gateways, their network and their store."""

    @initialize(seed=st.integers(0, 99), name=st.sampled_from(NAMES))
    def begin(self, seed: int, name: str) -> None:
        self.world = Simulation(seed)
        self.world.join(name)

    def _one(self, data: st.DataObject) -> Gateway:
        living = self.world.living
        return living[data.draw(st.integers(0, len(living) - 1))]

    @rule(name=st.sampled_from(NAMES))
    def one_joins(self, name: str) -> None:
        if name not in {each.name for each in self.world.living}:
            self.world.join(name)

    @precondition(_has_gateways)
    @rule(data=st.data(), is_restarted=st.booleans())
    def one_dies(self, data: st.DataObject, is_restarted: bool) -> None:
        gone = self._one(data)
        self.world.kill(gone)
        if is_restarted:
            # Its former lease still holds.
            self.world.join(gone.name)

    @precondition(_has_gateways)
    @rule(data=st.data(), seconds=st.floats(0.1, 30.0))
    def one_freezes(self, data: st.DataObject, seconds: float) -> None:
        self.world.freeze(self._one(data), seconds)

    @precondition(_has_gateways)
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        self.world.leave(self._one(data))

    @rule(is_down=st.booleans())
    def the_store_goes_or_comes(self, is_down: bool) -> None:
        self.world.store.is_down = is_down

    @rule(chances=st.tuples(*(st.sampled_from([0.0, 0.3, 1.0]) for _ in range(3))))
    def the_network_is_so(self, chances: tuple[float, float, float]) -> None:
        self.world.network = Network(*chances)

    @rule(seconds=st.floats(0.001, 1.5 * TIMES.lease_seconds))
    def time_goes_by(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    @invariant()
    def who_is_out_may_not_connect(self) -> None:
        if not hasattr(self, "world"):
            return
        for gateway in self.world.living:
            if gateway.lease.phase in OUT:
                assert gateway.gate_until == 0.0
                assert not gateway.lease.owned
            clock = gateway.clock(self.world.now)
            if clock < gateway.gate_until:
                # Not longer than the lease that the store has confirmed.
                assert gateway.lease.is_valid(clock)

    def teardown(self) -> None:
        """All is well again, and all shards are owned within the bound."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.network, world.store.is_down = Network(), False
        for gateway in world.living:
            world.thaw(gateway, early=True)
        # What was late comes in the first seconds.
        world.run(world.now + 10.0 + BOUND_SECONDS)
        assert world.is_settled()


PlacementModel.TestCase.settings = stateful_settings()
TestPlacement = PlacementModel.TestCase
