from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest

from tests.support.fleet import Fleet, wanted
from tests.support.waiting import eventually
from tunnelfleet.runtime.gateway.config import FleetConfig, GatewaySettings, Problem
from tunnelfleet.runtime.gateway.fleet_state import (
    GATEWAY_METRICS,
    MAX_INFO_LABELS,
    MAX_INFO_ROWS,
    FleetState,
    GatewayCollector,
)
from tunnelfleet.runtime.gateway.placement import SHARDS
from tunnelfleet.runtime.gateway.reconcile import Running
from tunnelfleet.runtime.metrics import GATEWAY
from tunnelfleet.runtime.metrics.families import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from prometheus_client import Metric

    from tunnelfleet.runtime.gateway.wanted import WantedTunnel


def page(collector: GatewayCollector) -> list[str]:
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def state_of(*tunnels: WantedTunnel) -> FleetState:
    state = FleetState(FleetConfig(GatewaySettings(name="gw", admin="unix:x")))
    state.sources["files"] = {each.name: each for each in tunnels}
    state.running = {each.name: Running(each) for each in tunnels}
    state.shards = frozenset(range(SHARDS))
    return state


def test_a_running_gateway(fleet: Fleet) -> None:
    tunnel = fleet.tunnel("one")
    fleet.files.tunnels = {"one": tunnel, "two": replace(tunnel, name="two")}
    fleet.start()
    collector = fleet.gateway.collector
    eventually(lambda: "tunnelfleet_gateway_tunnels_running 2.0" in page(collector))
    found = page(collector)
    assert "tunnelfleet_gateway_tunnels_wanted 2.0" in found
    assert "tunnelfleet_config_last_reload_successful 1.0" in found
    fleet.files.problems = (Problem("f", 1, "k", "wrong"),)
    fleet.gateway.reload()
    assert "tunnelfleet_config_last_reload_successful 0.0" in page(collector)


def test_all_are_in_the_guide_and_there_are_no_others() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
    families = {family.name for family in GatewayCollector(state_of(wanted())).collect()}
    assert families == {each.family for each in GATEWAY if each.group == "Fleet gateway"}
    assert all(f"| `{name}` |" in guide for name in GATEWAY_METRICS)


class Part:
    """A part of a gateway that counts for itself."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self._name = name
        self._error = error

    def collect(self) -> Iterator[Metric]:
        yield numbers(self._name, [((), 7)])
        if self._error is not None:
            raise self._error


def test_parts_of_a_gateway_have_metrics_beside_its_own() -> None:
    collector = GatewayCollector(state_of(wanted()), [Part("audit_dropped")])
    collector.add(Part("worker_restarts").collect)
    found = page(collector)
    assert "tunnelfleet_audit_dropped_total 7.0" in found
    assert "tunnelfleet_worker_restarts_total 7.0" in found


def test_a_part_that_fails_takes_no_others_metrics_away(caplog: pytest.LogCaptureFixture) -> None:
    broken = Part("audit_dropped", ValueError("no such table"))
    collector = GatewayCollector(state_of(wanted()), [broken, Part("worker_restarts")])
    found = page(collector)
    assert "tunnelfleet_worker_restarts_total 7.0" in found
    assert not any("audit_dropped" in line for line in found)
    assert "no such table" in caplog.text


def test_labels_are_in_the_info_with_a_prefix_of_their_own() -> None:
    state = state_of(
        wanted("a", labels={"site": "lyon", "mode": "x"}), wanted("b", labels={"site": "metz"})
    )
    rows = [line for line in page(GatewayCollector(state)) if "_info" in line]
    assert rows == [
        (
            'tunnelfleet_tunnel_info{label_mode="x",label_site="lyon",mode="destination",'
            'tunnel="a"} 1.0'
        ),
        (
            'tunnelfleet_tunnel_info{label_mode="",label_site="metz",mode="destination",'
            'tunnel="b"} 1.0'
        ),
    ]


def test_the_info_is_capped() -> None:
    labels = {f"l{number}": "x" for number in range(MAX_INFO_LABELS + 5)}
    many = [wanted(f"t{number:05}", labels={"every": "x"}) for number in range(MAX_INFO_ROWS + 5)]
    state = state_of(wanted("t", labels=labels), *many)
    rows = [line for line in page(GatewayCollector(state)) if "_info" in line]
    assert len(rows) == MAX_INFO_ROWS
    assert rows[0].count("label_") == MAX_INFO_LABELS
    assert 'label_every="x"' in rows[1]
