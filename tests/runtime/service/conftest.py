"""Fixtures of the service's tests: a plain service, a tunnel, and clients that are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.service_client import EventLog, TunnelClient
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.runtime.service import TunnelTokens


@pytest.fixture
def events() -> EventLog:
    return EventLog()


@pytest.fixture
def service(events: EventLog) -> Iterator[TunnelService]:
    with TunnelService(tls=False, on_event=events) as running:
        yield running


@pytest.fixture
def tokens(service: TunnelService) -> TunnelTokens:
    return service.open_tunnel("press-4", ["SSH", "HTTP"])


@pytest.fixture
def connect(service: TunnelService) -> Iterator[Callable[..., TunnelClient]]:
    """Return a function that connects a client, which is closed after the test."""
    clients: list[TunnelClient] = []

    def make(tokens: TunnelTokens, mode: Mode, client_token: str | None = None) -> TunnelClient:
        token = tokens.source_token if mode is Mode.SOURCE else tokens.destination_token
        clients.append(TunnelClient(service, mode, token, client_token))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def source(connect: Callable[..., TunnelClient], tokens: TunnelTokens) -> TunnelClient:
    return connect(tokens, Mode.SOURCE)


@pytest.fixture
def destination(connect: Callable[..., TunnelClient], tokens: TunnelTokens) -> TunnelClient:
    return connect(tokens, Mode.DESTINATION)
