"""What a shared fleet costs its store: heartbeats, claims, loading and looking, by PostgreSQL.

The database has as many tunnels as are asked for, and a hundred gateways; one of them has its part
for true. Rows of the others are as large, and cannot be opened.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import resource
import statistics
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg

from tests.support.fleet import Files
from tests.support.postgres import PostgresServer
from tests.support.stores import SECRET, entry
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.gateway.fleet_state import FleetState
from tunnelfleet.runtime.gateway.forward.survey import SHARE_FACTOR, look_at_fleet, own_rows
from tunnelfleet.runtime.gateway.listing import MAX_PAGE_ROWS, Listing, Page
from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest, LeaseTimes, RequestKind
from tunnelfleet.runtime.gateway.placement.members import _shares
from tunnelfleet.runtime.gateway.placement.postgres import FleetDatabase
from tunnelfleet.runtime.gateway.placement.shards import SHARDS, Member, shard_of, slot_of
from tunnelfleet.runtime.gateway.reconcile import compare
from tunnelfleet.runtime.gateway.snapshot import Entry
from tunnelfleet.runtime.gateway.store import Store
from tunnelfleet.runtime.gateway.store.sealing import Sealer
from tunnelfleet.runtime.gateway.store.tunnels import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GATEWAYS = 100
REPEATS = 200
LEASE_SECONDS = 3_600.0
"""So that none of those that only stand in the table runs out."""
FILL = (
    "COPY tunnelfleet_tunnels (gateway, name, entry, sealed, key_id, changed_at, slot) FROM STDIN"
)


def milliseconds(do: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median of what something takes."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        do()
        found.append(time.perf_counter() - start)
    return round(statistics.median(found) * 1e3, 3)


def seconds(do: Callable[[], Any]) -> tuple[float, Any]:
    """What something takes once, and what it returns."""
    start = time.perf_counter()
    result = do()
    return round(time.perf_counter() - start, 3), result


def fill(server: PostgresServer, database: str, tunnels: int, mine: frozenset[int]) -> None:
    """Put tunnels into the table."""
    sealer = Sealer(SECRET, SHARED)
    where = f"host={server.folder} user=owner dbname={database}"
    filler = sealer.seal("filler", {"access_token": entry("t0000000")["access_token"]})
    with (
        psycopg.connect(where) as connection,
        connection.cursor() as cursor,
        cursor.copy(FILL) as copy,
    ):
        for number in range(tunnels):
            name = f"t{number:07}"
            keys = entry(name)
            token = keys.pop("access_token")
            sealed = filler
            if shard_of(name) in mine:
                sealed = sealer.seal(name, {"access_token": token})
            row = (SHARED, name, json.dumps(keys), sealed, sealer.key_id, 0.0, slot_of(name))
            copy.write_row(row)


def database_of(url: str, name: str) -> FleetDatabase:
    """A gateway's way to the database."""
    return FleetDatabase(
        url,
        name=name,
        run=name,
        times=LeaseTimes(LEASE_SECONDS),
        shards=SHARDS,
        key_id=Sealer(SECRET, SHARED).key_id,
        program="bench",
        on_notification=lambda _text: None,
    )


_serials = itertools.count(1)


def numbered(*values: Any, **named: Any) -> LeaseRequest:
    """A request that is later than all before."""
    return LeaseRequest(*values, serial=next(_serials), **named)


def run(folder: Path, tunnels: int = 1_000_000) -> dict[str, float]:
    """Measure, with so many tunnels in the store."""
    with PostgresServer.running() as server:
        database = server.new_database()
        url = server.url(database)
        store = Store(url, gateway="bench", secret=SECRET, is_shared=True)
        store.open()
        try:
            return _measure(folder, server, database, store, tunnels)
        finally:
            store.close()


def _measure(
    folder: Path, server: PostgresServer, database: str, store: Store, tunnels: int
) -> dict[str, float]:
    url = server.url(database)
    figures: dict[str, float] = {"tunnels in the store": tunnels, "gateways": GATEWAYS}
    names = [f"gw{number:03}" for number in range(GATEWAYS)]
    me = database_of(url, names[0])
    try:
        epoch = me.do(numbered(RequestKind.JOIN)).epoch
        for name in names[1:]:
            other = database_of(url, name)
            other.do(numbered(RequestKind.JOIN))
            other.close()
        _shares.cache_clear()
        figures["who has what, of 100 gateways (ms, once a change)"] = milliseconds(
            lambda: _shares(tuple(names), SHARDS), 1
        )
        table = me.do(numbered(RequestKind.BEAT, epoch)).table
        assert table is not None
        mine = table.claims_of(names[0])
        figures["fill (s)"], _ = seconds(lambda: fill(server, database, tunnels, mine))
        server.run(database, "ANALYZE")
        rows = server.run(database, "SELECT pg_total_relation_size('tunnelfleet_tunnels')")
        figures["table with its indexes (MB)"] = round(rows[0][0] / 1e6)
        claim = numbered(RequestKind.CLAIM, epoch, mine, version=table.version)
        figures[f"claim of {len(mine)} shards (ms)"] = milliseconds(lambda: me.do(claim), 1)
        # As in a fleet that runs: each shard has an owner.
        server.run(
            database,
            "UPDATE tunnelfleet_shards SET owner = 'gw' || lpad((shard % 100)::text, 3, '0'), "
            f"epoch = 1 + shard % 100 WHERE owner IS DISTINCT FROM '{names[0]}'",
        )
        figures["heartbeat (ms)"] = milliseconds(lambda: me.do(numbered(RequestKind.BEAT, epoch)))
        figures["add a tunnel (ms)"] = milliseconds(
            lambda: store.save_tunnel("t-new", entry("t-new"))
        )
        figures["find a tunnel (ms)"] = milliseconds(lambda: store.find_tunnel("t-new"))
    finally:
        me.close()
    figures["load our shards (s)"], found = seconds(lambda: store.load_shards(mine, SHARDS))
    figures["tunnels of our shards"] = len(found)
    figures["compare all of them, as a reload does (s)"], _ = seconds(lambda: compare(found, found))
    third = frozenset(range(0, SHARDS, 3))
    for where, after in (("first", ""), ("middle", f"t{tunnels // 2:07}")):
        figures[f"{where} page of a third of the shards, from the state (s)"], rows = seconds(
            functools.partial(store.list_shards, third, SHARDS, MAX_PAGE_ROWS, after)
        )
    figures["rows of it"] = len(rows)
    figures |= _looking(folder, found)
    figures |= _paging(tunnels, found)
    return figures


def _looking(folder: Path, found: dict[str, Any]) -> dict[str, float]:
    files = Files(folder)
    state = FleetState(files())
    state.sources["api"] = found
    runtime = TunnelRuntime()
    first, entries = seconds(state.entries)
    second, _ = seconds(lambda: [each.row(runtime).to_json() for each in entries])
    gateway: Any = SimpleNamespace(state=state, runtime=runtime)
    gateway.snapshot = lambda _names: SimpleNamespace(entries=state.entries())
    state.shards = frozenset(range(SHARDS))
    page = Page(SHARE_FACTOR * MAX_PAGE_ROWS // GATEWAYS)
    first_page, listing = seconds(lambda: own_rows(gateway, {}, page))
    next_page, _ = seconds(lambda: own_rows(gateway, {}, Page(page.limit, listing.last)))
    return {
        "ls at its owner: entries (s)": first,
        "ls at its owner: rows (s)": second,
        "its part of the first page of the fleet (s)": first_page,
        "its part of the next page (s)": next_page,
    }


class _Others:
    """A hundred gateways that answer for their parts; all but that is the real survey."""

    def __init__(self, tunnels: int, row: dict[str, Any]) -> None:
        self._row = row
        self.names = [
            [f"t{number:07}" for number in range(gateway, tunnels, GATEWAYS)]
            for gateway in range(GATEWAYS)
        ]
        self.told_bytes = 0

    def members(self) -> tuple[Member, ...]:
        """All, and the one that looks."""
        names = ["me", *(f"gw{number:03}" for number in range(GATEWAYS))]
        return tuple(Member(name, "192.0.2.1:7443", 1, True, 2) for name in names)

    def ask_tunnels(
        self, member: Member, filters: dict[str, list[str]]
    ) -> Callable[[float], Listing]:
        """As the bytes that come from a gateway."""
        page = Page.of(filters)
        assert page is not None
        names = self.names[int(member.name.removeprefix("gw"))]
        at = bisect.bisect_right(names, page.after)
        rows = [{**self._row, "name": name} for name in names[at : at + page.limit]]
        told = Listing(rows, at + page.limit < len(names), {"connected": len(names)}).to_bytes()
        self.told_bytes += len(told)
        return lambda _seconds: Listing.of_bytes(told)


def _paging(tunnels: int, found: dict[str, Any]) -> dict[str, float]:
    state = SimpleNamespace(
        config=SimpleNamespace(gateway=SimpleNamespace(name="me")), shard_of=shard_of
    )
    runtime = TunnelRuntime()
    row = Entry(next(iter(found.values())), None, "api", "", 0.0).row(runtime).to_json()
    others = _Others(tunnels, row)
    gateway: Any = SimpleNamespace(state=state, runtime=runtime, placement=others)
    gateway.snapshot = lambda _names: SimpleNamespace(entries=())
    resident = peak_resident_bytes()
    spent = time.process_time()
    survey = look_at_fleet(gateway, others, {}, Page())
    text = json.dumps(survey.to_json())
    spent = time.process_time() - spent
    return {
        "a page of the fleet, of 100 gateways (s of a core, both sides)": round(spent, 3),
        "rows of that page": len(survey.tunnels),
        "bytes of that page (MB)": round(len(text) / 1e6, 1),
        "bytes told by the gateways for it (MB)": round(others.told_bytes / 1e6, 1),
        "memory for it (MB)": round((peak_resident_bytes() - resident) / 1e6),
    }


def peak_resident_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
