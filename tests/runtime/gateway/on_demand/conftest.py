"""A gateway that opens tunnels on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.demand import DemandFleet, aws_keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.on_demand.actor.TICK_SECONDS", 0.02)
    monkeypatch.setattr("tunnelfleet.runtime.gateway.on_demand.actor.LOAD_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("tunnelfleet.runtime.gateway.on_demand.actor.INHERIT_SECONDS", 0.05)
    monkeypatch.setattr(
        "tunnelfleet.runtime.gateway.on_demand.errands.SEARCH_SECONDS", (0.05, 0.2, 0.2)
    )
    monkeypatch.setattr("tunnelfleet.runtime.gateway.on_demand.facts.FIRST_LOOK_SECONDS", 0.02)
    monkeypatch.setattr("tunnelfleet.runtime.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.02)
    with aws_keys():
        yield


@pytest.fixture
def fleet(tmp_path: Path, quick: None) -> Iterator[DemandFleet]:
    with DemandFleet(tmp_path) as running:
        yield running
