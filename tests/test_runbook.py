"""docs/runbook.md has an entry for each alert and each reason that the code can give."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tunnelfleet.actors.counters import Counters, ServiceCounters
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel.counting import declared
from tunnelfleet.actors.transport.connect_gate import BreakerState, ConnectStats
from tunnelfleet.proto import errors, handshake
from tunnelfleet.runtime.gateway.api.operations import ProblemKind
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.forward.carriage import FORWARD_FAILURES
from tunnelfleet.runtime.gateway.on_demand.cloud import CloudTrouble
from tunnelfleet.runtime.gateway.on_demand.errands import REFUSALS
from tunnelfleet.runtime.gateway.on_demand.facts import DemandPhase, EndCause
from tunnelfleet.runtime.gateway.store.errors import Trouble
from tunnelfleet.runtime.metrics import collector

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")


def known(counters: type, name: str) -> set[str]:
    """The reasons that a counter knows of."""
    (found,) = [each for each in declared(counters) if each.name == name]
    assert found.known
    return set(found.known)


def labels_why() -> set[str]:
    """The values of the label `why` of the governor's metrics."""
    families = collector._governor(ConnectStats())
    labels = [sample.labels for family in families for sample in family.samples]
    return {each["why"] for each in labels if "why" in each}


STATUSES = {f"http_{status}" for status in errors.KNOWN_STATUSES}
CLASSES = {"http_3xx", "http_4xx", "http_5xx", "http_other"}

LISTS: dict[str, set[str]] = {
    "TunnelState": {each.value for each in TunnelState},
    "connect_failures": known(Counters, "connect_failures") | STATUSES | CLASSES,
    "reconnects": known(Counters, "reconnects"),
    "waiting": labels_why(),
    "BreakerState": {each.value for each in BreakerState},
    "ends": known(ServiceCounters, "connections_ended")
    | known(ServiceCounters, "streams_ended")
    | {"actor_ended", "gateway_ended"},
    "dropped_messages": known(Counters, "dropped_messages"),
    "exhausted_operations": known(Counters, "exhausted_operations"),
    "forward_failures": set(FORWARD_FAILURES),
    "demand_refused": set(REFUSALS),
    "demand_closed": {each.value for each in EndCause},
    "demand_call_failures": {each.value for each in CloudTrouble},
    "demand_tunnels": {each.value for each in DemandPhase},
    "Denial": {each.value for each in Denial},
    "Trouble": {each.value for each in Trouble},
    "ProblemKind": {each.value[0] for each in ProblemKind},
}
"""What the code can say, by the name of its list in the runbook."""

COUNTERS_ELSEWHERE = {"streams_ended", "connections_ended"}
"""They share the list `ends`."""


def rows(name: str) -> list[list[str]]:
    """The cells of the table behind the comment that names it, without its head."""
    _, found, text = RUNBOOK.partition(f"<!-- list: {name} -->\n\n")
    assert found, f"the runbook has no list {name}"
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def entries(name: str) -> set[str]:
    return {entry for row in rows(name) for entry in CODE.findall(row[0])}


def alerts() -> set[str]:
    groups = yaml.safe_load((ROOT / "grafana" / "alert_rules.yaml").read_text())["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}


def test_each_alert_has_its_entry_and_says_what_to_do() -> None:
    pattern = r"^### (Tunnelfleet\w+)\n\n(.+?)\n\n"
    found = dict(re.findall(pattern, RUNBOOK, re.MULTILINE | re.DOTALL))
    assert set(found) == alerts()
    for name, text in found.items():
        assert re.search(r"\*\*(Do|Look and do)\*\*: ", text), name


@pytest.mark.parametrize("name", LISTS)
def test_each_reason_has_its_entry(name: str) -> None:
    assert entries(name) == LISTS[name]
    for row in rows(name):
        assert len(row) == 3
        assert all(row), f"{row[0]}: what does it mean, and what is to be done?"


@pytest.mark.parametrize("counters", [Counters, ServiceCounters])
def test_no_counter_by_reason_is_left_out(counters: type) -> None:
    by_reason = {each.name for each in declared(counters) if each.known}
    assert by_reason <= set(LISTS) | COUNTERS_ELSEWHERE


def reasons_of_suspension() -> Iterator[str]:
    """The texts with which the code suspends connects: literals, and constants of the module."""
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("suspend_connects", "Suspend"):
                (first, *_) = node.args
                value = first.value if isinstance(first, ast.Constant) else None
                value = constants.get(first.id, value) if isinstance(first, ast.Name) else value
                if isinstance(value, str):
                    yield value


def test_each_reason_of_a_suspension_has_its_entry() -> None:
    assert set(reasons_of_suspension()) <= entries("suspended")


def test_what_the_service_refuses_with_is_explained() -> None:
    section = RUNBOOK.partition("## Refusals of the tunneling service\n")[2]
    shown = [text.removesuffix(" ...") for text in CODE.findall(section)]
    for text in (
        handshake.ACCESS_TOKEN_USED_TEXT,
        handshake.CLIENT_TOKEN_MISMATCH_TEXT,
        handshake.ACCESS_TOKEN_INVALID_TEXT,
    ):
        assert any(text.startswith(each) for each in shown), text


def test_links_within_it_lead_somewhere() -> None:
    titles = re.findall(r"^##+ (.+)$", RUNBOOK, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)) <= anchors
