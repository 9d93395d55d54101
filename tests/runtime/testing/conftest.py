"""A service as the tests of other projects have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tunnelfleet.runtime.testing import LocalService

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def service() -> Iterator[LocalService]:
    with LocalService() as running:
        yield running
