from __future__ import annotations

import gc
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.support.counted import CountedFleet, open_tunnel
from tests.support.tracing import check_processor_seconds
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.callbacks import CallbackStats
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import Dispatcher, SupervisorActor, kill
from tunnelfleet.actors.kernel.counting import OTHER
from tunnelfleet.proto import TunnelClosed
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.metrics.catalogue import CATALOGUE, PER_TUNNEL
from tunnelfleet.runtime.metrics.families import expose
from tunnelfleet.runtime.metrics.meters import MAX_SERVICE_IDS, NO_SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_TUNNELS = 10_000
SCRAPE_SECONDS = 0.1
SCRAPE_WITH_ROWS_SECONDS = 0.5
DISPATCHER_LATE_SECONDS = 0.005


def test_values_are_those_of_the_tunnels() -> None:
    fleet = CountedFleet()
    open_tunnel(fleet.meter, "a", "source", 100)
    open_tunnel(fleet.meter, "b", "destination", 7, state=TunnelState.BACKOFF)
    assert fleet.value("sent_bytes_total", mode="source", service_id="SSH") == 100
    assert fleet.value("received_bytes_total", mode="destination", service_id="SSH") == 14
    assert fleet.value("streams_active", mode="source", service_id="SSH") == 1
    assert fleet.value("streams_opened_total", mode="source", service_id="SSH") == 2
    assert fleet.value("tunnels", state="connected") == 1
    assert fleet.value("tunnels", state="backoff") == 1
    assert fleet.value("tunnels", state="refused") == 0
    assert fleet.value("reconnects_total", reason="lost") == 2
    assert fleet.value("reconnects_total", reason="ping_timeout") == 0
    assert fleet.value("session_resets_total") == 2
    assert fleet.value("ping_round_trip_seconds_count") == 2
    assert fleet.value("queue_wait_seconds_bucket", le="0.25") == 2
    assert fleet.value("tunnels_opened_total") == 2
    assert fleet.total("build_info") == 1


def test_callbacks_are_summed_over_their_lanes() -> None:
    fleet = CountedFleet()
    for _ in range(2):
        stats = CallbackStats(fleet.callbacks)
        stats.settle(5)
        stats.add("errors")
        stats.add("stalls")
    assert fleet.value("callback_events_total") == 10
    assert fleet.value("callback_errors_total") == 2
    assert fleet.value("callback_stalls_total") == 2
    assert fleet.value("slow_callbacks_total") == 0
    assert fleet.value("dropped_events_total") == 0
    assert fleet.value("callback_threads") == 3


def test_a_service_without_an_id_has_a_name() -> None:
    fleet = CountedFleet()
    open_tunnel(fleet.meter, "v1", "source", 3, service_id="")
    assert fleet.value("sent_bytes_total", mode="source", service_id=NO_SERVICE) == 3


def test_service_ids_of_a_peer_are_bounded() -> None:
    fleet = CountedFleet()
    for number in range(10 * MAX_SERVICE_IDS):
        fleet.meter.open(f"t{number}", "source").service(f"s{number}").count_sent(1)
    series = [s for s in fleet.samples() if s[0] == "tunnelfleet_sent_bytes_total"]
    assert len(series) == MAX_SERVICE_IDS + 1
    assert fleet.value("sent_bytes_total", mode="source", service_id=OTHER) == 9 * MAX_SERVICE_IDS


def test_it_shows_what_the_catalogue_says() -> None:
    fleet = CountedFleet(rows=1)
    open_tunnel(fleet.meter, "a", "source", 1)
    with Dispatcher("d") as dispatcher:
        fleet.kernel.attach(dispatcher)
        families = {family.name: family for family in fleet.collector.collect()}
    assert set(families) == {each.family for each in CATALOGUE}
    for each in CATALOGUE:
        samples = families[each.family].samples
        assert samples, each.name
        labels = {name for sample in samples for name in sample.labels} - {"le"}
        assert labels == set(each.labels), each.name


def test_without_rows_nothing_is_said_of_one_tunnel() -> None:
    fleet = CountedFleet()
    open_tunnel(fleet.meter, "secret-name", "source", 1)
    names = {family.name for family in fleet.collector.collect()}
    assert not names & {each.family for each in PER_TUNNEL}
    assert names == {family.name for family in fleet.collector.describe()}


def test_any_registry_takes_it_once() -> None:
    with TunnelRuntime() as runtime:
        for registry in (CollectorRegistry(), CollectorRegistry(auto_describe=True)):
            registry.register(runtime.collector)
            with pytest.raises(ValueError, match="Duplicated"):
                registry.register(runtime.collector)


def test_nothing_is_registered_at_import() -> None:
    program = (
        "import prometheus_client as p; before = set(p.REGISTRY._names_to_collectors);"
        "import tunnelfleet.runtime.admin, tunnelfleet.runtime.metrics;"
        "import tunnelfleet.runtime.runtime;"
        "r = tunnelfleet.runtime.runtime.TunnelRuntime(); r.collector;"
        "assert set(p.REGISTRY._names_to_collectors) == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)
    assert "tunnelfleet_tunnels" not in prometheus_client.REGISTRY._names_to_collectors


def runs(runtime: TunnelRuntime) -> bool:
    try:
        return runtime.actor_ref.is_alive()
    except TunnelClosed:
        return False


@pytest.mark.parametrize("name", ["", "north"])
def test_a_runtime_in_the_place_of_one_that_failed_counts_on(name: str) -> None:
    """The registry has one row for both, and is told of nothing."""
    runtime = TunnelRuntime(name=name)
    registry = CollectorRegistry()
    registry.register(runtime.collector)
    labels = {"dispatcher": "tunnelfleet-0"} | ({"runtime": name} if name else {})
    with Dispatcher("host") as dispatcher:
        host = SupervisorActor.start([runtime.child_spec()], dispatcher=dispatcher)
        handled = 0.0
        for number in range(3):
            eventually(lambda: runs(runtime.present))
            dead = runtime.present
            kill(dead.actor_ref)
            eventually(lambda dead=dead: runtime.present is not dead)  # type: ignore[misc]
            assert runtime.present.collector is runtime.collector
            rows = [
                sample
                for family in registry.collect()
                for sample in family.samples
                if sample.name == "tunnelfleet_messages_handled_total"
            ]
            assert [row.labels for row in rows] == [labels], number
            assert rows[0].value > handled
            handled = rows[0].value
        host.stop(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("name", ["", "north"])
def test_a_runtime_of_its_own_takes_the_registry_over_from_one_that_has_ended(name: str) -> None:
    registry = CollectorRegistry()
    before = None
    for _ in range(2):
        if before is not None:
            registry.unregister(before.collector)
        with TunnelRuntime(name=name) as runtime:
            registry.register(runtime.collector)
        before = runtime
        labels = {"dispatcher": "tunnelfleet-0"} | ({"runtime": name} if name else {})
        assert registry.get_sample_value("tunnelfleet_messages_handled_total", labels)


@pytest.mark.parametrize(
    ("rows", "limit_seconds"), [(0, SCRAPE_SECONDS), (1_000, SCRAPE_WITH_ROWS_SECONDS)]
)
def test_ten_thousand_idle_tunnels_are_scraped_in_time(rows: int, limit_seconds: float) -> None:
    fleet = CountedFleet(rows)
    for number in range(IDLE_TUNNELS):
        open_tunnel(fleet.meter, f"t{number}", "source", number)
    times = []
    for _ in range(5):
        started = time.thread_time()
        prometheus_client.generate_latest(fleet.registry)
        times.append(time.thread_time() - started)
    # Of this thread's time: what else the machine does counts only as far as it shares its caches.
    check_processor_seconds(min(times), limit_seconds)


def calls(work: Callable[[], object]) -> int:
    """How many functions `work` calls."""
    number = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return number


def test_a_scrape_costs_the_same_for_ten_tunnels_and_for_ten_thousand() -> None:
    fleet = CountedFleet()
    found = []
    for tunnels in (10, IDLE_TUNNELS):
        for number in range(len(fleet.meter), tunnels):
            open_tunnel(fleet.meter, f"t{number}", "source", number)
        found.append(calls(lambda: prometheus_client.generate_latest(fleet.registry)))
    small, large = found
    # Large numbers are written differently.
    assert abs(large - small) < small / 100
    assert fleet.value("tunnels", state="connected") == IDLE_TUNNELS


def longest_stretch_seconds(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> float:
    """The longest time of the processor that a scrape takes between two pauses."""
    stretches: list[float] = []
    pause = time.sleep
    since = time.thread_time()

    def record(seconds: float) -> None:
        nonlocal since
        stretches.append(time.thread_time() - since)
        pause(seconds)
        since = time.thread_time()

    with monkeypatch.context() as patched:
        patched.setattr("tunnelfleet.runtime.metrics.families.time.sleep", record)
        expose(registry, "", "gzip")
        stretches.append(time.thread_time() - since)
    return max(stretches)


@pytest.mark.parametrize("rows", [0, 1_000])
def test_a_scrape_of_ten_thousand_tunnels_blocks_no_dispatcher(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = CountedFleet(rows)
    for number in range(IDLE_TUNNELS):
        open_tunnel(fleet.meter, f"t{number}", "source", number)
    # The garbage that other tests have left is collected once, not three times.
    found = [longest_stretch_seconds(fleet.registry, monkeypatch) for _ in range(3)]
    check_processor_seconds(min(found), DISPATCHER_LATE_SECONDS)


def test_a_scrape_makes_no_work_for_the_garbage_collector() -> None:
    fleet = CountedFleet(rows=1_000)
    for number in range(1_000):
        open_tunnel(fleet.meter, f"t{number}", "source", number)
    expose(fleet.registry, "", "")
    most = 0

    def note(phase: str, _info: dict[str, int]) -> None:
        # What is in the young generations at their collection may survive it.
        nonlocal most
        if phase == "start":
            most = max(most, len(gc.get_objects(0)) + len(gc.get_objects(1)))

    gc.collect()
    gc.callbacks.append(note)
    try:
        body = expose(fleet.registry, "", "").body
    finally:
        gc.callbacks.remove(note)
    samples = body.count(b"\n")
    assert samples > 13_000
    assert 0 < most < samples


def test_runtimes_with_names_share_a_registry() -> None:
    registry = CollectorRegistry()
    names = {"north": 5, "south": 7, "": 11}
    for name, sent in names.items():
        runtime = TunnelRuntime(name=name)
        registry.register(runtime.collector)
        open_tunnel(runtime._meter, "a", sent=sent)
    with pytest.raises(ValueError, match="south"):
        registry.register(TunnelRuntime(name="south").collector)
    text = expose(registry, "", "").body.decode()
    strict = expose(registry, "application/openmetrics-text; version=1.0.0", "").body
    found = {
        sample.labels.get("runtime"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tunnelfleet_sent_bytes_total"
    }
    assert found == {"north": 5.0, "south": 7.0, None: 11.0}
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    # It refuses a family that stands in two places.
    assert list(openmetrics(strict.decode()))
