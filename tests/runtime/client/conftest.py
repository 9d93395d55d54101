"""A running bench for every test of the client API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.runtime.client.support import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running
