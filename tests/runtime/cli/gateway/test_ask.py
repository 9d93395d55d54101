"""`reload` and `ready`: what a reload changes in words, and why a gateway is not ready."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from tunnelfleet.runtime.cli.gateway import ask
from tunnelfleet.runtime.cli.gateway.ask import (
    SHOWN_NAMES,
    SHOWN_REASONS,
    _not_ready,
    _reasons,
    _wait_until_ready,
    difference_lines,
)
from tunnelfleet.runtime.gateway.api.address import GatewayAddress, GatewayNotReached
from tunnelfleet.runtime.gateway.api.client import GatewayClient

AWAY = GatewayNotReached(GatewayAddress(path="/x"), ConnectionRefusedError(111, "refused"))


def test_what_a_reload_changes_is_a_line_a_kind() -> None:
    answer = {
        "added": ["a", "b"],
        "changed": ["c", "d", "e"],
        "changes": {
            "c": [["limits.pong_timeout_seconds"], "taken over"],
            "d": {"keys": ["endpoint", "mode"], "action": "opened again"},
        },
        "unchanged": ["f"],
        "removed": [],
    }
    changed = "c (limits.pong_timeout_seconds: taken over), d (endpoint, mode: opened again), e"
    assert difference_lines(answer, None) == [
        "added         2  a, b",
        f"changed       3  {changed}",
        "unchanged     1",
    ]


def test_of_many_names_some_are_shown() -> None:
    names = [f"t{number}" for number in range(SHOWN_NAMES + 1)]
    (line, _unchanged) = difference_lines({"removed": names}, None)
    assert line.startswith(f"removed      {SHOWN_NAMES + 1}  t0, ")
    assert line.endswith(f"t{SHOWN_NAMES - 1}, …")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (None, []),
        ("the state is away", ["the state is away"]),
        ({"store": "is away"}, ["store: is away"]),
        (
            [{"tunnel": "a", "state": "backoff", "reason": "refused"}, {"x": 1}, "b"],
            ["a: backoff: refused", "{'x': 1}", "b"],
        ),
    ],
    ids=["none", "a text", "a table", "rows"],
)
def test_reasons_of_any_gateway(told: object, shown: list[str]) -> None:
    assert _reasons(told) == shown


def test_of_many_reasons_some_are_shown() -> None:
    lines = _not_ready([f"r{number}" for number in range(SHOWN_REASONS + 5)])
    assert lines[0] == "not ready"
    assert lines[-2:] == ["and 5 more", "tunnelfleet ls --sort trouble shows which and why"]
    assert "and" not in _not_ready(["r"])[1]


class Starts:
    """A gateway that is started."""

    def __init__(self, *script: dict[str, Any] | Exception) -> None:
        self._script = list(script)

    def gateway(self) -> dict[str, Any]:
        found = self._script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def test_a_gateway_that_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PAUSE_SECONDS", 0.0)
    starts = Starts(AWAY, {"ready": False, "reasons": ["a"]}, {"ready": True, "name": "gw"})
    about = _wait_until_ready(cast("GatewayClient", starts), time.monotonic() + 600.0)
    assert about == {"ready": True, "name": "gw"}


def test_when_the_time_is_over_what_was_told_last_counts() -> None:
    not_ready = {"ready": False, "reasons": ["a"]}
    over = time.monotonic()
    assert _wait_until_ready(cast("GatewayClient", Starts(not_ready)), over) == not_ready
    with pytest.raises(GatewayNotReached):
        _wait_until_ready(cast("GatewayClient", Starts(AWAY)), over)
