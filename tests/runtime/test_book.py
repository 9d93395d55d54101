"""The book of tunnels: names, order, and the ledger that follows it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.actors.fakes import make_config
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.proto import ConfigError, Mode, TunnelClosed
from tunnelfleet.runtime.metrics import Ledger
from tunnelfleet.runtime.registry import TunnelBook
from tunnelfleet.runtime.waiting import Changes

if TYPE_CHECKING:
    from tunnelfleet.runtime import Tunnel

CONNECTOR = Connector(1)
"""Its threads start with the first job: it gets none here."""


class Book(TunnelBook):
    """A book with a ledger to look into."""

    def __init__(self, dispatchers: int = 1) -> None:
        self.ledger = Ledger(rows=10)
        super().__init__(Services(), self.ledger, Changes(), dispatchers)

    def enter(self, name: str, **settings: Any) -> Tunnel:
        return self.add(make_config(Mode.SOURCE, name=name, **settings), CONNECTOR)

    @property
    def names(self) -> list[str]:
        return [tunnel.name for tunnel in self.tunnels()]

    @property
    def counted(self) -> tuple[int, int, set[str]]:
        """Opened, closed, and the rows of the ledger."""
        reading = self.ledger.read()
        return reading.opened, reading.closed, {row.name for row in reading.rows}


class Port:
    """Stands for an ApiPort."""

    def __init__(self) -> None:
        self.finished: list[Exception] = []

    def finish(self, error: Exception) -> None:
        self.finished.append(error)


@pytest.fixture
def book() -> Book:
    return Book()


def test_tunnels_are_found_by_name_and_listed_in_order(book: Book) -> None:
    tunnels = [book.enter(name) for name in ("c", "a", "b")]
    assert book.tunnels() == tunnels
    assert len(book) == 3
    assert book.get("a") is tunnels[1]
    with pytest.raises(KeyError):
        book.get("nobody")
    assert book.counted == (3, 0, {"a", "b", "c"})


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        pytest.param({"name": "taken"}, "'taken' already", id="its name is taken"),
        pytest.param(
            {"name": "new", "client_token": "short"}, "client token", id="a malformed token"
        ),
    ],
)
def test_what_is_refused_leaves_no_trace(book: Book, settings: dict[str, str], error: str) -> None:
    first = book.enter("taken")
    with pytest.raises(ConfigError, match=error):
        book.enter(**settings)
    assert book.tunnels() == [first]
    assert book.counted == (1, 0, {"taken"})


def test_a_name_is_free_once_its_tunnel_is_struck_out(book: Book) -> None:
    first = book.enter("a")
    book.remove(first)
    assert book.tunnels() == []
    second = book.enter("a")
    assert book.get("a") is second is not first
    assert book.counted == (2, 1, {"a"})


def test_a_tunnel_is_struck_out_once_and_never_its_successor(book: Book) -> None:
    first = book.enter("a")
    book.remove(first)
    second = book.enter("a")
    book.remove(first)
    assert book.tunnels() == [second]
    assert book.counted == (2, 1, {"a"})


@pytest.mark.parametrize(
    ("dispatchers", "expected"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (3, [0, 1, 2, 0])]
)
def test_tunnels_are_spread_in_turn(dispatchers: int, expected: list[int]) -> None:
    book = Book(dispatchers)
    assert [book.enter(str(n)).dispatcher_number for n in range(4)] == expected


def test_the_end_answers_those_who_wait_then_strikes_out_all(book: Book) -> None:
    ports = [Port(), Port()]
    for name, port in zip("ab", ports, strict=True):
        book.add(make_config(Mode.SOURCE, name=name), CONNECTOR, port=port)  # type: ignore[arg-type]
    book.enter("without a port")
    book.finish()
    assert [[type(error) for error in port.finished] for port in ports] == [[TunnelClosed]] * 2
    assert len(book) == 3
    for _ in range(2):
        book.clear()
        assert (len(book), book.tunnels()) == (0, [])
        assert book.counted == (3, 3, set())


def test_of_threads_that_want_one_name_one_gets_it(book: Book) -> None:
    def enter(number: int) -> bool:
        try:
            book.enter(f"tunnel {number % 10}")
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        entered = list(pool.map(enter, range(200)))
    assert sum(entered) == 10
    assert len(set(book.names)) == len(book) == 10
    assert book.counted[:2] == (10, 0)
