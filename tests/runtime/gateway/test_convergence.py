"""Whatever is asked of a gateway, in whatever order, what runs ends up as what is wanted."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import FakePlacement, Fleet
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import kill
from tunnelfleet.proto import TunnelClosed
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.gateway import (
    Assigned,
    DrainTunnels,
    PutWanted,
    Reload,
    RemoveWanted,
    RetryTunnels,
    Revoked,
    SetWanted,
)
from tunnelfleet.runtime.gateway.placement import SHARDS, shard_of
from tunnelfleet.runtime.gateway.supervisor import FLEET

if TYPE_CHECKING:
    from pathlib import Path

    from tunnelfleet.runtime.gateway import Gateway, WantedTunnel

NAMES = ("a", "b", "c", "d")
STEPS = 60
ALL = frozenset(range(SHARDS))


def variant(rng: random.Random, tunnel: WantedTunnel) -> WantedTunnel:
    """The tunnel as it was, or with a change of each kind."""
    changes: list[dict[str, object]] = [
        {},
        {"labels": {"n": str(rng.randrange(3))}},
        {"bandwidth": float(rng.randrange(1, 4)) * 1e6},
        {"limits": replace(tunnel.limits, max_connections=rng.randrange(1, 9))},
    ]
    return replace(tunnel, **rng.choice(changes))  # type: ignore[arg-type]


def ask(gateway: Gateway, message: object) -> None:
    """Ask FleetActor, again if it was being started again."""

    def is_answered() -> bool:
        try:
            gateway.ask(message)
        except TunnelClosed:
            return False
        return True

    eventually(is_answered, timeout_seconds=WAIT_SECONDS)


@pytest.mark.parametrize("seed", range(4))
def test_it_converges(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    placement = FakePlacement()
    with Fleet(tmp_path / "state", placement) as fleet:
        base = {name: fleet.tunnel(name) for name in NAMES}
        fleet.start()
        placement.tell(Assigned(ALL, 1))
        for epoch in range(2, STEPS):
            name = rng.choice(NAMES)
            match rng.randrange(9):
                case 0 | 1:
                    some = rng.sample(NAMES, rng.randrange(len(NAMES) + 1))
                    fleet.files.tunnels = {n: variant(rng, base[n]) for n in some}
                    fleet.gateway.tell(Reload())
                case 2:
                    fleet.gateway.tell(PutWanted("api", variant(rng, base[name])))
                case 3:
                    fleet.gateway.tell(RemoveWanted("api", name))
                case 4:
                    fleet.gateway.tell(DrainTunnels((name,)))
                case 5:
                    fleet.gateway.tell(RetryTunnels(None))
                case 6:
                    placement.tell(Revoked(frozenset({shard_of(name)})))
                case 7:
                    placement.tell(Assigned(frozenset({shard_of(name)}), epoch))
                case 8:
                    kill(fleet.gateway.refs.by_id[FLEET])
        gateway = fleet.gateway
        placement.tell(Assigned(ALL, STEPS))
        wanted = {n: base[n] for n in rng.sample(NAMES, 3)}
        fleet.files.tunnels = wanted
        for message in (SetWanted("api", {}), Reload(), RetryTunnels(None)):
            ask(gateway, message)

        def is_as_wanted() -> bool:
            running = {n: each.tunnel for n, each in gateway.state.running.items()}
            held = {each.name: each for each in gateway.runtime.tunnels()}
            return running == wanted == {n: wanted[n] for n in held if n in wanted} and all(
                each.stats.state is TunnelState.CONNECTED for each in held.values()
            )

        eventually(is_as_wanted, timeout_seconds=WAIT_SECONDS)
