"""A real Prometheus scrapes a runtime: bytes agree exactly, alerts fire and stop."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Self

import pytest
from prometheus_client import CollectorRegistry

from grafana.prometheus_process import Prometheus
from tests.support.rig import Rig, echo
from tests.support.waiting import eventually
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.admin import AdminOptions, AdminServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.support.rig import Pair

pytestmark = pytest.mark.programs("prometheus")

SCRAPED_SECONDS = 60.0
CHAOS_PAIRS = 3
EXACT_ROUNDS = 30


@pytest.fixture
def measured_rig() -> Iterator[Rig]:
    with Rig(tls=True, per_tunnel_series=2) as running:
        yield running


@pytest.fixture
def prometheus(measured_rig: Rig) -> Iterator[Prometheus]:
    with (
        AdminServer(measured_rig.runtime, AdminOptions(port=0)) as admin,
        Prometheus(f"127.0.0.1:{admin.port}") as running,
    ):
        yield running


class Noise:
    """Applications on tunnels that somebody breaks all the time.

    Attributes:
        written: by application, the bytes that its kernel took.
        read: by application, the bytes that came back.
    """

    def __init__(self, rig: Rig, pairs: list[Pair]) -> None:
        self.written = dict.fromkeys((pair.name for pair in pairs), 0)
        self.read = dict.fromkeys((pair.name for pair in pairs), 0)
        self._rig = rig
        self._pairs = pairs
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._talk, args=(pair,)) for pair in pairs]
        self._threads.append(threading.Thread(target=self._break))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _talk(self, pair: Pair) -> None:
        while not self._stop.is_set():
            try:
                with pair.connect("NOISE") as client:
                    client.settimeout(2.0)
                    self._exchange(pair.name, client)
            except OSError:
                self._stop.wait(0.05)

    def _exchange(self, name: str, client: socket.socket) -> None:
        left = wanted = 50_000
        while left:
            sent = client.send(bytes(left))
            self.written[name] += sent
            left -= sent
        while wanted:
            data = client.recv(wanted)
            if not data:
                return
            self.read[name] += len(data)
            wanted -= len(data)

    def _break(self) -> None:
        names = [pair.name for pair in self._pairs]
        while not self._stop.wait(0.3):
            self._rig.service.drop(random.choice(names), random.choice(list(Mode)))
            self._rig.service.session_reset(random.choice(names))


WAY_OF_AN_ECHO = (
    ("sent", "source"),
    ("received", "destination"),
    ("sent", "destination"),
    ("received", "source"),
)


def counted_noise(rig: Rig, what: str, mode: str) -> int:
    """What all tunnels counted for the service, as a scrape would say now."""
    registry = CollectorRegistry()
    registry.register(rig.runtime.collector)
    labels = {"mode": mode, "service_id": "NOISE"}
    return int(registry.get_sample_value(f"tunnelfleet_{what}_bytes_total", labels) or 0)


def test_bytes_agree_exactly_while_other_tunnels_break(
    measured_rig: Rig, prometheus: Prometheus
) -> None:
    rig = measured_rig
    backend = rig.backends.echo()
    noisy = [rig.pair({"NOISE": backend.address}) for _ in range(CHAOS_PAIRS)]
    exact = rig.pair({"EXACT": backend.address}, name="exact")
    sizes = [random.randrange(1, 200_000) for _ in range(EXACT_ROUNDS)]
    with Noise(rig, noisy) as noise:
        for size in sizes:
            with exact.connect("EXACT") as client:
                assert len(echo(client, b"e" * size)) == size

        def counted(what: str, mode: str) -> float | None:
            return prometheus.value(
                f'tunnelfleet_{what}_bytes_total{{mode="{mode}",service_id="EXACT"}}'
            )

        for what in ("sent", "received"):
            for mode in ("source", "destination"):
                eventually(
                    lambda what=what, mode=mode: counted(what, mode) == sum(sizes),
                    f"{what} by {mode} is {sum(sizes)}, not {counted(what, mode)}",
                    SCRAPED_SECONDS,
                )
        eventually(
            lambda: (prometheus.value("sum(tunnelfleet_reconnects_total)") or 0) > 0,
            "reconnects",
            SCRAPED_SECONDS,
        )
        eventually(
            lambda: (prometheus.value("tunnelfleet_session_resets_total") or 0) > 0,
            "session resets",
            SCRAPED_SECONDS,
        )
    # What is broken on its way is lost somewhere on it, and never counted where it did not come.
    # Read from the end on: what is still under way may go on meanwhile.
    way_back = [
        sum(noise.read.values()),
        *(counted_noise(rig, *step) for step in reversed(WAY_OF_AN_ECHO)),
        sum(noise.written.values()),
    ]
    assert way_back == sorted(way_back)
    assert way_back[-1] > way_back[0] > 0, "something was lost, and something came through"
    opened = sum(tunnel.status().streams_opened for tunnel in rig.runtime.tunnels())
    eventually(
        lambda: prometheus.value("sum(tunnelfleet_streams_opened_total)") == opened,
        "streams opened",
        SCRAPED_SECONDS,
    )


def test_a_closed_tunnel_takes_nothing_back(measured_rig: Rig, prometheus: Prometheus) -> None:
    rig = measured_rig
    pair = rig.pair({"SSH": rig.backends.echo().address}, name="short")
    with pair.connect("SSH") as client:
        echo(client, b"x" * 70_000)
    total = 'tunnelfleet_sent_bytes_total{mode="source",service_id="SSH"}'
    eventually(lambda: prometheus.value(total) == 70_000, "scraped", SCRAPED_SECONDS)
    for end in (pair.source, pair.destination):
        rig.runtime.close_tunnel(end.name)
    eventually(
        lambda: prometheus.value("tunnelfleet_tunnels_closed_total") == 2, "closed", SCRAPED_SECONDS
    )
    assert prometheus.value(total) == 70_000
    assert prometheus.value(f"resets({total}[1m])") == 0
    assert prometheus.value("sum(tunnelfleet_tunnels)") == 0


def test_alerts_fire_when_the_service_is_killed_and_stop_when_it_is_back(
    measured_rig: Rig, prometheus: Prometheus
) -> None:
    rig = measured_rig
    pair = rig.pair({"SSH": rig.backends.echo().address})
    connected = 'sum(tunnelfleet_tunnels{state="connected"})'
    eventually(lambda: prometheus.value(connected) == 2, "connected", SCRAPED_SECONDS)
    assert "TunnelfleetTunnelsDown" not in prometheus.firing()
    rig.service.kill()
    eventually(
        lambda: "TunnelfleetTunnelsDown" in prometheus.firing(), "the alert", SCRAPED_SECONDS
    )
    rig.service.start()
    rig.wait_connected(pair, timeout_seconds=SCRAPED_SECONDS)
    eventually(
        lambda: "TunnelfleetTunnelsDown" not in prometheus.firing(), "its end", SCRAPED_SECONDS
    )
    assert "TunnelfleetTargetMissing" not in prometheus.firing()


def test_the_alert_for_a_missing_target(measured_rig: Rig) -> None:
    admin = AdminServer(measured_rig.runtime, AdminOptions(port=0)).start()
    with Prometheus(f"127.0.0.1:{admin.port}") as prometheus:
        eventually(lambda: prometheus.value("up") == 1, "a scrape", SCRAPED_SECONDS)
        admin.stop()
        eventually(
            lambda: "TunnelfleetTargetMissing" in prometheus.firing(), "the alert", SCRAPED_SECONDS
        )
        options = AdminOptions(port=admin.port)
        with AdminServer(measured_rig.runtime, options):
            eventually(
                lambda: "TunnelfleetTargetMissing" not in prometheus.firing(),
                "its end",
                SCRAPED_SECONDS,
            )
