"""The registry of tunnels: names, order, and the meter that follows it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fakes import make_config
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.proto import ConfigError, Mode, TunnelClosed
from tunnelfleet.runtime.metrics import TunnelMeter
from tunnelfleet.runtime.registry import TunnelRegistry
from tunnelfleet.runtime.tunnel import Changes, make_parts

if TYPE_CHECKING:
    from tunnelfleet.runtime import Tunnel

PARTS = make_parts(Connector(1))
"""The connector's threads start with the first job: it gets none here."""


class CountedRegistry(TunnelRegistry):
    """A registry with a meter to look into."""

    def __init__(self, dispatchers: int = 1) -> None:
        self.meter = TunnelMeter(rows=10)
        super().__init__(Services(), self.meter, Changes(), dispatchers)

    def enter(self, name: str, **settings: Any) -> Tunnel:
        return self.add(make_config(Mode.SOURCE, name=name, **settings), PARTS)

    @property
    def names(self) -> list[str]:
        return [tunnel.name for tunnel in self.tunnels()]

    @property
    def counted(self) -> tuple[int, int, set[str]]:
        """Opened, closed, and the rows of the meter."""
        reading = self.meter.read()
        return reading.opened, reading.closed, {row.name for row in reading.rows}


class FakeOutbox:
    """Stands for an Outbox."""

    def __init__(self) -> None:
        self.finished: list[Exception] = []

    def finish(self, error: Exception) -> None:
        self.finished.append(error)


@pytest.fixture
def registry() -> CountedRegistry:
    return CountedRegistry()


def test_tunnels_are_found_by_name_and_listed_in_order(registry: CountedRegistry) -> None:
    tunnels = [registry.enter(name) for name in ("c", "a", "b")]
    assert registry.tunnels() == tunnels
    assert len(registry) == 3
    assert registry.get("a") is tunnels[1]
    with pytest.raises(KeyError):
        registry.get("nobody")
    assert registry.counted == (3, 0, {"a", "b", "c"})


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        pytest.param({"name": "taken"}, "'taken' already", id="its name is taken"),
        pytest.param(
            {"name": "new", "client_token": "short"}, "client token", id="a malformed token"
        ),
    ],
)
def test_what_is_refused_leaves_no_trace(
    registry: CountedRegistry, settings: dict[str, str], error: str
) -> None:
    first = registry.enter("taken")
    with pytest.raises(ConfigError, match=error):
        registry.enter(**settings)
    assert registry.tunnels() == [first]
    assert registry.counted == (1, 0, {"taken"})


def test_a_name_is_free_once_its_tunnel_is_struck_out(registry: CountedRegistry) -> None:
    first = registry.enter("a")
    registry.remove(first)
    assert registry.tunnels() == []
    second = registry.enter("a")
    assert registry.get("a") is second is not first
    assert registry.counted == (2, 1, {"a"})


def test_a_tunnel_is_struck_out_once_and_never_its_successor(registry: CountedRegistry) -> None:
    first = registry.enter("a")
    registry.remove(first)
    second = registry.enter("a")
    registry.remove(first)
    assert registry.tunnels() == [second]
    assert registry.counted == (2, 1, {"a"})


@pytest.mark.parametrize(
    ("dispatchers", "expected"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (3, [0, 1, 2, 0])]
)
def test_tunnels_are_spread_in_turn(dispatchers: int, expected: list[int]) -> None:
    registry = CountedRegistry(dispatchers)
    assert [registry.enter(str(n)).dispatcher_number for n in range(4)] == expected


def test_the_end_answers_those_who_wait_then_strikes_out_all(registry: CountedRegistry) -> None:
    outboxes = [FakeOutbox(), FakeOutbox()]
    for name, outbox in zip("ab", outboxes, strict=True):
        registry.add(make_config(Mode.SOURCE, name=name), PARTS, outbox=outbox)  # type: ignore[arg-type]
    registry.enter("without an outbox")
    registry.finish()
    assert [[type(error) for error in outbox.finished] for outbox in outboxes] == [
        [TunnelClosed]
    ] * 2
    assert len(registry) == 3
    for _ in range(2):
        registry.clear()
        assert (len(registry), registry.tunnels()) == (0, [])
        assert registry.counted == (3, 3, set())


def test_of_threads_that_want_one_name_one_gets_it(registry: CountedRegistry) -> None:
    def enter(number: int) -> bool:
        try:
            registry.enter(f"tunnel {number % 10}")
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        entered = list(pool.map(enter, range(200)))
    assert sum(entered) == 10
    assert len(set(registry.names)) == len(registry) == 10
    assert registry.counted[:2] == (10, 0)
