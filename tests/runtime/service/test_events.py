"""Events and their JSON."""

from __future__ import annotations

import json

from tunnelfleet.proto import Mode
from tunnelfleet.runtime.service import ServiceEvent, ServiceEventKind


def test_json_is_one_line_with_what_is_known() -> None:
    event = ServiceEvent(
        ServiceEventKind.CLIENT_CONNECTED, "press-4", Mode.SOURCE, "two\nlines", 1.5
    )
    line = event.to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "event": "client_connected",
        "time": 1.5,
        "tunnel": "press-4",
        "mode": "source",
        "detail": "two\nlines",
    }


def test_json_leaves_out_what_is_not_known() -> None:
    event = ServiceEvent(ServiceEventKind.SESSION_RESET, time_seconds=0)
    assert json.loads(event.to_json()) == {"event": "session_reset", "time": 0}


def test_a_detail_is_one_printable_line_of_bounded_length() -> None:
    event = ServiceEvent(ServiceEventKind.PROTOCOL_ERROR, "t", None, "a\x1b[2J\nb" + "y" * 60_000)
    detail = event.made_printable().detail
    assert detail.startswith("a [2J b")
    assert detail.isprintable()
    assert len(detail) <= 800
