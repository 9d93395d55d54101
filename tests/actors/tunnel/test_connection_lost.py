"""The end of a connection, read as an error for people and for metrics."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.kernel import NORMAL, SHUTDOWN, ExitReason
from tunnelfleet.actors.tunnel.link import lost_reason
from tunnelfleet.proto import ConnectionLost, TunnelClosed, TunnelError

LOST = ConnectionLost("lost", "the connection broke")
CLOSED = TunnelClosed("the tunnel was closed")


def test_it_says_why_and_how_far_it_came() -> None:
    assert isinstance(LOST, TunnelError)
    assert (LOST.label, str(LOST), LOST.was_established) == ("lost", "the connection broke", True)
    early = ConnectionLost("http_503", "busy", was_established=False)
    assert not early.was_established


@pytest.mark.parametrize("error", [LOST, CLOSED], ids=lambda error: type(error).__name__)
def test_an_actor_that_failed_with_an_error_of_ours_ended_for_that(error: TunnelError) -> None:
    assert lost_reason(ExitReason.failed(error)) is error


def test_an_actor_that_crashed_lost_its_connection() -> None:
    error = lost_reason(ExitReason.failed(ZeroDivisionError("oops")))
    assert isinstance(error, ConnectionLost)
    assert (error.label, error.was_established) == ("crashed", True)
    assert "oops" in str(error)


@pytest.mark.parametrize("reason", [NORMAL, SHUTDOWN], ids=str)
def test_an_actor_that_was_stopped_closed_its_connection(reason: ExitReason) -> None:
    assert isinstance(lost_reason(reason), TunnelClosed)
