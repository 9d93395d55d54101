"""The sums of a gateway over reports and restarts of its workers."""

from __future__ import annotations

import json
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.counters import Counters, FleetCounters, TunnelStats
from tunnelfleet.actors.kernel.counting import declared
from tunnelfleet.actors.transport.connect_gate import BreakerState, BreakerStatus, ConnectStats
from tunnelfleet.runtime.gateway.workers.sums import ConnectSums, Tally, numbers_of

SERVICES = st.sampled_from(["SSH", "APP", ""])
REASONS = st.sampled_from(["lost", "closed", "peer"])
BYTES = st.integers(0, 10_000)
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("sent"), SERVICES, BYTES),
        st.tuples(st.just("received"), SERVICES, BYTES),
        st.tuples(st.just("opened"), SERVICES, st.just(0)),
        st.tuples(st.just("ended"), SERVICES, REASONS),
        st.tuples(st.just("reconnect"), st.just(""), REASONS),
        st.tuples(st.just("attempt"), st.just(""), st.just(0)),
        st.tuples(st.just("ping"), st.just(""), st.floats(0, 10)),
        st.tuples(st.just("queued"), st.just(""), BYTES),
        st.tuples(st.just("report"), st.just(""), st.just(0)),
        st.tuples(st.just("dies"), st.just(""), st.just(0)),
    ),
    max_size=60,
)


def fleet() -> FleetCounters:
    return FleetCounters("source", lambda service_id: service_id or "(none)", threading.Lock())


def worker_stats() -> TunnelStats:
    stats = TunnelStats()
    stats.keep_buckets()
    return stats


def do(stats: Counters, deed: tuple[str, str, Any]) -> None:
    what, service_id, given_value = deed
    match what:
        case "sent":
            stats.service(service_id).count_sent(given_value)
        case "received":
            stats.service(service_id).count_received(given_value)
        case "opened":
            stats.service(service_id).count_connection_opened()
        case "ended":
            stats.service(service_id).count_connection_ended(given_value)
        case "reconnect":
            stats.count_reconnect(given_value)
        case "attempt":
            stats.count_connect_attempt()
        case "ping":
            stats.observe_ping(given_value)
        case "queued":
            stats.set_queue_bytes(given_value)


def flat(counters: Counters) -> dict[str, Any]:
    """All that only grows."""
    found = {}
    for each in declared(Counters):
        value = getattr(counters, each.name)
        if each.bounds:
            buckets = tuple(getattr(value, "counts", ()))
            found[each.name] = (value.count, *buckets)
        elif each.label:
            found |= {f"{each.name} {reason}": number for reason, number in value.items()}
        elif each.kind == "counter":
            found[each.name] = value
    return found


def services(counters: Counters) -> dict[str, tuple[int, ...]]:
    return {
        key: (each.sent_bytes, each.received_bytes, each.connections_opened, each.sent_messages)
        for key, each in counters.services.items()
    }


@given(deeds=DEEDS)
def test_no_sum_goes_back_and_all_that_was_reported_is_in_it(
    deeds: list[tuple[str, str, Any]],
) -> None:
    whole = fleet()
    here = TunnelStats(whole)
    expected = TunnelStats(wanted := fleet())
    tally = Tally(here)
    worker, unreported = worker_stats(), []
    for deed in deeds:
        before = flat(whole), services(whole)
        if deed[0] == "report":
            tally.take(json.loads(json.dumps(numbers_of(worker))))
            for each in unreported:
                do(expected, each)
            unreported = []
            for name in ("connections_active", "connections_opened"):
                assert here.sum(name) == worker.sum(name) or name == "connections_opened"
            assert here.queue_bytes == worker.queue_bytes == whole.queue_bytes
        elif deed[0] == "dies":
            tally.begin_anew()
            expected.forget_active()
            worker, unreported = worker_stats(), []
            assert here.sum("connections_active") == whole.sum("connections_active") == 0
            assert whole.queue_bytes == 0
        else:
            do(worker, deed)
            unreported.append(deed)
        after = flat(whole), services(whole)
        for old, new in zip(before, after, strict=True):
            for name, number in old.items():
                assert new[name] >= number
    assert flat(whole) == flat(wanted)
    assert services(here) == services(expected)
    assert services(whole) == services(wanted)


def test_a_report_of_nothing_is_small() -> None:
    report = numbers_of(worker_stats())
    assert report == {"plain": {}, "reasons": {}, "distributions": {}, "services": {}}


def test_the_connects_of_all_workers_add_up_and_stay() -> None:
    down = BreakerStatus("endpoint", BreakerState.OPEN, 1, 5.0)
    sums = ConnectSums()
    sums.take(0, ConnectStats(waiting=2, under_way=1, granted=10, called_back={"hung": 1}))
    sums.take(1, ConnectStats(waiting=3, granted=5, breaker_openings=1, breakers=(down,)))
    total = sums.total()
    assert (total.waiting, total.under_way, total.granted) == (5, 1, 15)
    assert (total.breakers, total.breaker_openings) == ((down,), 1)
    sums.begin_anew(1)
    sums.begin_anew(1)
    total = sums.total()
    assert (total.waiting, total.granted, total.breakers) == (2, 15, ())
    sums.take(1, ConnectStats(granted=2, called_back={"hung": 4}))
    total = sums.total()
    assert (total.granted, total.breaker_openings, total.called_back) == (17, 1, {"hung": 5})
