"""Gateways that share a fleet in a real PostgreSQL: the statements, and the shell around them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.support.sockets import many_descriptors
from tests.support.stores import opened, put_gateway
from tests.support.waiting import WAIT_SECONDS
from tests.support.waiting import eventually as eventually_soon
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config import CloudPlace
from tunnelfleet.runtime.gateway.placement import Assigned, Revoked, shard_of
from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest, LeaseTimes, RequestKind
from tunnelfleet.runtime.gateway.placement.postgres import FleetDatabase, PostgresPlacement
from tunnelfleet.runtime.gateway.store import StoredDemand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.postgres import PostgresServer

SHARDS = 64
eventually = functools.partial(eventually_soon, timeout_seconds=6 * WAIT_SECONDS)
LEASE_SECONDS = 3.0
STANDARD_DESCRIPTORS = 3


class FakeConnects:
    """Stands for a runtime: what it was told last."""

    def __init__(self) -> None:
        self.suspended = ""
        self.rate = 0.0

    def suspend_connects(self, reason: str) -> None:
        self.suspended = reason

    def resume_connects(self, valid_seconds: float | None = None) -> None:
        assert valid_seconds is not None
        self.suspended = ""

    def change_connect_rate(self, rate_per_second: float) -> None:
        self.rate = rate_per_second


class Player:
    """A gateway whose tunnels end when they are told."""

    def __init__(self, url: str, name: str, **options: Any) -> None:
        self.name = name
        self.connects = FakeConnects()
        self.shards: frozenset[int] = frozenset()
        self.told: list[Assigned | Revoked] = []
        self.vacates = True
        given: dict[str, Any] = {
            "connects": self.connects,
            "connect_rate": 60.0,
            "key_id": "key",
            "lease_seconds": LEASE_SECONDS,
            "shards": SHARDS,
            **options,
        }
        self.placement = PostgresPlacement(url, name=name, **given)

    def start(self) -> None:
        self.placement.start(self.hear)

    def hear(self, message: Assigned | Revoked) -> None:
        self.told.append(message)
        if isinstance(message, Assigned):
            self.shards |= message.shards
        else:
            self.shards -= message.shards
            if self.vacates:
                self.placement.vacated(message.shards)

    def stop(self) -> None:
        self.placement.stop()
        self.placement.close()


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_state()


@pytest.fixture
def start(url: str) -> Iterator[Callable[..., Player]]:
    with contextlib.ExitStack() as stack:

        def start_one(name: str, **options: Any) -> Player:
            player = Player(url, name, **options)
            player.start()
            stack.callback(player.stop)
            return player

        yield start_one


def are_settled(*players: Player) -> bool:
    """Whether they share all shards, and each knows of all."""
    shards = sorted(itertools.chain.from_iterable(each.shards for each in players))
    names = [each.name for each in players]
    return shards == list(range(SHARDS)) and all(
        [m.name for m in each.placement.members() if m.fresh] == sorted(names)
        and sorted(m.shards for m in each.placement.members() if m.fresh)
        == sorted(len(p.shards) for p in players)
        and all(p.shards for p in players)
        and not each.connects.suspended
        for each in players
    )


def test_several_start_at_once_and_share_all(start: Callable[..., Player]) -> None:
    players = [start(name) for name in ("one", "two", "three")]
    eventually(lambda: are_settled(*players))
    eventually(lambda: [each.connects.rate for each in players] == [20.0] * 3)


def test_a_stop_hands_over_and_a_start_takes_its_part(start: Callable[..., Player]) -> None:
    one, two = start("one"), start("two")
    eventually(lambda: are_settled(one, two))
    three = start("three", fleet_address="192.0.2.3:7070")
    eventually(lambda: are_settled(one, two, three))
    name = next(name for name in map(str, range(SHARDS)) if shard_of(name, SHARDS) in three.shards)
    eventually(lambda: one.placement.owner(name) is not None)
    owner = one.placement.owner(name)
    assert owner is not None
    assert (owner.name, owner.address, owner.fresh) == ("three", "192.0.2.3:7070", True)
    three.placement.leave()
    eventually(lambda: are_settled(one, two))
    assert not three.shards


def test_two_of_one_name_do_not_share(start: Callable[..., Player]) -> None:
    one = start("one")
    eventually(lambda: are_settled(one))
    other = start("one")
    eventually(lambda: "another process with the name" in other.placement.trouble)
    assert other.connects.suspended
    assert not other.shards
    one.placement.leave()
    eventually(lambda: are_settled(other))


@pytest.mark.parametrize(
    ("options", "text"),
    [({"key_id": "another"}, "another secret"), ({"shards": 128}, "has 64 shards")],
)
def test_who_does_not_agree_with_the_others_stays_out(
    start: Callable[..., Player], options: dict[str, Any], text: str
) -> None:
    one = start("one")
    eventually(lambda: are_settled(one))
    other = start("two", **options)
    eventually(lambda: text in other.placement.trouble)
    assert other.connects.suspended
    assert not other.told


def test_the_number_of_shards_can_be_changed_while_nobody_is_there(
    start: Callable[..., Player],
) -> None:
    one = start("one")
    eventually(lambda: are_settled(one))
    one.stop()
    other = start("two", shards=2 * SHARDS)
    eventually(lambda: len(other.shards) == 2 * SHARDS)


def test_a_store_that_is_away_for_a_while_changes_nothing(
    start: Callable[..., Player], postgres: PostgresServer
) -> None:
    one, two = (start(name, lease_seconds=6.0) for name in ("one", "two"))
    eventually(lambda: are_settled(one, two))
    told = [list(one.told), list(two.told)]
    postgres.stop()
    try:
        for each in (one, two):
            eventually(lambda each=each: "goes on" in each.placement.trouble)
    finally:
        postgres.start()
    eventually(lambda: are_settled(one, two))
    assert [one.told, two.told] == told


def database_name(url: str) -> str:
    name = make_url(url).database
    assert name is not None
    return name


def epochs_of(player: Player) -> list[int]:
    """Of the lives in which shards were assigned, in the order in which they were."""
    return [each.epoch for each in player.told if isinstance(each, Assigned)]


@pytest.mark.parametrize(
    "tables",
    [
        "tunnelfleet_fleet",
        "tunnelfleet_shards",
        "tunnelfleet_gateways",
        "tunnelfleet_fleet, tunnelfleet_gateways, tunnelfleet_shards",
    ],
)
def test_gateways_whose_rows_are_lost_join_anew(
    start: Callable[..., Player], postgres: PostgresServer, url: str, tables: str
) -> None:
    """After the restore of a schema alone, or a failover to an empty copy."""
    players = [start(name) for name in ("one", "two")]
    eventually(lambda: are_settled(*players))
    last = max(map(max, map(epochs_of, players)))
    postgres.run(database_name(url), f"TRUNCATE {tables}")

    # Whoever notices first makes the rows that are missing; the other may go on in its life.
    eventually(lambda: any(epochs_of(each)[-1] > last for each in players))
    eventually(lambda: are_settled(*players))
    for each in players:
        # The fleet of a gateway takes no assignment of an earlier epoch.
        assert epochs_of(each) == sorted(epochs_of(each))


def test_a_row_that_cannot_be_made_is_told_and_tried_again(
    start: Callable[..., Player], postgres: PostgresServer, url: str
) -> None:
    postgres.run(
        database_name(url),
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER skip BEFORE INSERT ON tunnelfleet_fleet FOR EACH ROW"
        " EXECUTE FUNCTION skip()",
    )
    one = start("one")
    eventually(lambda: "the row of tunnelfleet_fleet is missing" in one.placement.trouble)
    assert one.connects.suspended
    postgres.run(database_name(url), "DROP TRIGGER skip ON tunnelfleet_fleet")
    eventually(lambda: are_settled(one))


def test_a_gateway_with_many_descriptors_takes_part(start: Callable[..., Player]) -> None:
    with many_descriptors():
        one, two = start("one"), start("two")
        eventually(lambda: are_settled(one, two))


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """A block in which none can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The first three are in use.
    resource.setrlimit(resource.RLIMIT_NOFILE, (STANDARD_DESCRIPTORS, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_request_is_cut_off_when_no_descriptor_is_left(
    postgres: PostgresServer, url: str
) -> None:
    failed = threading.Event()
    with contextlib.closing(make_database(url, LeaseTimes(3_600.0))) as database:
        # Without a connection there is nothing to cut.
        database.cut()
        epoch = database.do(LeaseRequest(RequestKind.JOIN, serial=1)).epoch

        def beat() -> None:
            with pytest.raises(ConnectionError):
                database.do(LeaseRequest(RequestKind.BEAT, epoch, serial=2))
            failed.set()

        thread = threading.Thread(target=beat)
        where = f"host={postgres.folder} user=postgres dbname={database_name(url)}"
        with psycopg.connect(where) as holder:
            holder.execute("LOCK TABLE tunnelfleet_gateways")
            thread.start()
            waits = "SELECT FROM pg_locks WHERE NOT granted"
            eventually(lambda: holder.execute(waits).fetchone() is not None)
            with no_descriptor_left():
                with pytest.raises(OSError, match="Too many open files"):
                    os.dup(0)
                database.cut()
                assert failed.wait(WAIT_SECONDS)
        thread.join()
        # The next request makes another connection.
        assert database.do(LeaseRequest(RequestKind.BEAT, epoch, serial=3)).epoch == epoch


def make_database(url: str, times: LeaseTimes) -> FleetDatabase:
    return FleetDatabase(
        url,
        name="one",
        run="run",
        times=times,
        shards=SHARDS,
        key_id="key",
        program="test",
        on_notification=lambda _text: None,
    )


@pytest.fixture
def database(url: str) -> Iterator[FleetDatabase]:
    with contextlib.closing(make_database(url, LeaseTimes(60.0))) as found:
        yield found


class TestRequestsThatComeLate:
    """A gateway has given a request up, and the server carries it out after a later one."""

    @pytest.fixture
    def epoch(self, database: FleetDatabase) -> int:
        """Of the life that began with its second request."""
        found = database.do(LeaseRequest(RequestKind.JOIN, serial=2)).epoch
        assert found
        return found

    def claim(self, database: FleetDatabase, epoch: int, serial: int) -> frozenset[int]:
        table = database.do(LeaseRequest(RequestKind.BEAT, epoch, serial=serial)).table
        assert table is not None
        request = LeaseRequest(
            RequestKind.CLAIM, epoch, frozenset({1, 2}), version=table.version, serial=serial + 1
        )
        return database.do(request).claimed

    def test_a_join_begins_no_other_life(self, database: FleetDatabase, epoch: int) -> None:
        assert self.claim(database, epoch, 3) == {1, 2}
        assert not database.do(LeaseRequest(RequestKind.JOIN, serial=1)).epoch
        answer = database.do(LeaseRequest(RequestKind.BEAT, epoch, serial=5))
        assert answer.epoch == epoch
        assert answer.table is not None
        assert not answer.table.is_free(1)

    def test_a_heartbeat_frees_nothing(self, database: FleetDatabase, epoch: int) -> None:
        assert self.claim(database, epoch, 4) == {1, 2}
        late = LeaseRequest(RequestKind.BEAT, epoch, frozenset({1}), is_leaving=True, serial=3)
        answer = database.do(late)
        assert not answer.epoch
        assert answer.table is not None
        assert not answer.table.is_free(1)
        assert answer.table.members == ("one",)

    def test_a_claim_takes_nothing(self, database: FleetDatabase, epoch: int) -> None:
        table = database.do(LeaseRequest(RequestKind.BEAT, epoch, serial=4)).table
        assert table is not None
        late = LeaseRequest(
            RequestKind.CLAIM, epoch, frozenset({1}), version=table.version, serial=3
        )
        assert not database.do(late).claimed

    def test_a_new_process_begins_its_numbers_anew(self, url: str, database: FleetDatabase) -> None:
        epoch = database.do(LeaseRequest(RequestKind.JOIN, serial=40)).epoch
        database.do(LeaseRequest(RequestKind.GOODBYE, epoch, serial=41))
        assert database.do(LeaseRequest(RequestKind.JOIN, serial=1)).epoch > epoch


def test_a_gateway_is_forgotten_when_none_of_its_tunnels_on_demand_is_open(
    url: str, database: FleetDatabase
) -> None:
    """The others know by its row that they may take them."""
    epoch = database.do(LeaseRequest(RequestKind.JOIN, serial=1)).epoch
    numbers = itertools.count(2)
    put_gateway(url, "dead", -1_000_000.0)

    def is_known() -> bool:
        table = database.do(LeaseRequest(RequestKind.BEAT, epoch, serial=next(numbers))).table
        assert table is not None
        return "dead" in [each.name for each in table.gateways]

    with opened(url, gateway="dead", is_shared=True) as store:
        place, now = CloudPlace("eu-west-1", None, None), time.time()
        store.begin_demand(StoredDemand("long ago", "press-4", place, now - 13 * 3_600.0))
        store.begin_demand(StoredDemand("open", "press-4", place, now))
        assert is_known()
        store.end_demand("open")
    assert not is_known()


def test_only_a_database_of_postgresql_is_shared() -> None:
    with pytest.raises(ConfigError, match="postgresql"):
        Player("sqlite:///x.db", "one")


def test_a_listener_that_begins_anew_is_told_all(start: Callable[..., Player]) -> None:
    one, two = start("one"), start("two")
    eventually(lambda: are_settled(one, two))
    told: list[Assigned | Revoked] = []
    heard = threading.Event()

    def hear(message: Assigned | Revoked) -> None:
        told.append(message)
        if isinstance(message, Assigned):
            heard.set()

    one.placement.start(hear)
    assert heard.wait(6 * WAIT_SECONDS)
    assert told[-1].shards == one.shards
    assert told[0] == Revoked(frozenset(range(SHARDS)) - one.shards)
