"""The handle on a tunnel shows what is there, waits for what comes, keeps tokens to itself."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Rig, echo
from tunnelfleet.runtime import Mode, TunnelState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.rig import Pair


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig(tls=False) as running:
        yield running


@pytest.fixture
def pair(rig: Rig) -> Pair:
    return rig.pair({"SSH": rig.backends.echo().address})


def test_a_status_counts_what_travelled(rig: Rig, pair: Pair) -> None:
    with pair.connect("SSH") as sock:
        assert echo(sock, b"hello") == b"hello"
        source, destination = pair.source.status(), pair.destination.status()
    for status in (source, destination):
        assert (status.sent_bytes, status.received_bytes) == (5, 5)
        assert (status.streams_opened, status.connections_opened) == (1, 1)
        assert status.service_ids == ("SSH",)
        assert status.channel_id
    assert source.mode is Mode.SOURCE
    assert source.listening == {"SSH": (str(pair.address("SSH")),)}
    assert destination.listening == {}
    assert source.since <= destination.since + 60


def test_a_status_is_a_snapshot(pair: Pair) -> None:
    status = pair.source.status()
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.state = TunnelState.STOPPED  # type: ignore[misc]


def test_nothing_of_it_shows_a_token(pair: Pair) -> None:
    shown = f"{pair.source!r} {pair.source.status()!r} {pair.source.config!r}"
    for token in (pair.tokens.source_token, pair.tokens.destination_token):
        assert token not in shown


def test_waiting_says_what_it_is_instead_and_why(rig: Rig, pair: Pair) -> None:
    with pytest.raises(TimeoutError, match=r"is not refused after 0\.05 s: it is connected"):
        pair.source.wait_for(TunnelState.REFUSED, 0.05)
    with pytest.raises(TimeoutError, match=r"not backoff or refused"):
        pair.source.wait_for({TunnelState.REFUSED, TunnelState.BACKOFF}, 0.05)
    with pytest.raises(TimeoutError, match="does not listen for 'HTTP'"):
        pair.source.wait_listening("HTTP", 0.05)


def test_a_closed_tunnel_keeps_its_last_status(rig: Rig, pair: Pair) -> None:
    status = rig.runtime.close_tunnel(pair.source.name)
    assert status.state is TunnelState.STOPPED
    assert pair.source.status().state is TunnelState.STOPPED
