"""Fixtures of the admin API's tests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.runtime.gateway.api.support import Client, Rig
from tests.support.fleet import wanted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def events_are_told() -> None:
    """The project's logger lets through what a running gateway's does."""
    logging.getLogger("tunnelfleet").setLevel(logging.INFO)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A gateway with one tunnel of the files, `a`, and its API."""
    with Rig(tmp_path, wanted("a", labels={"site": "lyon"}, place="fleet.toml:3")) as running:
        yield running


@pytest.fixture
def client(rig: Rig) -> Client:
    """Asks that API."""
    return rig.client
