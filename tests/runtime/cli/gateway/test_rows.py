from __future__ import annotations

from typing import Any

import pytest

from tunnelfleet.runtime.cli.gateway.rows import (
    FIELDS,
    SORTS,
    page,
    sorted_rows,
    summary,
    tunnel_table,
)
from tunnelfleet.runtime.cli.gateway.screen import plain
from tunnelfleet.runtime.gateway import fleet_state

NOW = 1_700_000_000.0
REASON = 'the service answered HTTP 403 Forbidden: "Invalid access token": check the region'


def row(name: str, state: str = "connected", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "mode": "source",
        "state": state,
        "reason": "",
        "services": {"SSH": "127.0.0.1:40123"},
        "labels": {"site": "lyon"},
        "streams": 1,
        "connections": 2,
        "sent_bytes": 1_234_567,
        "received_bytes": 10,
        "reconnects": 3,
        "since": NOW - 250,
        **fields,
    }


def test_a_pipe_has_every_column_and_80_columns_what_matters() -> None:
    rows = [row("press-1"), row("press-2", "refused", reason=REASON)]
    head, first, second = [plain(line) for line in tunnel_table(rows, None, NOW)]
    assert len(head.split()) == 11
    assert first.split()[:4] == ["press-1", "connected", "4m10s", "source"]
    assert REASON in second
    narrow = [plain(line) for line in tunnel_table(rows, 80, NOW)]
    assert narrow[0].split() == ["NAME", "STATE", "AGE", "SERVICES", "CONN", "REASON"]
    assert "SSH=127.0.0.1:40123" in narrow[1]
    assert narrow[2].endswith("…")


def test_rates_stand_in_the_table_of_top() -> None:
    table = tunnel_table([row("a")], 100, NOW, {"a": (1_500.0, 0.0)})
    assert "1.5 kB/s" in plain(table[1])
    assert "0 B/s" in plain(table[1])


def test_a_row_without_fields_is_shown() -> None:
    assert plain(tunnel_table([{"name": "a"}], None, NOW)[1]).startswith("a ")


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("name", ["p-2", "p-9", "p-10"]),
        ("trouble", ["p-10", "p-2", "p-9"]),
        ("connections", ["p-9", "p-2", "p-10"]),
        ("bytes", ["p-2", "p-10", "p-9"]),
        ("reconnects", ["p-10", "p-2", "p-9"]),
        ("age", ["p-9", "p-2", "p-10"]),
        ("rate", ["p-9", "p-2", "p-10"]),
    ],
)
def test_orders(by: str, names: list[str]) -> None:
    rows = [
        row("p-10", "refused", connections=0, sent_bytes=6, reconnects=9, since=1),
        row("p-9", connections=5, sent_bytes=5, reconnects=1, since=3),
        row("p-2", connections=1, sent_bytes=7, reconnects=1, since=2),
    ]
    found = sorted_rows(rows, by, {"p-9": (5.0, 0.0), "p-2": (0.0, 1.0)})
    assert [each["name"] for each in found] == names
    back = sorted_rows(rows, by, {"p-9": (5.0, 0.0), "p-2": (0.0, 1.0)}, is_reversed=True)
    assert [each["name"] for each in back] == names[::-1]


def test_what_another_gateway_has_is_the_least_trouble() -> None:
    rows = [
        row("theirs", "stopped", reason=fleet_state.ELSEWHERE),
        row("held", "stopped", reason=fleet_state.HELD),
        row("waits", "connecting"),
        row("well"),
    ]
    found = [each["name"] for each in sorted_rows(rows, "trouble")]
    assert found == ["held", "waits", "well", "theirs"]


def test_each_order_is_known() -> None:
    assert set(SORTS) == {"trouble", "name", "rate", "connections", "bytes", "reconnects", "age"}


def test_the_summary_counts_states_worst_first() -> None:
    rows = [row("a"), row("b", "refused"), row("c"), row("d", "of another version")]
    assert plain(summary(rows)) == "4 tunnels, 1 refused, 2 connected, 1 of another version"
    assert plain(summary([row("a")])) == "1 tunnel, 1 connected"


def test_a_page_has_each_field_and_wraps_long_ones() -> None:
    found = row("press-1", "refused", reason=REASON, channel_id="c-1", place="f.toml:3")
    lines = [plain(line) for line in page(found, 60, NOW)]
    assert all(len(line) <= 60 for line in lines)
    whole = " ".join(" ".join(lines).split())
    assert REASON in whole
    for words in ("sent 1.2 MB (1,234,567 bytes)", "received 10 B", "since 4m10s ago"):
        assert words in whole
    assert any(line.startswith("channel id") and line.endswith("c-1") for line in lines)
    assert [key for key in FIELDS if key not in found] == []


def test_a_page_leaves_out_what_is_empty() -> None:
    lines = [plain(line) for line in page(row("a", labels={}, reason=""), None, NOW)]
    assert not any(line.startswith(("labels", "reason")) for line in lines)
