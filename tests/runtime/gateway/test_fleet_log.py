from __future__ import annotations

import logging

import pytest

from tunnelfleet.runtime import TunnelState, TunnelStateChanged
from tunnelfleet.runtime.gateway import ReloadResult
from tunnelfleet.runtime.gateway.config import Problem
from tunnelfleet.runtime.gateway.log import LOGGED_PROBLEMS, log_reload, log_state
from tunnelfleet.runtime.gateway.reconcile import Difference, RunPhase


@pytest.mark.parametrize(
    ("state", "phase", "level"),
    [
        (TunnelState.CONNECTED, RunPhase.RUNNING, logging.INFO),
        (TunnelState.REFUSED, RunPhase.RUNNING, logging.WARNING),
        (TunnelState.STOPPED, RunPhase.DRAINING, logging.INFO),
        (TunnelState.STOPPED, RunPhase.STOPPING, logging.DEBUG),
        (TunnelState.CONNECTING, RunPhase.RUNNING, logging.DEBUG),
    ],
)
def test_states(
    caplog: pytest.LogCaptureFixture, state: TunnelState, phase: RunPhase, level: int
) -> None:
    caplog.set_level(logging.DEBUG, "tunnelfleet")
    log_state(TunnelStateChanged("press-4", state, "so"), phase)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, f"{state}: so")
    assert record.__dict__["tunnel"] == "press-4"
    assert record.__dict__["fields"] == {"state": state.value, "reason": "so"}


def test_reloads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tunnelfleet")
    log_reload(ReloadResult(Difference(added=("a",)), (), ("metrics",)))
    assert [record.getMessage() for record in caplog.records] == [
        "the files are taken over: 1 added, 0 changed, 0 removed, 0 unchanged",
        "gateway.metrics has changed; it is taken over at the next start",
    ]
    caplog.clear()
    many = tuple(Problem("f", line, "k", "wrong") for line in range(LOGGED_PROBLEMS + 9))
    log_reload(ReloadResult(None, many))
    assert len(caplog.records) == 1 + LOGGED_PROBLEMS + 1
    assert caplog.records[-1].getMessage().startswith("and 9 more like that")
