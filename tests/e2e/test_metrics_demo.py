"""A real Prometheus scrapes a running demo with chaos: nothing that is documented is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, NamedTuple

import pytest

from grafana.panels import FLEET, TUNNEL
from grafana.prometheus_process import HERE, RULE_FILES, Prometheus, free_port
from grafana.queries import compared, plain
from tests.support.waiting import eventually
from tunnelfleet.runtime.gateway.fleet_state import GATEWAY_METRICS
from tunnelfleet.runtime.metrics import CATALOGUE, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.programs("prometheus", "promtool")

WAIT_SECONDS = 120.0
TRAFFIC_SECONDS = 40
"""Chaos strikes all along it; afterwards the demo stays up, with its metrics."""
PROGRAM = "import sys; from tunnelfleet.runtime.cli import main; sys.exit(main())"


class Scraped(NamedTuple):
    """A demo that runs and the Prometheus that watches it."""

    port: int
    prometheus: Prometheus


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    port = free_port()
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "demo",
        "--tunnels",
        "4",
        "--admin",
        f"127.0.0.1:{port}",
    ]
    log = tmp_path_factory.mktemp("demo") / "out"
    with log.open("wb") as out:
        demo = subprocess.Popen(
            [*command, "--keep", "--duration", str(TRAFFIC_SECONDS)],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        with Prometheus(f"127.0.0.1:{port}") as prometheus:
            # What comes last: a ping's answer, after five seconds, and a broken connection.
            for last in (
                "tunnelfleet_ping_round_trip_seconds_count",
                "sum(tunnelfleet_reconnects_total)",
            ):
                eventually(
                    lambda last=last: (prometheus.value(last) or 0) > 0,
                    f"{last}: {log.read_text()}",
                    WAIT_SECONDS,
                )
            yield Scraped(port, prometheus)
    finally:
        demo.terminate()
        demo.wait(30)


def names() -> list[str]:
    found = []
    for each in CATALOGUE:
        is_distribution = each.kind in (Kind.HISTOGRAM, Kind.SUMMARY)
        found.append(f"{each.exposed}_count" if is_distribution else each.exposed)
    return found


@pytest.mark.parametrize("name", names())
def test_every_documented_metric_is_there(scraped: Scraped, name: str) -> None:
    eventually(lambda: bool(scraped.prometheus.query(name)), name, WAIT_SECONDS)


PANELS = [
    (f"{b.uid}/{p.title}", t.expr)
    for b in (FLEET, TUNNEL)
    for p in b.panels
    for t in p.targets
    # No gateway runs here.
    if not any(metric in t.expr for metric in GATEWAY_METRICS)
]


@pytest.mark.parametrize(("title", "expr"), PANELS)
def test_every_panel_shows_data(scraped: Scraped, title: str, expr: str) -> None:
    eventually(lambda: bool(scraped.prometheus.query(plain(expr))), title, WAIT_SECONDS)


def test_every_rule_returns_data(scraped: Scraped) -> None:
    prometheus = scraped.prometheus
    rules = {rule["name"]: rule for rule in prometheus.rules()}
    assert len(rules) == len(re.findall(r"(?m)^ *- (record|alert):", rules_text()))
    for name, rule in rules.items():
        assert rule["health"] == "ok", rule
        if rule["type"] == "recording":
            eventually(lambda name=name: bool(prometheus.query(name)), name, WAIT_SECONDS)
            continue
        sides = compared(rule["query"])
        assert sides
        if any(metric in rule["query"] for metric in GATEWAY_METRICS):
            # No gateway runs here; test_gateway looks at what one gives.
            continue
        for side in sides:
            eventually(lambda side=side: bool(prometheus.query(side)), side, WAIT_SECONDS)


def rules_text() -> str:
    return "\n".join(path.read_text() for path in RULE_FILES)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_promtool_finds_no_fault_with_the_metrics(scraped: Scraped, accept: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{scraped.port}/metrics", headers={"Accept": accept}
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        text = answer.read()
    if accept == "text/plain":
        promtool("check", "metrics", text=text)
    else:
        assert text.endswith(b"\n# EOF\n")
        assert text.count(b"# EOF") == 1


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_promtool_finds_no_fault_with_the_rules(path: Path) -> None:
    promtool("check", "rules", str(path))


def test_the_rules_do_what_their_cases_say() -> None:
    promtool("test", "rules", str(HERE / "rules_test.yaml"))


def promtool(*arguments: str, text: bytes = b"") -> None:
    run = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, check=False, timeout=200
    )
    assert run.returncode == 0, (run.stdout + run.stderr).decode()
    assert not run.stderr, run.stderr.decode()
