"""What is generated is what the generators would write."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# mypy takes the folder beside the module for it.
from grafana.dashboards import FILES, FOLDER  # type: ignore[attr-defined]
from grafana.panels import FLEET, TUNNEL, Board, Panel
from grafana.prometheus_process import HERE, RULE_FILES
from grafana.service_panels import SERVICE
from tunnelfleet.actors.callbacks import MAX_RELAY_THREADS
from tunnelfleet.runtime.gateway.fleet_state import GATEWAY_METRICS
from tunnelfleet.runtime.metrics import CATALOGUE
from tunnelfleet.runtime.service.watch import FAMILIES

ROOT = Path(__file__).parent.parent.parent
PANELS = [panel for board in (FLEET, TUNNEL, SERVICE) for panel in board.panels]
SERVICE_METRICS = {family.name for family in FAMILIES}
METRIC = re.compile(r"\btunnelfleet_\w+")
FAMILY_SUFFIX = re.compile(r"_(bucket|sum|count)$")


@pytest.mark.parametrize(
    "command",
    [["tools/generate_metrics_docs.py"], ["-m", "grafana.dashboards"]],
    ids=["docs/metrics.md", "dashboards"],
)
def test_nothing_is_stale(command: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, *command, "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr


def exposed() -> set[str]:
    return {each.exposed for each in CATALOGUE} | GATEWAY_METRICS | SERVICE_METRICS


def named_in(text: str) -> set[str]:
    names = {FAMILY_SUFFIX.sub("", name) for name in METRIC.findall(text)}
    return {name for name in names if not name.endswith("_tunnels_connected")}


def test_the_alert_for_callbacks_knows_how_many_threads_there_are() -> None:
    rules = (HERE / "alert_rules.yaml").read_text()
    assert f"(tunnelfleet_callback_threads) >= {MAX_RELAY_THREADS}\n" in rules


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_panels_say_what_they_show(panel: Panel) -> None:
    assert panel.title
    assert panel.description.endswith(".")
    assert panel.unit
    for target in panel.targets:
        assert named_in(target.expr) <= exposed()
        for window in re.findall(r"rate\(.*?\[(.*?)\]", target.expr):
            assert window == "$__rate_interval" or "increase" in target.expr


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_rules_ask_for_metrics_that_exist(path: Path) -> None:
    recorded = re.compile(r"\w+:tunnelfleet_\w+:\w+")
    text = recorded.sub("", path.read_text())
    assert named_in(text) <= exposed()


def test_every_alert_says_what_to_do() -> None:
    text = (HERE / "alert_rules.yaml").read_text()
    assert text.count("- alert:") == text.count("summary: >-") == text.count("severity:")


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (HERE / "alert_rules.yaml").read_text()))
    cases = (HERE / "rules_test.yaml").read_text()
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n\s+eval_time: .*\n\s+exp_alerts:\n\s+- ", cases), (
            alert
        )
        assert f"{{alertname: {alert}, eval_time: 30m, exp_alerts: []}}" in cases, alert


@pytest.mark.parametrize(("name", "board"), FILES.items(), ids=list(FILES))
def test_the_dashboards_hold_together(name: str, board: Board) -> None:
    found = json.loads((FOLDER / name).read_text())
    assert found["uid"] == board.uid
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    variables = {each["name"]: each for each in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for panel in found["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["fieldConfig"]["defaults"]["unit"]
    places = [tuple(panel["gridPos"].values()) for panel in found["panels"]]
    assert len(places) == len(set(places))


def test_the_compose_file_mounts_what_is_there() -> None:
    text = (HERE / "compose.yaml").read_text()
    for path in re.findall(r"- \./(\S+?):/", text):
        assert (HERE / path).exists(), path
