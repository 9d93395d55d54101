"""Who has which shards of a fleet on Ray: by requests and the time, without Ray."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.placement.lease import (
    LeaseAnswer,
    LeaseRequest,
    RequestKind,
)
from tunnelfleet.runtime.gateway.placement.members import Owner
from tunnelfleet.runtime.ray_fleet.book import Asker, Book, Dismissal, Ruling
from tunnelfleet.runtime.ray_fleet.keeper import group_names

SHARDS = 16
LEASE = 10.0


class Life:
    """A process of a group, which asks as `Lease` does."""

    def __init__(self, book: Book, name: str, run: str = "first") -> None:
        self.book = book
        self.asker = Asker(name, run)
        self.epoch = 0
        self.serial = 0
        self.ruling = Ruling(LeaseAnswer())

    def make(self, kind: RequestKind, shards: frozenset[int] = frozenset()) -> LeaseRequest:
        self.serial += 1
        return LeaseRequest(kind, self.epoch, shards, version=self.book.version, serial=self.serial)

    def ask(
        self, kind: RequestKind, now: float, shards: frozenset[int] = frozenset()
    ) -> LeaseAnswer:
        request = self.make(kind, shards)
        self.ruling = self.book.handle(self.asker, request, now)
        return self.ruling.answer

    def join(self, now: float) -> bool:
        self.epoch = self.ask(RequestKind.JOIN, now).epoch
        return self.epoch > 0

    def beat(self, now: float, release: frozenset[int] = frozenset()) -> bool:
        return self.ask(RequestKind.BEAT, now, release).epoch > 0

    def claim(self, now: float) -> frozenset[int]:
        wanted = self.book.table(now).claims_of(self.asker.name)
        return self.ask(RequestKind.CLAIM, now, wanted).claimed

    @property
    def shards(self) -> frozenset[int]:
        return self.book.table(0.0).shards_of(Owner(self.asker.name, self.epoch))


def fleet(groups: int) -> tuple[Book, list[Life]]:
    """A fleet whose groups have all shards."""
    book = Book(SHARDS, LEASE)
    book.declare(group_names(groups))
    lives = [Life(book, name) for name in group_names(groups)]
    for life in lives:
        assert life.join(0.0)
        life.claim(0.0)
    assert None not in book.owners
    return book, lives


def test_the_first_group_leaves_the_others_their_shares() -> None:
    book = Book(SHARDS, LEASE)
    book.declare(group_names(2))
    life = Life(book, "group-0")
    assert life.join(0.0)
    claimed = life.claim(0.0)
    assert 0 < len(claimed) < SHARDS


def test_a_new_life_gets_its_shards_when_the_lease_before_has_run_out_and_not_earlier() -> None:
    book, (old, other) = fleet(2)
    mine = old.shards
    new = Life(book, "group-0", "second")
    assert not new.join(LEASE - 0.1)
    assert new.ruling.answer.taken_seconds > 0
    assert new.join(LEASE + 0.1)
    assert new.claim(LEASE + 0.1) == mine
    assert other.shards.isdisjoint(mine)
    assert other.beat(LEASE + 0.2)


def test_a_life_with_an_heir_does_not_get_its_lease_renewed_and_never_comes_back() -> None:
    book, (old, _other) = fleet(2)
    new = Life(book, "group-0", "second")
    assert not new.join(5.0)
    assert not old.beat(6.0)
    assert new.join(LEASE + 0.1)
    assert not old.join(LEASE + 0.2)
    assert old.ruling.dismissal is Dismissal.REPLACED
    assert new.beat(LEASE + 0.3)


def test_a_lease_that_has_run_out_is_renewed_where_nobody_else_has_asked() -> None:
    _book, (only,) = fleet(1)
    assert only.beat(50 * LEASE)
    assert len(only.shards) == SHARDS


def test_others_take_nothing_from_a_group_that_is_away() -> None:
    _book, (_away, other) = fleet(2)
    before = other.shards
    assert other.beat(20 * LEASE)
    assert other.claim(20 * LEASE) == frozenset()
    assert other.shards == before


def test_a_group_that_is_added_has_no_share_before_it_is_there() -> None:
    book, lives = fleet(2)
    book.declare(group_names(3))
    assert "group-2" not in book.table(0.0).members
    new = Life(book, "group-2")
    assert new.join(1.0)
    table = book.table(1.0)
    assert "group-2" in table.members
    moved = set[int]()
    for life in lives:
        moved |= table.handovers_of(life.asker.name, life.shards)
        life.beat(1.0, table.handovers_of(life.asker.name, life.shards))
    assert new.claim(1.1) == moved
    assert 0 < len(moved) < SHARDS / 2


def test_groups_that_are_added_get_their_shares_at_the_same_time() -> None:
    book, (only,) = fleet(1)
    book.declare(group_names(3))
    first, second = Life(book, "group-1"), Life(book, "group-2")
    assert first.join(1.0)
    assert book.table(1.0).members == ("group-0",)
    assert second.join(2.0)
    assert book.table(2.0).members == ("group-0", "group-1", "group-2")
    assert only.beat(2.1)


def test_a_group_that_does_not_come_keeps_no_other_waiting() -> None:
    book, (only,) = fleet(1)
    book.declare(group_names(3))
    first = Life(book, "group-1")
    assert first.join(1.0)
    assert first.beat(LEASE)
    assert only.beat(LEASE)
    assert book.table(LEASE).members == ("group-0",)
    assert first.beat(1.0 + LEASE)
    assert book.table(1.0 + LEASE).members == ("group-0", "group-1")


def test_a_group_that_is_not_wanted_hands_over_and_is_dismissed() -> None:
    book, (stays, goes) = fleet(2)
    book.declare(group_names(1))
    assert goes.beat(1.0)
    assert goes.ruling.dismissal is Dismissal.NONE
    assert book.table(1.0).handovers_of("group-1", goes.shards) == goes.shards
    goes.beat(2.0, goes.shards)
    assert goes.ruling.dismissal is Dismissal.UNWANTED
    stays.claim(2.1)
    assert len(stays.shards) == SHARDS


def test_a_group_that_is_not_wanted_and_dead_gives_up_what_it_had() -> None:
    book, (stays, _dead) = fleet(2)
    book.declare(group_names(1))
    stays.beat(LEASE + 1)
    stays.claim(LEASE + 1)
    assert len(stays.shards) == SHARDS
    assert set(book.seats) == {"group-0"}


def test_nothing_begins_in_a_fleet_that_ends() -> None:
    book, _lives = fleet(1)
    book.end()
    late = Life(book, "group-0", "late")
    assert not late.join(30 * LEASE)
    assert late.ruling.dismissal is Dismissal.UNWANTED


def test_a_request_that_was_held_up_changes_nothing() -> None:
    book, (only,) = fleet(1)
    late = LeaseRequest(
        RequestKind.BEAT, only.epoch, only.shards, version=book.version, serial=only.serial
    )
    assert only.beat(1.0)
    assert book.handle(only.asker, late, 2.0).answer.epoch == 0
    assert len(only.shards) == SHARDS


def test_a_join_that_was_held_up_begins_no_other_life() -> None:
    book = Book(SHARDS, LEASE)
    book.declare(group_names(1))
    only = Life(book, "group-0")
    late = only.make(RequestKind.JOIN)
    assert only.join(0.0)
    only.claim(0.0)
    assert not book.handle(only.asker, late, 1.0).answer.epoch
    assert only.beat(2.0)
    assert len(only.shards) == SHARDS


def test_a_goodbye_frees_all_and_that_process_does_not_come_back() -> None:
    book, (only,) = fleet(1)
    only.ask(RequestKind.GOODBYE, 1.0)
    assert set(book.owners) == {None}
    assert not only.join(2.0)
    assert Life(book, "group-0", "second").join(2.0)


def test_what_is_kept_is_all_and_each_life_has_a_whole_lease_again() -> None:
    book, (old, _other) = fleet(2)
    kept = json.loads(json.dumps(book.to_json()))
    again = Book.of_json(kept, now=1_000.0)
    assert again.owners == book.owners
    assert (again.version, again.epoch) == (book.version, book.epoch)
    new = Life(again, "group-0", "second")
    assert not new.join(1_000.0 + LEASE - 0.1)
    old.book = again
    assert not old.beat(1_000.0 + LEASE - 0.1)
    assert new.join(1_000.0 + LEASE + 0.1)


KINDS = (
    *("join", "beat", "claim", "release", "restart", "directory", "groups"),
    *("lose a join", "lose a release", "late"),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 3),
        st.floats(0.0, 15.0),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_two_processes_ever_count_on_one_shard(steps: list[tuple[str, int, float]]) -> None:
    """What a process counts on: the shards it was told, until a lease after it last asked."""
    now = 0.0
    book = Book(SHARDS, LEASE)
    book.declare(group_names(2))
    lives = [Life(book, f"group-{number}", f"{number}/0") for number in range(4)]
    everybody = list(lives)
    until = dict.fromkeys(everybody, -math.inf)
    counts_on = dict.fromkeys(everybody, frozenset[int]())
    held = list[tuple[Life, LeaseRequest]]()
    for kind, number, seconds in steps:
        now += seconds
        life = lives[number]
        if kind == "restart":
            lives[number] = life = Life(book, life.asker.name, f"{number}/{len(everybody)}")
            everybody.append(life)
            until[life], counts_on[life] = -math.inf, frozenset()
        elif kind == "directory":
            book = Book.of_json(json.loads(json.dumps(book.to_json())), now)
            for each in everybody:
                each.book = book
        elif kind == "groups":
            book.declare(group_names(1 + number))
        elif kind == "lose a join":
            held.append((life, life.make(RequestKind.JOIN)))
            life.epoch, counts_on[life] = 0, frozenset()
        elif kind == "lose a release":
            held.append((life, life.make(RequestKind.BEAT, counts_on[life])))
            counts_on[life] = frozenset()
        elif kind == "late":
            if held:
                asker, request = held.pop(number % len(held))
                book.handle(asker.asker, request, now)
        elif kind == "join":
            if life.join(now):
                until[life], counts_on[life] = now + LEASE, frozenset()
        elif kind == "claim":
            counts_on[life] |= life.claim(now)
        elif life.beat(now, counts_on[life] if kind == "release" else frozenset()):
            until[life], counts_on[life] = now + LEASE, life.shards
        valid = [each for each in everybody if until[each] > now]
        taken = [shard for each in valid for shard in counts_on[each]]
        assert len(taken) == len(set(taken))


def test_a_group_that_is_dismissed_hands_over_and_gets_its_share_back_when_it_is_declared() -> None:
    book, (stays, goes) = fleet(2)
    before = goes.shards
    book.dismiss("group-1")
    assert book.wanted == {"group-0"}
    assert goes.beat(1.0)
    assert book.table(1.0).handovers_of("group-1", goes.shards) == before
    goes.beat(2.0, before)
    assert goes.ruling.dismissal is Dismissal.UNWANTED
    stays.claim(2.1)
    assert len(stays.shards) == SHARDS
    book.declare(group_names(2))
    new = Life(book, "group-1", "second")
    assert new.join(3.0)
    handed = book.table(3.0).handovers_of("group-0", stays.shards)
    assert handed == before
    stays.beat(3.1, handed)
    assert new.claim(3.2) == before


def test_who_is_not_there_cannot_be_dismissed() -> None:
    book, _lives = fleet(1)
    before = book.version
    book.dismiss("group-7")
    assert (book.version, book.wanted) == (before, {"group-0"})
