"""What is true of tunnels without connections: lifetimes, and what is kept over a restart."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.clocks import SetClock
from tunnelfleet.proto import ConfigError, Mode, RequestAccepted, RequestRefused
from tunnelfleet.runtime.service.tunnels import (
    STALE_DEADLINES,
    KeptTunnel,
    Origin,
    TunnelBook,
    checked_lifetime,
)

if TYPE_CHECKING:
    from tunnelfleet.runtime.service.tokens import TunnelTokens

A, B = "a" * 32, "b" * 32


class Memory:
    """Keeps what it is given, as a file would."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptTunnel] = {}
        self.flushes = 0

    def load_tunnels(self) -> list[KeptTunnel]:
        return list(self.kept.values())

    def put_tunnel(self, name: str, tunnel: KeptTunnel | None) -> None:
        if tunnel is None:
            self.kept.pop(name, None)
        else:
            self.kept[name] = tunnel

    def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def memory() -> Memory:
    return Memory()


def open_one(
    book: TunnelBook,
    name: str = "press-4",
    *,
    origin: Origin = Origin.CALL,
    closes_at: float | None = None,
) -> TunnelTokens:
    return book.open(
        name, ["SSH"], bandwidth_bytes_per_second=None, closes_at=closes_at, origin=origin
    )


def ask(book: TunnelBook, token: str, client_token: str | None = A) -> str:
    return book.issued.admit(RequestAccepted(Mode.SOURCE, token, client_token, ""))


def is_refused(book: TunnelBook, token: str, client_token: str | None = A) -> bool:
    try:
        ask(book, token, client_token)
    except RequestRefused:
        return True
    return False


class TestLifetimes:
    def test_the_nearest_is_next_and_each_ends_once(self) -> None:
        clock = SetClock()
        book, now = TunnelBook(clock=clock), clock.now()
        for name, seconds in (("b", 20.0), ("a", 10.0), ("never", None), ("c", 30.0)):
            open_one(book, name, closes_at=seconds and clock.wall() + seconds)
        assert book.next_deadline() == now + 10.0
        assert book.take_expired(now + 9.9) == []
        assert book.take_expired(now + 20.0) == ["a", "b"]
        assert book.take_expired(now + 20.0) == []
        assert book.next_deadline() == now + 30.0

    def test_a_closed_tunnel_has_none(self) -> None:
        clock = SetClock()
        book, now = TunnelBook(clock=clock), clock.now()
        open_one(book, closes_at=clock.wall() + 10.0)
        book.close("press-4")
        open_one(book, closes_at=clock.wall() + 50.0)
        assert book.next_deadline() == now + 50.0
        assert book.take_expired(now + 20.0) == []

    def test_what_is_remembered_of_closed_ones_is_bounded(self) -> None:
        book = TunnelBook()
        for number in range(3 * STALE_DEADLINES):
            open_one(book, closes_at=1e9 + number)
            book.close("press-4")
        assert len(book._deadlines) <= STALE_DEADLINES + 2

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12])
    def test_what_is_no_lifetime(self, seconds: float) -> None:
        with pytest.raises(ConfigError, match="lifetime"):
            checked_lifetime(seconds)


@pytest.mark.parametrize("step_seconds", [3_600.0, -3_600.0, 56 * 365 * 86_400.0])
class TestAClockThatIsSet:
    def test_no_tunnel_of_this_process_ends_sooner_or_later(self, step_seconds: float) -> None:
        clock = SetClock()
        book = TunnelBook(clock=clock)
        open_one(book, closes_at=clock.wall() + 600.0)
        clock.steps(step_seconds)
        book.look_at_clock()
        clock.passes(599.0)
        assert book.take_expired(clock.now()) == []
        clock.passes(1.0)
        assert book.take_expired(clock.now()) == ["press-4"]

    def test_the_next_process_is_told_the_same_end(
        self, memory: Memory, step_seconds: float
    ) -> None:
        clock = SetClock()
        book = TunnelBook(memory, clock)
        open_one(book, closes_at=clock.wall() + 600.0)
        open_one(book, "press-5")
        clock.steps(step_seconds)
        book.look_at_clock()
        clock.passes(400.0)
        again = TunnelBook(memory, clock)
        assert again.next_deadline() == clock.now() + 200.0
        assert memory.kept["press-5"].closes_at is None

    def test_what_an_earlier_process_kept_ends_by_the_clock_as_it_goes_now(
        self, memory: Memory, step_seconds: float
    ) -> None:
        """As where a device wakes up without the time, and hears of it."""
        clock = SetClock()
        open_one(TunnelBook(memory, clock), closes_at=clock.wall() + 600.0)
        clock.steps(-step_seconds)
        book = TunnelBook(memory, clock)
        clock.steps(step_seconds)
        book.look_at_clock()
        assert book.next_deadline() == clock.now() + 600.0


class TestOverARestart:
    def test_a_client_finds_its_tunnel_again_and_nobody_else_does(self, memory: Memory) -> None:
        tokens = open_one(TunnelBook(memory))
        ask(TunnelBook(memory), tokens.source_token)
        book = TunnelBook(memory)
        assert ask(book, tokens.source_token) == "press-4"
        assert is_refused(book, tokens.source_token, B)
        assert is_refused(book, tokens.source_token, None)
        assert book.issued.services("press-4") == ("SSH",)

    def test_a_client_token_is_in_use_for_its_tunnel_alone(self, memory: Memory) -> None:
        book = TunnelBook(memory)
        first, second = open_one(book), open_one(book, "press-5")
        ask(book, first.source_token)
        book = TunnelBook(memory)
        assert is_refused(book, second.source_token)
        assert ask(book, second.source_token, B) == "press-5"

    def test_its_tokens_are_not_known_any_more_and_can_be_rotated(self, memory: Memory) -> None:
        old = open_one(TunnelBook(memory))
        book = TunnelBook(memory)
        with pytest.raises(ConfigError, match="rotate them"):
            book.issued.tokens("press-4")
        one_side = book.rotate("press-4", Mode.SOURCE)
        assert (len(one_side.source_token), one_side.destination_token) == (64, "")
        assert is_refused(book, old.source_token)
        assert book.issued.tunnel_of(old.destination_token) == "press-4"

    def test_all_that_was_said_of_it_is_kept(self, memory: Memory) -> None:
        book = TunnelBook(memory)
        open_one(book, closes_at=time.time() + 60)
        book.set_bandwidth("press-4", 1000.0)
        book.rotate("press-4", None, ["VNC"])
        again = TunnelBook(memory)
        assert again.bandwidth("press-4") == 1000.0
        assert again.next_deadline() == pytest.approx(book.next_deadline(), abs=0.001)
        assert again.issued.services("press-4") == ("VNC",)
        again.close("press-4")
        assert memory.kept == {}

    def test_what_is_kept_tells_no_token(self, memory: Memory) -> None:
        book = TunnelBook(memory)
        tokens = open_one(book)
        ask(book, tokens.source_token)
        kept = str(dataclasses.asdict(memory.kept["press-4"]))
        assert "closes_at" in kept
        for secret in (tokens.source_token, tokens.destination_token, A):
            assert secret not in kept


class TestTunnelsOfTheStart:
    def restart(self, memory: Memory) -> tuple[TunnelBook, TunnelTokens]:
        book = TunnelBook(memory)
        return book, open_one(book, origin=Origin.START)

    def test_they_have_new_tokens_and_their_clients_keep_theirs(self, memory: Memory) -> None:
        book, old = self.restart(memory)
        ask(book, old.source_token)
        book, new = self.restart(memory)
        assert new.source_token != old.source_token
        assert ask(book, old.source_token) == "press-4"
        assert is_refused(book, old.source_token, B)
        assert ask(book, new.source_token, B) == "press-4"
        assert is_refused(book, old.source_token)  # now that the new one is used

    def test_a_token_that_was_used_stays_over_many_starts(self, memory: Memory) -> None:
        book, old = self.restart(memory)
        ask(book, old.source_token)
        unused = [self.restart(memory)[1] for _ in range(3)]
        book, new = self.restart(memory)
        assert ask(book, old.source_token) == "press-4"
        assert all(is_refused(book, each.source_token, None) for each in unused)
        assert ask(book, new.source_token) == "press-4"
        assert len(book.issued.kept("press-4")) == 3  # the destination's former one is not used

    def test_one_that_was_not_used_stays_for_a_start(self, memory: Memory) -> None:
        _, first = self.restart(memory)
        book, _ = self.restart(memory)
        assert ask(book, first.source_token) == "press-4"

    def test_those_that_a_start_does_not_name_are_unclaimed(self, memory: Memory) -> None:
        book = TunnelBook(memory)
        for name in ("a", "b"):
            open_one(book, name, origin=Origin.START)
        open_one(book, "called")
        book = TunnelBook(memory)
        open_one(book, "b", origin=Origin.START)
        assert book.take_unclaimed() == {"a"}
        assert book.take_unclaimed() == set()

    def test_one_that_was_called_for_is_not_taken_over(self, memory: Memory) -> None:
        open_one(TunnelBook(memory))
        with pytest.raises(ConfigError, match="open already"):
            open_one(TunnelBook(memory), origin=Origin.START)

    def test_one_start_does_not_name_one_twice(self, memory: Memory) -> None:
        book, _ = self.restart(memory)
        with pytest.raises(ConfigError, match="open already"):
            open_one(book, origin=Origin.START)
        assert memory.kept["press-4"].origin is Origin.START
