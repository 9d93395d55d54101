"""Fixtures of the actors' tests: a dispatcher, a connector, tunnels between fakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.actors.fakes import TunnelRig
from tunnelfleet.actors.connector import Connector
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.proto import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    with Dispatcher("test") as made:
        yield made


@pytest.fixture
def connector() -> Iterator[Connector]:
    made = Connector(2)
    yield made
    made.close()


@pytest.fixture
def rig(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TunnelRig]]:
    """Return a maker of rigs, which are closed after the test."""
    made: list[TunnelRig] = []

    def make(mode: Mode = Mode.DESTINATION, **settings: Any) -> TunnelRig:
        made.append(TunnelRig(dispatcher, monkeypatch, mode, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
