from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests.support.demo import FakeTunnel
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.demo import traffic as traffic_module
from tunnelfleet.runtime.demo.fleet import TunnelPair
from tunnelfleet.runtime.demo.plan import TrafficPlan
from tunnelfleet.runtime.demo.servers import ECHO
from tunnelfleet.runtime.demo.traffic import Traffic

PLAN = TrafficPlan(bytes_per_second=1_000_000.0, echo_pause_seconds=0.001)


def make_pair(name: str = "press-01") -> TunnelPair:
    return TunnelPair(name, FakeTunnel(), FakeTunnel(Mode.DESTINATION))


def addresses(ports: dict[str, int]) -> dict[str, tuple[str, int]]:
    return {service_id: ("127.0.0.1", port) for service_id, port in ports.items()}


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    else:
        monkeypatch.setattr(traffic_module, "new_event_loop", asyncio.new_event_loop)


@pytest.mark.usefixtures("loop")
def test_clients_and_servers_of_several_tunnels_run_on_one_thread() -> None:
    before = threading.active_count()
    with Traffic() as traffic:
        pairs = [make_pair("press-01"), make_pair("press-02")]
        ready = {pair: addresses(traffic.serve(pair.name)) for pair in pairs}
        traffic.start_clients(ready, PLAN)
        eventually(lambda: traffic.meter.exchanges_completed >= 8)
        assert threading.active_count() == before + 1
        traffic.stop_clients(5.0).result(10)
        moved = traffic.meter.sent_bytes

    assert traffic.meter.mismatched_bytes == 0
    assert traffic.meter.sent_bytes == moved
    assert threading.active_count() == before


@pytest.mark.usefixtures("loop")
def test_closing_in_the_middle_leaves_nothing_behind() -> None:
    with Traffic() as traffic:
        pair = make_pair()
        ports = traffic.serve(pair.name)
        traffic.start_clients({pair: addresses(ports)}, PLAN)
        eventually(lambda: traffic.meter.received_bytes > 0)
    traffic.close()

    assert traffic.meter.mismatched_bytes == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[ECHO]), timeout=WAIT_SECONDS)


def test_stopping_clients_that_there_are_not_is_nothing() -> None:
    with Traffic() as traffic:
        assert traffic.stop_clients(5.0).result(10) is None
