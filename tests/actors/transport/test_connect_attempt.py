"""An attempt and its outcome: how long it took, how far it came, what its failure means."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log
from tests.support.attempter import Attempter
from tests.support.scripted_server import Peer
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.transport.attempt import (
    FRESH_SECONDS,
    ConnectAttempt,
    connect_failure,
    refusal,
)
from tunnelfleet.actors.transport.connector import ConnectFailed, Connector, ConnectRequest
from tunnelfleet.proto import Endpoint, HandshakeError, Mode, TunnelClosed, TunnelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

    from tests.support.scripted_server import ScriptedServer
    from tunnelfleet.actors.kernel import Dispatcher

    Serve = Callable[..., ScriptedServer]

TOKEN = "the-access-token"


def begin(
    dispatcher: Dispatcher,
    connector: Connector,
    endpoint: Endpoint,
    log: Log | None = None,
    *,
    waited_seconds: float = 0.0,
) -> ActorRef[Any]:
    request = ConnectRequest(endpoint, Mode.SOURCE, TOKEN, "c" * 32, None, None, "test/1", 12.5)
    return Attempter.start(
        connector, request, log or Log(), 100.0, waited_seconds, dispatcher=dispatcher
    )


def silent(reached: threading.Event) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.read_request()
        reached.set()
        peer.wait_closed()

    return script


@pytest.mark.parametrize(
    ("waited_seconds", "look_ups"), [(0.0, 1), (FRESH_SECONDS, 1), (FRESH_SECONDS + 1, 2)]
)
def test_a_name_is_looked_up_before_the_permit_and_anew_if_that_took_long(
    serve: Serve,
    dispatcher: Dispatcher,
    connector: Connector,
    monkeypatch: pytest.MonkeyPatch,
    waited_seconds: float,
    look_ups: int,
) -> None:
    server = serve(silent(reached := threading.Event()))
    asked = Log()

    def look_up(host: str, *_args: Any, **_named: Any) -> list[Any]:
        asked.add(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    endpoint = Endpoint("ws", "tunnels.example", 80)
    ref = begin(dispatcher, connector, endpoint, waited_seconds=waited_seconds)
    assert reached.wait(WAIT_SECONDS)
    assert len(asked.items) == look_ups
    ref.stop()


def test_it_counts_the_seconds_from_the_permit(
    serve: Serve, dispatcher: Dispatcher, connector: Connector
) -> None:
    ref = begin(dispatcher, connector, serve(Peer.wait_closed).endpoint)
    assert ref.ask(lambda attempt: attempt.seconds(101.5)) == 1.5
    ref.stop()


def test_out_of_time_it_says_how_far_it_came(
    serve: Serve, dispatcher: Dispatcher, connector: Connector
) -> None:
    reached = threading.Event()
    endpoint = serve(silent(reached)).endpoint
    ref = begin(dispatcher, connector, endpoint)
    assert reached.wait(WAIT_SECONDS)
    lost = ref.ask(lambda attempt: attempt.timed_out())
    assert (lost.label, lost.was_established) == ("connect_timeout", False)
    text = f"no connection to {endpoint} after 12.5 s (WebSocket handshake): "
    assert str(lost) == text + "check the endpoint, the network and the proxy"
    ref.stop()


def test_out_of_time_in_a_look_up_it_says_so(
    dispatcher: Dispatcher, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_args, **_named: answer.wait(60) and [])
    try:
        ref = begin(dispatcher, connector, Endpoint("wss", "tunnels.example", 443))
        lost = ref.ask(lambda attempt: attempt.timed_out())
        assert "(looking up tunnels.example)" in str(lost)
        ref.stop()
    finally:
        answer.set()


def test_after_the_dial_it_keeps_no_token(
    serve: Serve, dispatcher: Dispatcher, connector: Connector
) -> None:
    reached = threading.Event()
    ref = begin(dispatcher, connector, serve(silent(reached)).endpoint)
    assert reached.wait(WAIT_SECONDS)

    def kept(attempt: ConnectAttempt) -> list[Any]:
        return [getattr(attempt, name) for name in ConnectAttempt.__slots__]

    assert not [item for item in ref.ask(kept) if isinstance(item, ConnectRequest)]
    ref.stop()


def test_its_failure_comes_as_a_message(dispatcher: Dispatcher, connector: Connector) -> None:
    log = Log()
    ref = begin(dispatcher, connector, Endpoint("ws", "127.0.0.1", 1), log)
    eventually(lambda: bool(log.items))
    (outcome,) = log.items
    assert isinstance(outcome, ConnectFailed)
    assert "cannot reach ws://127.0.0.1:1: Connection refused" in str(outcome.error)
    ref.stop()


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
