"""A running bench for every test of the client API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.client_bench import ClientBench

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bench() -> Iterator[ClientBench]:
    with ClientBench() as running:
        yield running
