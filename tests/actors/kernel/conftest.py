"""Fixtures of the kernel's tests: dispatchers on every event loop that is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pykka
import pytest

from tests.support.actors import loop_factories
from tunnelfleet.actors.kernel import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=loop_factories(), ids=lambda factory: factory.__module__)
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Dispatcher]:
    with Dispatcher("test", loop_factory=request.param) as made:
        yield made


@pytest.fixture
def other() -> Iterator[Dispatcher]:
    """A second dispatcher, on another thread."""
    with Dispatcher("other") as made:
        yield made


@pytest.fixture(autouse=True)
def _no_registered_actors() -> Iterator[None]:
    yield
    left = pykka.ActorRegistry.get_all()
    pykka.ActorRegistry.stop_all(timeout=5)
    assert not left, f"actors outlived their test: {left}"
