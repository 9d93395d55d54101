from __future__ import annotations

import threading
import tracemalloc

from tests.support.counted import CountedFleet, count_some, open_tunnel
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.runtime.metrics import Ledger
from tunnelfleet.runtime.metrics.ledger import OTHER
from tunnelfleet.runtime.metrics.totals import Totals

SSH = ("source", "SSH")


def sent(ledger: Ledger) -> int:
    return Totals(ledger.read().fleets).services[SSH][0]


def test_a_closed_tunnel_counts_on() -> None:
    ledger = Ledger()
    first = open_tunnel(ledger, "a", sent=100)
    open_tunnel(ledger, "b", sent=1)
    ledger.close(first)
    assert sent(ledger) == 101
    assert len(ledger) == 1
    ledger.close(first)
    assert sent(ledger) == 101, "twice is once"
    assert ledger.read().closed == 1


def test_of_what_is_nothing_remains_of_a_closed_tunnel() -> None:
    ledger = Ledger()
    stats = open_tunnel(ledger, "a", sent=100)
    ledger.close(stats)
    stats.enter(TunnelState.STOPPED, "a late word")
    totals = Totals(ledger.read().fleets)
    assert not totals.states
    assert totals.columns["queue_bytes"] == 0
    assert totals.services[SSH] == [100, 200, 1, 1, 0, 2, 0, 3]


def test_tunnels_and_their_states_are_of_one_moment() -> None:
    ledger = Ledger()
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            stats = ledger.open("a", "source")
            stats.enter(TunnelState.CONNECTED)
            ledger.close(stats)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        while (reading := ledger.read()).closed < 500:
            in_states = sum(number for f in reading.fleets for number, _ in f.states.values())
            assert in_states == reading.opened - reading.closed
    finally:
        stop.set()
        thread.join()


def test_many_tunnels_leave_nothing() -> None:
    ledger = Ledger(rows=10)

    def come_and_go(times: int) -> None:
        for number in range(times):
            ledger.close(open_tunnel(ledger, str(number), sent=1))

    come_and_go(200)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    come_and_go(20_000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 10_000
    assert sent(ledger) == 20_200
    assert ledger.read().closed == 20_200


def test_a_tunnel_keeps_its_row_and_frees_it() -> None:
    ledger = Ledger(rows=2)
    first, *_rest = [open_tunnel(ledger, name) for name in ("a", "b", "c")]
    ledger.close(first)
    open_tunnel(ledger, "d")
    assert [row.name for row in ledger.read().rows] == ["b", "d"], "c stays where it was counted"


def test_no_tunnel_is_mistaken_for_the_others() -> None:
    ledger = Ledger(rows=2)
    open_tunnel(ledger, OTHER)
    assert not ledger.read().rows


def test_each_dispatcher_has_counters_of_its_own() -> None:
    ledger = Ledger()
    for dispatcher in (0, 1, 1):
        count_some(ledger.open(str(dispatcher), "source", dispatcher), sent=5)
    fleets = ledger.read().fleets
    assert [fleet.counters.service("SSH").sent_bytes for fleet in fleets] == [5, 10]
    assert sent(ledger) == 15


def test_no_counter_goes_back_while_tunnels_come_and_go() -> None:
    fleet = CountedFleet(rows=3)
    stop = threading.Event()
    failed: list[BaseException] = []

    def come_and_go(dispatcher: int) -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                stats = fleet.ledger.open(f"{dispatcher}-{number % 7}", "source", dispatcher)
                for step in range(20):
                    stats.service(f"S{step % 5}").count_sent(1)
                    stats.count_reconnect(f"r{step}")
                fleet.ledger.close(stats)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        before: dict[str, float] = {}
        for _ in range(60):
            now = {
                name: fleet.total(name)
                for name in ("sent_bytes_total", "reconnects_total", "tunnels_closed_total")
            }
            for name, value in now.items():
                assert value >= before.get(name, 0.0), name
            before = now
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    # Each tunnel counts 20 of both, and none of it is lost.
    assert fleet.total("sent_bytes_total") == 20 * fleet.total("tunnels_closed_total")
    assert fleet.total("reconnects_total") == 20 * fleet.total("tunnels_closed_total")
