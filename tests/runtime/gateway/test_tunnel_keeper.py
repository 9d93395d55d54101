from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support.rig import FAST_LIMITS, connect, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.gateway.tunnel_keeper import DrainTimedOut
from tunnelfleet.runtime.gateway.wanted import IN_PLACE_LIMITS

if TYPE_CHECKING:
    from tests.support.fleet import Fleet


def test_limits_are_taken_over_and_kept_over_a_restart_of_the_actors(fleet: Fleet) -> None:
    tunnel = fleet.tunnel("one")
    fleet.files.tunnels = {"one": tunnel}
    fleet.start()
    fleet.wait_state("one", "connected")
    runtime = fleet.gateway.runtime
    address = runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
    with connect(address) as sock:
        assert echo(sock, b"x") == b"x"
        sevens: Any = dict.fromkeys(IN_PLACE_LIMITS, 7)
        limits = replace(FAST_LIMITS, **sevens)
        fleet.files.tunnels["one"] = replace(tunnel, limits=limits)
        fleet.gateway.reload()
        eventually(lambda: runtime.tunnel("one").config.limits == limits)
        assert echo(sock, b"y") == b"y"
    assert fleet.connects("one") == 1


def test_a_tunnel_that_the_runtime_lost_is_started_again(fleet: Fleet) -> None:
    tunnel = fleet.tunnel("one")
    fleet.files.tunnels = {"one": tunnel}
    fleet.start()
    fleet.wait_state("one", "connected")
    fleet.gateway.runtime.close_tunnel("one")
    for changed in (
        replace(tunnel, access_token=tunnel.access_token, client_token="c" * 32),
        replace(tunnel, limits=replace(FAST_LIMITS, max_connections=3)),
    ):
        fleet.files.tunnels["one"] = changed
        fleet.gateway.reload()
        eventually(lambda: fleet.gateway.runtime.tunnels() != [])
        fleet.gateway.runtime.close_tunnel("one")
    fleet.files.tunnels = {}
    fleet.gateway.reload()
    eventually(lambda: fleet.names() == [])


def test_a_drain_that_is_over_leaves_no_timer(fleet: Fleet) -> None:
    """It would keep all that is known of the tunnel for as long as a drain may last."""
    fleet.files.tunnels = {name: fleet.tunnel(name) for name in ("one", "two")}
    fleet.start()
    for name in ("one", "two"):
        fleet.wait_state(name, "connected")
    fleet.files.tunnels = {}
    fleet.gateway.reload()
    eventually(lambda: fleet.names() == [])

    def is_gone() -> bool:
        gc.collect()
        return not any(type(each) is DrainTimedOut for each in gc.get_objects())

    eventually(is_gone, "no message of a drain is left")
