from __future__ import annotations

import threading
import tracemalloc

from tests.support.counted import CountedFleet, count_some, counted, open_tunnel
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel.counting import OTHER
from tunnelfleet.runtime.metrics import TunnelMeter
from tunnelfleet.runtime.metrics.families import Totals

SSH = ("source", "SSH")


def sent(meter: TunnelMeter) -> int:
    return Totals(meter.read().fleets).services[SSH][0]


def test_a_closed_tunnel_counts_on() -> None:
    meter = TunnelMeter()
    first = open_tunnel(meter, "a", sent=100)
    open_tunnel(meter, "b", sent=1)
    meter.close(first)
    assert sent(meter) == 101
    assert len(meter) == 1
    meter.close(first)
    assert sent(meter) == 101, "twice is once"
    assert meter.read().closed == 1


def test_of_what_is_nothing_remains_of_a_closed_tunnel() -> None:
    meter = TunnelMeter()
    stats = open_tunnel(meter, "a", sent=100)
    meter.close(stats)
    stats.enter(TunnelState.STOPPED, "a late word")
    totals = Totals(meter.read().fleets)
    assert not totals.states
    assert totals.columns["queue_bytes"] == 0
    assert counted(totals.services[SSH]) == {
        "sent_bytes": 100,
        "received_bytes": 200,
        "sent_messages": 1,
        "received_messages": 1,
        "streams_opened": 2,
        "connections_opened": 3,
    }


def test_tunnels_and_their_states_are_of_one_moment() -> None:
    meter = TunnelMeter()
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            stats = meter.open("a", "source")
            stats.enter(TunnelState.CONNECTED)
            meter.close(stats)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        while (reading := meter.read()).closed < 500:
            in_states = sum(number for f in reading.fleets for number, _ in f.states.values())
            assert in_states == reading.opened - reading.closed
    finally:
        stop.set()
        thread.join()


def test_many_tunnels_leave_nothing() -> None:
    meter = TunnelMeter(rows=10)

    def come_and_go(times: int) -> None:
        for number in range(times):
            meter.close(open_tunnel(meter, str(number), sent=1))

    come_and_go(200)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    come_and_go(20_000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 10_000
    assert sent(meter) == 20_200
    assert meter.read().closed == 20_200


def test_a_tunnel_keeps_its_row_and_frees_it() -> None:
    meter = TunnelMeter(rows=2)
    first, *_rest = [open_tunnel(meter, name) for name in ("a", "b", "c")]
    meter.close(first)
    open_tunnel(meter, "d")
    assert [row.name for row in meter.read().rows] == ["b", "d"], "c stays where it was counted"


def test_no_tunnel_is_mistaken_for_the_others() -> None:
    meter = TunnelMeter(rows=2)
    open_tunnel(meter, OTHER)
    assert not meter.read().rows


def test_each_dispatcher_has_counters_of_its_own() -> None:
    meter = TunnelMeter()
    for dispatcher in (0, 1, 1):
        count_some(meter.open(str(dispatcher), "source", dispatcher), sent=5)
    fleets = meter.read().fleets
    assert [fleet.counters.service("SSH").sent_bytes for fleet in fleets] == [5, 10]
    assert sent(meter) == 15


def test_no_counter_goes_back_while_tunnels_come_and_go() -> None:
    fleet = CountedFleet(rows=3)
    stop = threading.Event()
    failed: list[BaseException] = []

    def come_and_go(dispatcher: int) -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                stats = fleet.meter.open(f"{dispatcher}-{number % 7}", "source", dispatcher)
                for step in range(20):
                    stats.service(f"S{step % 5}").count_sent(1)
                    stats.count_reconnect(f"r{step}")
                fleet.meter.close(stats)
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
