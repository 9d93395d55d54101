"""The authority of a fleet, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.forwarding import Authority
from tests.support.gateway_pair import NAMES, GatewayPair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority") / "ca")
    for name in NAMES:
        made.issue(name)
    return made


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Of another fleet, whose gateways are called the same."""
    made = Authority(tmp_path_factory.mktemp("other") / "ca")
    for name in NAMES:
        made.issue(name)
    return made


@pytest.fixture
def pair(tmp_path: Path, authority: Authority) -> Iterator[GatewayPair]:
    with GatewayPair(tmp_path, authority) as made:
        yield made
