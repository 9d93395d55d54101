"""What is measured of a tunnel, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime.bench import Bench, BenchOptions, TunnelFigures
from tunnelfleet.runtime.bench.figures import RoundTrips, rate
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.management import ManagementServer

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 0.05


@pytest.fixture
def service() -> Iterator[TunnelService]:
    with TunnelService(tls=False) as made:
        yield made


def run(**options: Any) -> tuple[TunnelFigures, list[str]]:
    told: list[str] = []
    endpoint, figures = Bench(BenchOptions(seconds=SECONDS, **options), told.append).run()
    assert endpoint in told[-1]
    return figures, told


def is_whole(figures: TunnelFigures) -> None:
    assert figures.up_bytes_per_second > 0
    assert figures.down_bytes_per_second > 0
    assert figures.connections_per_second > 0
    for trips in (figures.round_trip, figures.loaded_round_trip):
        assert 0 < trips.median_seconds <= trips.p99_seconds
        assert trips.count > 0


@pytest.mark.parametrize("tls", [True, False])
def test_without_a_service_the_embedded_one_is_measured(tls: bool) -> None:
    figures, told = run(tls=tls)
    is_whole(figures)
    assert [line.split()[0] for line in told] == ["connecting", "measuring"]
    assert all(("wss://" in line) is tls for line in told)


@pytest.mark.parametrize("services", [[], ["SSH"]])
def test_with_tokens_any_tunnel_is_measured_that_has_one_service(
    service: TunnelService, services: list[str]
) -> None:
    opened = service.open_tunnel("mine", services)
    figures, _told = run(
        endpoint=service.endpoint,
        source_token=opened.source_token,
        destination_token=opened.destination_token,
        pacing=False,
    )
    is_whole(figures)


def test_a_tunnel_with_several_services_is_a_mistake_that_says_so(service: TunnelService) -> None:
    opened = service.open_tunnel("mine", ["SSH", "HTTP"])
    with pytest.raises(TunnelError, match="one service"):
        run(
            endpoint=service.endpoint,
            source_token=opened.source_token,
            destination_token=opened.destination_token,
        )


def test_tokens_of_the_wrong_modes_are_refused_and_not_shown(service: TunnelService) -> None:
    opened = service.open_tunnel("mine", ["SSH"])
    with pytest.raises(TunnelError, match="refused") as error:
        run(
            endpoint=service.endpoint,
            source_token=opened.destination_token,
            destination_token=opened.source_token,
        )
    assert opened.source_token not in str(error.value)
    assert opened.destination_token not in str(error.value)


def test_with_a_management_api_a_tunnel_is_opened_and_deleted(
    service: TunnelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    with ManagementServer(service) as management:
        figures, told = run(endpoint=service.endpoint, management=management.url)
        is_whole(figures)
        assert "deleted" in told[0]
        assert service.tunnels() == []


def test_a_management_api_that_is_not_there_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(TunnelError, match="management API: Could not connect"):
        run(endpoint="ws://127.0.0.1:1", management="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seconds": 0.0}, "--seconds is 0: give 0.05 to 600"),
        ({"seconds": float("nan")}, "--seconds is nan"),
        ({"source_token": "t"}, "two tokens, and one was given"),
        ({"destination_token": "t"}, "two tokens, and one was given"),
        ({"source_token": "s", "destination_token": "d"}, "no service: give --endpoint"),
        ({"management": "http://h"}, "no service: give --endpoint"),
        ({"endpoint": "h"}, "no way in"),
        ({"region": "eu-west-1"}, "no way in"),
        ({"ca": Path("ca.pem")}, "no way in"),
        (
            {"source_token": "s", "destination_token": "d", "endpoint": "h", "region": "r"},
            "exclude each other",
        ),
        (
            {"source_token": "s", "destination_token": "d", "management": "aws", "region": "r"},
            "leave the tokens out",
        ),
    ],
)
def test_options_that_do_not_go_together_are_a_mistake(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        BenchOptions(**options)


def test_tokens_are_in_no_repr() -> None:
    options = BenchOptions(endpoint="h", source_token="secret-s", destination_token="secret-d")
    assert "secret" not in repr(options)


def test_the_lines_are_for_a_terminal_of_80_columns() -> None:
    trips = RoundTrips.of([1.0, 2.0, 1000.0])
    figures = TunnelFigures(123_456_789.0, 98_400.0, trips, trips, 12_345.6)
    lines = figures.lines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("123.5 MB/s")
    assert lines[1].endswith("98.4 kB/s")
    assert lines[-1].endswith("12346 a second")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 B/s"), (999.0, "999 B/s"), (2.5e9, "2.5 GB/s")]
)
def test_a_rate_is_readable(value: float, text: str) -> None:
    assert rate(value) == text
