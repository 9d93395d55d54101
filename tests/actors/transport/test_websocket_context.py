"""What a tunnel's attempts ask for: its own settings before shared ones, its tokens of now."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from tests.support.fakes import make_config
from tunnelfleet.actors.addresses import HttpProxy
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.transport.attempt import WebSocketContext
from tunnelfleet.actors.tunnel.context import Credentials
from tunnelfleet.proto import Endpoint, Mode

CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"
OWN, SHARED = (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2))


def make_context(
    shared: ssl.SSLContext | None = None,
    credentials: Credentials | None = None,
    **settings: Any,
) -> WebSocketContext:
    nobody: Any = None
    return WebSocketContext(
        config=make_config(Mode.SOURCE, **settings),
        credentials=credentials or Credentials("access", CLIENT_TOKEN),
        tunnel=nobody,
        governor=nobody,
        supervisor=nobody,
        connector=nobody,
        ssl_context=shared,
        stats=nobody,
    )


def test_a_request_holds_what_the_tunnel_is_set_to() -> None:
    endpoint, proxy = Endpoint("wss", "tunnels.example", 443), HttpProxy("proxy.example", 3128)
    request = make_context(
        endpoint=endpoint,
        http_proxy=proxy,
        user_agent="test/1",
        limits=Limits(connect_timeout_seconds=7.0),
    ).connect_request()
    assert (request.endpoint, request.mode) == (endpoint, Mode.SOURCE)
    assert (request.access_token, request.client_token) == ("access", CLIENT_TOKEN)
    assert request.http_proxy == proxy
    assert (request.user_agent, request.timeout_seconds) == ("test/1", 7.0)


def test_permits_are_shared_over_what_is_connected_to() -> None:
    endpoint, proxy = Endpoint("wss", "tunnels.example", 443), HttpProxy("proxy.example", 3128)
    direct = make_context(endpoint=endpoint).config.permit_group
    by_proxy = make_context(endpoint=endpoint, http_proxy=proxy).config.permit_group
    assert direct == "wss://tunnels.example"
    assert by_proxy == "wss://tunnels.example by proxy.example:3128", "a dead proxy is its own"


@pytest.mark.parametrize(
    ("own", "shared", "used"),
    [(None, None, None), (None, SHARED, SHARED), (OWN, None, OWN), (OWN, SHARED, OWN)],
    ids=["neither", "the shared one", "its own", "its own before the shared one"],
)
def test_the_ssl_context_that_is_used(
    own: ssl.SSLContext | None, shared: ssl.SSLContext | None, used: ssl.SSLContext | None
) -> None:
    assert make_context(shared, ssl_context=own).connect_request().ssl_context is used


def test_the_tokens_are_those_of_the_moment() -> None:
    credentials = Credentials("access", CLIENT_TOKEN)
    context = make_context(credentials=credentials)
    credentials.replace("other", "f" * 32)
    request = context.connect_request()
    assert (request.access_token, request.client_token) == ("other", "f" * 32)
