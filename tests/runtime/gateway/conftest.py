"""Fixtures of the gateway's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A gateway, not started, and a service, running."""
    with Fleet(tmp_path / "state") as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL; each test makes itself a database in it."""
    with PostgresServer.running() as server:
        yield server
