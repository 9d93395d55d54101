"""A tunnel that every start opens, opened on a service that runs: its clients came back before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.service_client import CLIENT_TOKEN, EventLog, TunnelClient
from tests.support.waiting import eventually
from tests.support.wire import data, stream_start
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.service import ServiceEventKind, TunnelService
from tunnelfleet.runtime.service.state import StateStore
from tunnelfleet.runtime.service.tunnels import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime.service import TunnelTokens

NAME = "press-4"
BANDWIDTH = 125_000.0


def open_it(
    service: TunnelService, services: tuple[str, ...] = ("SSH",), bandwidth: float | None = None
) -> TunnelTokens:
    return service.open_tunnel(
        NAME, services, bandwidth_bytes_per_second=bandwidth, origin=Origin.START
    )


@pytest.fixture
def former(tmp_path: Path) -> TunnelTokens:
    """What an earlier process gave out, of which the source was used."""
    store = StateStore(tmp_path)
    with TunnelService(tls=False, keeper=store) as service:
        tokens = open_it(service)
        TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN).close()
    store.close()
    return tokens


@pytest.fixture
def started(former: TunnelTokens, tmp_path: Path, events: EventLog) -> Iterator[TunnelService]:
    """The service as it is started anew; it has opened nothing yet."""
    del former  # made before this one starts
    store = StateStore(tmp_path)
    with TunnelService(tls=False, keeper=store, on_event=events) as service:
        yield service
    store.close()


@pytest.fixture
def back(started: TunnelService, former: TunnelTokens) -> Iterator[TunnelClient]:
    """The source, which is back with the token that it had."""
    client = TunnelClient(started, Mode.SOURCE, former.source_token, CLIENT_TOKEN)
    yield client
    client.close()


class TestClientsThatCameBackBeforeTheirTunnelWasOpened:
    def test_they_stay_and_meet_whoever_connects_then(
        self, started: TunnelService, back: TunnelClient
    ) -> None:
        tokens = open_it(started)
        assert started.tunnel(NAME).source_connected
        destination = TunnelClient(started, Mode.DESTINATION, tokens.destination_token)
        back.send(stream_start(), data(b"hello"))
        assert destination.message() == stream_start()
        assert destination.message() == data(b"hello")
        destination.close()

    def test_they_are_within_reach_of_a_rotation(
        self, started: TunnelService, back: TunnelClient
    ) -> None:
        open_it(started)
        started.rotate(NAME, Mode.SOURCE)
        back.assert_ended()
        eventually(lambda: not started.tunnel(NAME).source_connected)

    def test_they_are_disconnected_when_it_is_closed(
        self, started: TunnelService, back: TunnelClient
    ) -> None:
        open_it(started)
        started.close_tunnel(NAME)
        back.assert_ended()

    def test_they_come_back_once_more_for_other_services(
        self, started: TunnelService, back: TunnelClient, former: TunnelTokens
    ) -> None:
        open_it(started, ("SSH", "HTTP"))
        back.assert_ended()
        again = TunnelClient(
            started, Mode.SOURCE, former.source_token, CLIENT_TOKEN, announced=False
        )
        assert again.message().available_service_ids == ("SSH", "HTTP")
        again.close()

    def test_its_bandwidth_is_the_one_that_was_given_last(
        self, started: TunnelService, back: TunnelClient, events: EventLog
    ) -> None:
        open_it(started, bandwidth=BANDWIDTH)
        told = events.wait(ServiceEventKind.THROTTLED)
        assert told.detail == f"{BANDWIDTH:g} bytes/s"
        back.assert_quiet()

    def test_one_that_cannot_be_opened_so_changes_nothing(
        self, started: TunnelService, back: TunnelClient
    ) -> None:
        open_it(started)
        with pytest.raises(ConfigError, match="is open already"):
            open_it(started, ("HTTP",), BANDWIDTH)
        assert started.tunnel(NAME).services == ("SSH",)
        assert started.tunnel(NAME).source_connected
        back.assert_quiet()


def test_a_bandwidth_that_a_start_does_not_give_any_more_is_lifted(
    tmp_path: Path, events: EventLog
) -> None:
    store = StateStore(tmp_path)
    with TunnelService(tls=False, keeper=store) as service:
        open_it(service, bandwidth=BANDWIDTH)
    store.close()
    store = StateStore(tmp_path)
    with TunnelService(tls=False, keeper=store, on_event=events) as service:
        assert events.wait(ServiceEventKind.THROTTLED).detail == f"{BANDWIDTH:g} bytes/s"
        open_it(service)
        assert events.wait(ServiceEventKind.THROTTLED, count=2).detail == "off"
    store.close()
