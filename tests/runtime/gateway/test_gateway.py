from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import FakePlacement, Files, Fleet, wanted
from tests.support.rig import connect, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import ChildSpec, DispatchedActor
from tunnelfleet.proto import ConfigError, TunnelClosed
from tunnelfleet.runtime.gateway import Assigned, Gateway, Left, PutWanted, WantedTunnel
from tunnelfleet.runtime.gateway.config import ClientTokens, ensure_secret

if TYPE_CHECKING:
    from pathlib import Path


def test_client_tokens_come_from_the_deployment_s_secret(fleet: Fleet, tmp_path: Path) -> None:
    tunnel = fleet.tunnel("one")
    fleet.files.tunnels = {"one": tunnel}
    fleet.start()
    fleet.wait_state("one", "connected")
    secret, _warning = ensure_secret(None, tmp_path / "state")
    config = fleet.gateway.runtime.tunnel("one").config
    assert config.client_token == ClientTokens(secret).derive(tunnel.access_token)


def test_the_same_tokens_after_another_start(fleet: Fleet) -> None:
    fleet.files.tunnels = {"one": fleet.tunnel("one")}
    fleet.start()
    fleet.wait_state("one", "connected")
    fleet.gateway.stop()
    fleet.start()
    fleet.wait_state("one", "connected")


def test_leaving_ends_all_and_starts_nothing_any_more(fleet: Fleet) -> None:
    fleet.files.tunnels = {name: fleet.tunnel(name) for name in ("one", "two")}
    fleet.start()
    for name in ("one", "two"):
        fleet.wait_state(name, "connected")
    assert fleet.gateway.leave(WAIT_SECONDS) == Left(())
    assert fleet.gateway.state.running == {}
    fleet.gateway.ask(PutWanted("api", fleet.tunnel("late")))
    assert fleet.row("late").reason == "the gateway is stopping"


def test_an_empty_fleet_is_left_at_once(fleet: Fleet) -> None:
    fleet.start()
    assert fleet.gateway.leave(WAIT_SECONDS) == Left(())


def test_who_has_connections_when_time_is_over_is_named(fleet: Fleet) -> None:
    fleet.files.tunnels = {name: fleet.tunnel(name) for name in ("busy", "idle")}
    fleet.start()
    fleet.wait_state("idle", "connected")
    address = fleet.gateway.runtime.tunnel("busy").wait_listening("SSH", WAIT_SECONDS)
    with connect(address) as sock:
        assert echo(sock, b"x") == b"x"
        assert fleet.gateway.leave(0.2) == Left(("busy",))


def test_it_is_not_settled_before_it_knows_what_is_its_own(tmp_path: Path) -> None:
    placement = FakePlacement()
    with Gateway(Files(tmp_path), placement=placement) as gateway:
        gateway.snapshot()
        assert not gateway.is_settled
        placement.tell(Assigned(frozenset(), 1))
        eventually(lambda: gateway.is_settled)


def test_it_is_settled_when_all_have_tried(fleet: Fleet) -> None:
    fleet.files.tunnels = {"one": fleet.tunnel("one"), "nobody": wanted("nobody")}
    fleet.start()
    eventually(lambda: fleet.gateway.is_settled)
    assert fleet.row("one").state == "connected"
    assert fleet.row("nobody").state == "backoff"


class Source(DispatchedActor):
    """Wants a tunnel as soon as it runs, as a store does."""

    def __init__(self, gateway: Gateway, tunnel: WantedTunnel) -> None:
        super().__init__()
        self._gateway, self._tunnel = gateway, tunnel

    def on_start(self) -> None:
        self._gateway.tell(PutWanted("store", self._tunnel))


def test_another_actor_of_the_gateway_can_want_tunnels(fleet: Fleet) -> None:
    tunnel = fleet.tunnel("stored")

    def children(gateway: Gateway) -> list[ChildSpec]:
        return [ChildSpec("store", lambda: Source.start(gateway, tunnel))]

    with Gateway(fleet.files, more_children=children) as gateway:
        eventually(lambda: "stored" in gateway.state.running)
        assert gateway.state.source_of("stored") == "store"
        assert gateway.refs.by_id["store"].is_alive()


def test_what_does_not_run_says_so(tmp_path: Path) -> None:
    gateway = Gateway(Files(tmp_path))
    with pytest.raises(TunnelClosed):
        gateway.snapshot()
    with pytest.raises(TunnelClosed):
        _ = gateway.supervisor
    gateway.stop()


def test_a_secret_that_cannot_be_used_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "client-token-secret").write_text("short")
    with pytest.raises(ConfigError, match="needs at least 32"):
        Gateway(Files(tmp_path)).start()
