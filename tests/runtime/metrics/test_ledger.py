from __future__ import annotations

import threading
import tracemalloc

from tests.runtime.metrics.support import Fleet, make_stats
from tunnelfleet.runtime.metrics import Ledger
from tunnelfleet.runtime.metrics.breather import Breather
from tunnelfleet.runtime.metrics.ledger import OTHER

SSH = ("source", "SSH")


def sent(ledger: Ledger) -> int:
    return ledger.sum(ledger.read(), Breather())[0].services[SSH][0]


def test_a_closed_tunnel_counts_on() -> None:
    ledger = Ledger()
    ledger.open("a", "source", make_stats(100))
    ledger.open("b", "source", make_stats(1))
    ledger.close("a")
    assert sent(ledger) == 101
    assert len(ledger) == 1
    ledger.close("a")
    assert sent(ledger) == 101, "twice is once"


def test_a_reading_is_of_one_moment() -> None:
    ledger = Ledger()
    ledger.open("a", "source", make_stats(100))
    reading = ledger.read()
    ledger.close("a")
    assert ledger.sum(reading, Breather())[0].services[SSH][0] == 100


def test_a_hundred_thousand_tunnels_leave_nothing() -> None:
    ledger = Ledger(rows=10)
    stats = make_stats(1)
    for number in range(200):
        ledger.open(str(number), "source", stats)
        ledger.close(str(number))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(20_000):
        ledger.open(str(number), "source", stats)
        ledger.close(str(number))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 10_000
    assert sent(ledger) == 20_200
    assert ledger.read().closed == 20_200


def test_a_tunnel_keeps_its_row_and_frees_it() -> None:
    ledger = Ledger(rows=2)
    for name in ("a", "b", "c"):
        ledger.open(name, "source", make_stats(1))
    ledger.close("a")
    ledger.open("d", "source", make_stats(1))
    rows = {entry.name: entry.has_row for entry in ledger.read().entries}
    assert rows == {"b": True, "c": False, "d": True}, "c stays where it was counted"


def test_no_tunnel_is_mistaken_for_the_others() -> None:
    ledger = Ledger(rows=2)
    ledger.open(OTHER, "source", make_stats(1))
    assert not ledger.read().entries[0].has_row


def test_no_counter_goes_back_while_tunnels_come_and_go() -> None:
    fleet = Fleet(rows=3)
    stop = threading.Event()
    failed: list[BaseException] = []

    def come_and_go(prefix: str) -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                stats = make_stats(0)
                fleet.ledger.open(f"{prefix}{number % 7}", "source", stats)
                for step in range(20):
                    stats.service(f"S{step % 5}").sent_bytes += 1
                    stats.reconnects[f"r{step}"] = stats.reconnects.get(f"r{step}", 0) + 1
                fleet.ledger.close(f"{prefix}{number % 7}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=come_and_go, args=(prefix,)) for prefix in "xy"]
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
    assert before["sent_bytes_total"] > 0
