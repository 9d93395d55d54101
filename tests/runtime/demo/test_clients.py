from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.demo import FakeTunnel, FaultyWire, run_coroutine
from tests.support.waiting import until
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.demo.fleet import TunnelPair
from tunnelfleet.runtime.demo.plan import Meter, TrafficPlan
from tunnelfleet.runtime.demo.servers import BULK, ECHO, HTTP, SERVICES, TunnelServers
from tunnelfleet.runtime.demo.traffic import CLIENTS, TunnelClients

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PLAN = TrafficPlan(bytes_per_second=1_000_000.0, echo_pause_seconds=0.001)


class Scene:
    """Clients and servers of a tunnel, without the tunnel."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.source = FakeTunnel()
        self.pair = TunnelPair("press-01", self.source, FakeTunnel(Mode.DESTINATION))
        self.servers = TunnelServers("press-01", self.meter)
        self.clients: TunnelClients | None = None

    async def play(
        self,
        act: Callable[[], Awaitable[None]],
        damage: Callable[[bytes], bytes | None] = lambda data: data,
        grace_seconds: float = 5.0,
        plan: TrafficPlan = PLAN,
    ) -> Meter:
        ports = await self.servers.start()
        async with (
            FaultyWire(ports[ECHO], damage) as echo,
            FaultyWire(ports[HTTP], damage) as http,
            FaultyWire(ports[BULK], damage) as bulk,
        ):
            wires = dict(zip(SERVICES, (echo, http, bulk), strict=True))
            addresses = {name: ("127.0.0.1", wire.port) for name, wire in wires.items()}
            self.clients = TunnelClients(self.pair, addresses, plan, self.meter)
            self.clients.start()
            try:
                await act()
            finally:
                await self.clients.stop(grace_seconds)
                await self.servers.stop()
        return self.meter

    async def until_completed(self, count: int = 8) -> None:
        await until(lambda: self.meter.exchanges_completed >= count)


def test_clients_go_on_and_every_byte_is_verified() -> None:
    scene = Scene()
    meter = run_coroutine(scene.play(scene.until_completed))

    assert meter.exchanges_completed >= 8
    assert meter.verified_bytes > 0
    assert (meter.mismatched_bytes, meter.exchanges_broken, meter.exchanges_cut) == (0, 0, 0)


def test_wrong_bytes_are_counted() -> None:
    scene = Scene()

    def damage(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1])

    meter = run_coroutine(
        scene.play(lambda: until(lambda: scene.meter.mismatched_bytes > 0), damage)
    )

    assert meter.mismatched_bytes > 0
    assert meter.first_fault


def test_a_connection_that_nothing_broke_and_that_ends_early_has_lost_bytes() -> None:
    scene = Scene()
    meter = run_coroutine(
        scene.play(lambda: until(lambda: scene.meter.mismatched_bytes > 0), lambda _data: None)
    )

    assert meter.exchanges_broken == 0
    assert "never arrived" in meter.first_fault
    assert "though nothing broke it" in meter.first_fault


@pytest.mark.parametrize("how", ["strike", "reconnect", "session reset"])
def test_a_connection_that_chaos_broke_has_lost_nothing(how: str) -> None:
    scene = Scene()

    def damage(_data: bytes) -> None:
        if how == "strike":
            scene.pair.strike()
        elif how == "reconnect":
            scene.source.set(reconnects=scene.source.status().reconnects + 1)
        else:
            scene.source.set(session_resets=scene.source.status().session_resets + 1)

    meter = run_coroutine(
        scene.play(lambda: until(lambda: scene.meter.exchanges_broken >= 4), damage)
    )

    assert meter.exchanges_completed == 0
    assert (meter.mismatched_bytes, meter.first_fault) == (0, "")


def test_a_broken_connection_must_have_brought_a_right_beginning() -> None:
    scene = Scene()

    def damage(data: bytes) -> bytes:
        scene.pair.strike()
        return data[:-1] + bytes([data[-1] ^ 1])

    meter = run_coroutine(
        scene.play(lambda: until(lambda: scene.meter.mismatched_bytes > 0), damage)
    )

    assert meter.mismatched_bytes > 0


def test_a_port_that_refuses_is_an_early_end() -> None:
    async def main() -> Meter:
        scene = Scene()
        unused = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
        port = unused.sockets[0].getsockname()[1]
        unused.close()
        clients = TunnelClients(
            scene.pair, dict.fromkeys(SERVICES, ("127.0.0.1", port)), PLAN, scene.meter
        )
        clients.start()
        await until(lambda: scene.meter.mismatched_bytes >= sum(CLIENTS.values()))
        await clients.stop(5.0)
        return scene.meter

    assert "ConnectionRefusedError" in run_coroutine(main()).first_fault


def test_what_an_undisturbed_tunnel_does_not_deliver_in_the_end_is_lost() -> None:
    scene = Scene()
    meter = run_coroutine(
        scene.play(
            lambda: until(lambda: scene.meter.sent_bytes > 0), lambda _data: b"", grace_seconds=0.2
        )
    )

    assert meter.mismatched_bytes > 0
    assert "still waiting at the end" in meter.first_fault


def test_what_is_cut_off_at_once_is_not_judged() -> None:
    scene = Scene()
    meter = run_coroutine(
        scene.play(
            lambda: until(lambda: scene.meter.sent_bytes > 0), lambda _data: b"", grace_seconds=0.0
        )
    )

    assert meter.exchanges_cut > 0
    assert (meter.mismatched_bytes, meter.exchanges_broken) == (0, 0)


def test_clients_finish_what_they_have_begun() -> None:
    scene = Scene()
    slow = TrafficPlan(bytes_per_second=100_000.0, echo_pause_seconds=60.0)
    meter = run_coroutine(
        scene.play(lambda: until(lambda: scene.meter.sent_bytes > 20_000), plan=slow)
    )

    assert meter.exchanges_completed > 0
    assert (meter.mismatched_bytes, meter.exchanges_cut, meter.exchanges_broken) == (0, 0, 0)
