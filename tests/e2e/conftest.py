"""Fixtures of the end-to-end tests: a rig with TLS, one without. All of them are marked `e2e`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import Sshd
from tests.support.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Service (TLS) and runtime, running."""
    with Rig(tls=True) as running:
        yield running


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with Sshd.start(tmp_path) as server:
        yield server
