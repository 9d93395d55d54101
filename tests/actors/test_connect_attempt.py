"""An attempt and its outcome: how long it took, how far it came, what its failure means."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

import pytest

from tunnelfleet.actors.connect_attempt import ConnectAttempt, connect_failure, refusal
from tunnelfleet.actors.connector import Connected, Connector, ConnectRequest, NotConnected
from tunnelfleet.proto import Endpoint, HandshakeError, Mode, TunnelClosed, TunnelError

ENDPOINT = Endpoint("wss", "tunnels.example", 443)
REQUEST = ConnectRequest(
    ENDPOINT, Mode.SOURCE, "the-access-token", "c" * 32, None, None, None, "test/1", 12.5
)


class FakeJob:
    """Stays where it is put."""

    def __init__(self) -> None:
        self.phase = "waiting for a connect thread"
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


class FakeConnector:
    """Keeps what is asked of it, and connects to nothing."""

    def __init__(self) -> None:
        self.requests: list[ConnectRequest] = []
        self.job = FakeJob()
        self.outcome: Future[Connected | NotConnected] = Future()

    def connect(self, request: ConnectRequest) -> tuple[FakeJob, Future[Any]]:
        self.requests.append(request)
        return self.job, self.outcome


@pytest.fixture
def connector() -> FakeConnector:
    return FakeConnector()


def begin(connector: FakeConnector, now: float = 100.0) -> ConnectAttempt:
    return ConnectAttempt(cast("Connector", connector), REQUEST, now)


def test_it_is_under_way_from_its_making_on(connector: FakeConnector) -> None:
    attempt = begin(connector)
    assert connector.requests == [REQUEST]
    assert attempt.outcome is connector.outcome
    assert connector.job.cancelled == 0


def test_it_counts_the_seconds_from_there(connector: FakeConnector) -> None:
    attempt = begin(connector, now=100.0)
    assert attempt.seconds(100.0) == 0.0
    assert attempt.seconds(101.5) == 1.5


def test_given_up_it_cancels_the_job(connector: FakeConnector) -> None:
    begin(connector).cancel()
    assert connector.job.cancelled == 1


@pytest.mark.parametrize("phase", ["TCP connect", "TLS handshake", "WebSocket handshake"])
def test_out_of_time_it_says_how_far_it_came(connector: FakeConnector, phase: str) -> None:
    attempt = begin(connector)
    connector.job.phase = phase
    lost = attempt.timed_out()
    assert (lost.label, lost.was_established) == ("connect_timeout", False)
    text = f"no connection to {ENDPOINT} after 12.5 s ({phase}): "
    assert str(lost) == text + "check the endpoint, the network and the proxy"


def test_it_keeps_no_token(connector: FakeConnector) -> None:
    attempt = begin(connector)
    kept = [getattr(attempt, name) for name in ConnectAttempt.__slots__]
    assert REQUEST.access_token not in repr(kept)
    assert REQUEST not in kept


def handshake(status: int | None, *, retryable: bool = True) -> HandshakeError:
    return HandshakeError("not now", status=status, channel_id=None, retryable=retryable)


FAILURES = [
    # error, refused, label
    pytest.param(handshake(400, retryable=False), True, None, id="refused"),
    pytest.param(handshake(None, retryable=False), True, None, id="refused by ourselves"),
    pytest.param(handshake(503), False, "http_503", id="busy"),
    pytest.param(handshake(429), False, "http_429", id="too many"),
    pytest.param(handshake(None), False, "connect_failed", id="no HTTP answer"),
    pytest.param(TunnelClosed("not now"), False, "connect_failed", id="another error"),
]


@pytest.mark.parametrize(("error", "refused", "label"), FAILURES)
def test_what_cannot_pass_is_a_refusal_and_what_may_is_a_failure(
    error: TunnelError, refused: bool, label: str | None
) -> None:
    assert refusal(error) is (error if refused else None)
    if label is not None:
        lost = connect_failure(error)
        assert (lost.label, str(lost), lost.was_established) == (label, "not now", False)
        assert lost.__cause__ is error
