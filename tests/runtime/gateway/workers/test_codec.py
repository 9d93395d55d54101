"""What travels between the processes of a gateway, and what does not."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace
from typing import Any

import pytest

from tunnelfleet.actors import events
from tunnelfleet.actors.config import NoListener
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.actors.transport.connect_gate import BreakerState, BreakerStatus, ConnectStats
from tunnelfleet.proto import Endpoint, Mode, ProtocolVersion
from tunnelfleet.runtime import (
    HttpProxy,
    Limits,
    TcpAddress,
    TunnelConfig,
    TunnelState,
    UnixAddress,
    make_ssl_context,
)
from tunnelfleet.runtime.gateway.workers.messages import MAX_NESTING, from_json, to_json

SOURCE = TunnelConfig(
    name="press-4",
    mode=Mode.SOURCE,
    endpoint=Endpoint("wss", "data.example", 443),
    access_token="a" * 90,
    client_token="c" * 40,
    services={
        "SSH": TcpAddress("127.0.0.1", 0),
        "APP": UnixAddress("/run/app.sock"),
        "DOOR": NoListener(),
    },
    version=ProtocolVersion.V2,
    bandwidth_bytes_per_second=1e6,
    http_proxy=HttpProxy("proxy", 3128, "user", "password", is_tls=True),
    marks=False,
    pacing=False,
    limits=Limits(max_connections=7, backoff=Backoff(0.5, 9.0)),
)
DESTINATION = TunnelConfig(
    name="any",
    mode=Mode.DESTINATION,
    endpoint=Endpoint("ws", "127.0.0.1", 1),
    access_token="a" * 90,
    services={"": TcpAddress("127.0.0.1", 22)},
    local_bind="127.0.0.2",
)
VALUES: list[Any] = [
    SOURCE,
    DESTINATION,
    {"SSH": TcpAddress("127.0.0.1", 1022)},
    {},
    events.TunnelStateChanged("t", TunnelState.BACKOFF, "why"),
    events.ServiceIdsReceived("t", ("SSH", "APP"), "channel"),
    events.ServicesMismatched("t", "no"),
    events.ListenerOpened("t", "SSH", UnixAddress("/a")),
    events.ListenerClosed("t", "SSH", "gone"),
    events.StreamOpened("t", "SSH", 3),
    events.StreamClosed("t", "SSH", 3, "peer_reset"),
    events.ConnectionOpened("t", "SSH", 3, 1, 9, "127.0.0.1:5", "alice", 17.5, "channel"),
    events.ConnectionClosed("t", "SSH", 3, 1, "closed", "peer", 9, "p", "u", 1.0, 2, 3, "c"),
    events.SessionWasReset("t"),
    ConnectStats(
        waiting=1,
        called_back={"hung": 2},
        breakers=(BreakerStatus("e", BreakerState.OPEN, 2, 12.5),),
        suspended="no lease",
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_sent_is_what_comes(value: Any) -> None:
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


def test_every_event_travels() -> None:
    shown = {type(value).__name__ for value in VALUES}
    assert set(events.__all__) - {"TunnelEvent"} <= shown


def test_a_tls_context_stays_here() -> None:
    config = replace(SOURCE, ssl_context=make_ssl_context())
    assert from_json(to_json(config)) == SOURCE


@pytest.mark.parametrize("value", [object(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), b"bytes"])
def test_nothing_else_is_sent(value: object) -> None:
    with pytest.raises(TypeError, match="does not go to another process"):
        to_json({"key": value})


@pytest.mark.parametrize(
    "value",
    [
        {"!": "Popen", "args": ["true"]},
        {"!": "TcpAddress", "host": "a"},
        {"!": "TcpAddress", "host": "a", "port": 1, "more": 2},
        {"!": "TunnelState", "is": "unheard of"},
        {"!": "TunnelState"},
        {"no": "class"},
        [{"!": 5}],
    ],
)
def test_nothing_else_is_made(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_json(value)


def nested(levels: int) -> Any:
    value: Any = "a"
    for _ in range(levels):
        value = [value]
    return value


def test_a_value_has_only_so_many_levels() -> None:
    assert from_json(nested(MAX_NESTING)) == nested(MAX_NESTING)
    for levels in (MAX_NESTING + 1, 900):
        with pytest.raises(ValueError, match="nested too deep"):
            from_json(nested(levels))
