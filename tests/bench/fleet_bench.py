"""What a shared fleet costs its store: heartbeats, claims, loading and looking, by PostgreSQL.

The database has as many tunnels as are asked for, and a hundred gateways; one of them has its part
for true. Rows of the others are as large, and cannot be opened.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import psycopg

from tests.support.fleet import Files
from tests.support.postgres import PostgresServer
from tests.support.stores import SECRET, entry
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.gateway.fleet_state import FleetState
from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest, LeaseTimes, RequestKind
from tunnelfleet.runtime.gateway.placement.members import _shares
from tunnelfleet.runtime.gateway.placement.postgres import FleetDatabase
from tunnelfleet.runtime.gateway.placement.shards import SHARDS, shard_of, slot_of
from tunnelfleet.runtime.gateway.reconcile import compare
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
    figures |= _looking(folder, found)
    return figures


def _looking(folder: Path, found: dict[str, Any]) -> dict[str, float]:
    files = Files(folder)
    state = FleetState(files())
    state.sources["api"] = found
    runtime = TunnelRuntime()
    first, entries = seconds(state.entries)
    second, _ = seconds(lambda: [each.row(runtime).to_json() for each in entries])
    return {"ls at its owner: entries (s)": first, "ls at its owner: rows (s)": second}
