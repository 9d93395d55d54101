"""Closing one tunnel: in which order, and that it ends whatever becomes of the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log
from tests.support.fakes import make_config
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import DeleteChild, DispatchedActor, Dispatcher, StopChild
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.engine import begin_close
from tunnelfleet.runtime.metrics import TunnelMeter
from tunnelfleet.runtime.registry import TunnelRegistry
from tunnelfleet.runtime.tunnel import Changes, make_parts

if TYPE_CHECKING:
    from tunnelfleet.runtime import Tunnel


class Root(DispatchedActor):
    """Stands for the root supervisor; fails of a message of the given class."""

    def __init__(self, log: Log, registry: TunnelRegistry, fails_of: type | None = None) -> None:
        super().__init__()
        self._log = log
        self._registry = registry
        self._fails_of = fails_of

    def on_receive(self, message: Any) -> Any:
        self._log.add((message, len(self._registry)))
        if type(message) is self._fails_of:
            raise ZeroDivisionError


class FakeOutbox:
    """Stands for an Outbox."""

    def __init__(self, log: Log, registry: TunnelRegistry) -> None:
        self._log = log
        self._registry = registry

    def finish(self, _error: Exception) -> None:
        self._log.add(("finished", len(self._registry)))


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def registry() -> TunnelRegistry:
    return TunnelRegistry(Services(), TunnelMeter(), Changes())


@pytest.fixture
def tunnel(registry: TunnelRegistry, log: Log) -> Tunnel:
    outbox: Any = FakeOutbox(log, registry)
    return registry.add(make_config(Mode.SOURCE, name="a"), make_parts(Connector(1)), outbox=outbox)


STOP, DELETE = (StopChild("tunnel a"), 1), (DeleteChild("tunnel a"), 1)
FINISHED = ("finished", 0)


@pytest.mark.parametrize(
    ("fails_of", "transcript"),
    [
        pytest.param(None, [STOP, DELETE, FINISHED], id="in good order"),
        pytest.param(StopChild, [STOP, FINISHED], id="the runtime ends before"),
        pytest.param(DeleteChild, [STOP, DELETE, FINISHED], id="the runtime ends meanwhile"),
    ],
)
def test_its_name_is_free_before_anybody_hears_of_the_end(
    dispatcher: Dispatcher,
    registry: TunnelRegistry,
    tunnel: Tunnel,
    log: Log,
    fails_of: type | None,
    transcript: list[Any],
) -> None:
    root = Root.start(log, registry, fails_of, dispatcher=dispatcher)
    closed = begin_close(tunnel, root, registry)
    assert closed.result(WAIT_SECONDS) == tunnel.status()
    assert log.items == transcript


def test_with_a_root_that_has_ended_it_is_over_at_once(
    dispatcher: Dispatcher, registry: TunnelRegistry, tunnel: Tunnel, log: Log
) -> None:
    root = Root.start(log, registry, dispatcher=dispatcher)
    root.stop(timeout=WAIT_SECONDS)
    assert begin_close(tunnel, root, registry).done()
    assert log.items == [FINISHED]


def test_closed_twice_it_spares_the_next_of_that_name(
    dispatcher: Dispatcher, registry: TunnelRegistry, tunnel: Tunnel, log: Log
) -> None:
    root = Root.start(log, registry, dispatcher=dispatcher)
    begin_close(tunnel, root, registry).result(WAIT_SECONDS)
    next_one = registry.add(tunnel.config, make_parts(Connector(1)))
    begin_close(tunnel, root, registry).result(WAIT_SECONDS)
    assert registry.tunnels() == [next_one]
