from __future__ import annotations

import io
import json
import logging

import pytest

from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import TcpAddress, UnixAddress
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.runtime.cli.localproxy.output import (
    Reporter,
    configure_logging,
    event_line,
    event_object,
)

ADDRESS = TcpAddress("127.0.0.1", 40_001)

LINES = [
    (events.TunnelStateChanged("t", TunnelState.CONNECTED), "connected"),
    (
        events.TunnelStateChanged("t", TunnelState.BACKOFF, "refused\nconnection"),
        "backoff: refused connection",
    ),
    (events.TunnelStateChanged("t", TunnelState.CONNECTING), "connecting"),
    (events.TunnelStateChanged("t", TunnelState.CONNECTING, "it failed before"), ""),
    (events.TunnelStateChanged("t", TunnelState.REFUSED, "HTTP 400"), ""),
    (events.TunnelStateChanged("t", TunnelState.STOPPED, "stopped"), "stopped"),
    (
        events.ServiceIdsReceived("t", ("SSH", "HTTP"), "c-1"),
        "channel id c-1, services: SSH, HTTP",
    ),
    (events.ServiceIdsReceived("t", ()), "channel id not given, services: none named"),
    (events.ListenerOpened("t", "SSH", ADDRESS), "SSH listening on 127.0.0.1:40001"),
    (events.ListenerOpened("t", "", ADDRESS), "listening on 127.0.0.1:40001"),
    (events.ListenerClosed("t", "SSH", "in use"), "SSH not listening: in use"),
    (events.ListenerClosed("t", "SSH"), ""),
    (events.SessionWasReset("t"), "the service reset the session: every stream ended"),
    (events.StreamOpened("t", "SSH", 1), "SSH stream 1 opened"),
    (events.StreamClosed("t", "SSH", 1, "peer reset"), "SSH stream 1 closed: peer reset"),
    (events.ConnectionOpened("t", "SSH", 1, 2), "SSH connection 2 opened"),
    (events.ConnectionClosed("t", "SSH", 1, 2, "end"), "SSH connection 2 closed: end"),
    (events.TunnelEvent("t"), ""),
]


@pytest.mark.parametrize(("event", "line"), LINES)
def test_an_event_in_words(event: events.TunnelEvent, line: str) -> None:
    assert event_line(event) == line


@pytest.mark.parametrize(
    ("event", "values"),
    [
        (
            events.ListenerOpened("t", "SSH", ADDRESS),
            {"event": "listener_opened", "service_id": "SSH", "address": "127.0.0.1:40001"},
        ),
        (
            events.ListenerOpened("t", "APP", UnixAddress("/run/a")),
            {"event": "listener_opened", "service_id": "APP", "address": "/run/a"},
        ),
        (
            events.TunnelStateChanged("t", TunnelState.BACKOFF, "why"),
            {"event": "tunnel_state_changed", "state": "backoff", "reason": "why"},
        ),
        (
            events.ServiceIdsReceived("t", ("A", "B"), "c"),
            {"event": "service_ids_received", "service_ids": ["A", "B"], "channel_id": "c"},
        ),
        (events.SessionWasReset("t"), {"event": "session_was_reset"}),
    ],
)
def test_an_event_as_an_object(event: events.TunnelEvent, values: dict[str, object]) -> None:
    found = event_object(event, 12.34567)
    assert found == {"time": 12.346, "tunnel": "t", **values}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (0, []),
        (3, []),
        (4, ["connected", "SSH listening on 127.0.0.1:40001"]),
        (5, ["connected", "SSH listening on 127.0.0.1:40001", "SSH connection 1 opened"]),
    ],
)
def test_verbosity_decides_which_lines_are_written(verbosity: int, expected: list[str]) -> None:
    out = io.StringIO()
    reporter = Reporter(out, as_json=False, verbosity=verbosity)
    reporter.event(events.TunnelStateChanged("t", TunnelState.CONNECTED))
    reporter.event(events.ListenerOpened("t", "SSH", ADDRESS))
    reporter.event(events.ListenerClosed("t", "SSH"))
    reporter.event(events.ConnectionOpened("t", "SSH", 1, 1))
    assert out.getvalue().splitlines() == expected


def test_json_has_every_event_and_nothing_else() -> None:
    out = io.StringIO()
    reporter = Reporter(out, as_json=True, verbosity=0)
    reporter.services({"SSH": ADDRESS})
    for event, _ in LINES:
        reporter.event(event)
    assert len([json.loads(line) for line in out.getvalue().splitlines()]) == len(LINES)


@pytest.mark.parametrize(
    ("verbosity", "lines"),
    [(0, []), (2, []), (3, ["warning: w x"]), (4, ["warning: w x", "note: n"])],
)
def test_warnings_and_notes_go_to_stderr(
    verbosity: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    reporter = Reporter(out, as_json=False, verbosity=verbosity)
    reporter.warning("w\nx")
    reporter.note("n")
    assert capsys.readouterr().err.splitlines() == lines
    assert out.getvalue() == ""


def test_a_destination_says_what_it_connects_to() -> None:
    out = io.StringIO()
    Reporter(out, as_json=False, verbosity=4).services({"SSH": ADDRESS, "": UnixAddress("/a")})
    assert out.getvalue() == "SSH connects to 127.0.0.1:40001\nthe tunnel connects to /a\n"


@pytest.mark.parametrize(
    ("verbosity", "levels"),
    [
        (0, ""),
        (1, "C"),
        (2, "CE"),
        (3, "CEW"),
        (4, "CEWI"),
        (5, "CEWID"),
        (6, "CEWID"),
    ],
)
def test_the_log_is_as_verbose_as_asked(verbosity: int, levels: str) -> None:
    stream = io.StringIO()
    configure_logging(verbosity, stream)
    logger = logging.getLogger("tunnelfleet.some.module")
    for method in (logger.critical, logger.error, logger.warning, logger.info, logger.debug):
        method("said")
    logging.getLogger("websocket").critical("another library's")
    lines = stream.getvalue().splitlines()
    assert "".join(line.partition("}[")[2][0] for line in lines) == levels
    assert all(line.endswith("] said") for line in lines)
