"""The events that people get."""

from __future__ import annotations

import dataclasses

import pytest

from tunnelfleet.actors import events
from tunnelfleet.actors.events import StreamClosed, TunnelEvent, TunnelState, TunnelStateChanged

TYPES = [getattr(events, name) for name in events.__all__]


@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.__name__)
def test_every_event_names_its_tunnel_first_and_holds_no_secret(type_: type[TunnelEvent]) -> None:
    assert issubclass(type_, TunnelEvent)
    names = [field.name for field in dataclasses.fields(type_)]
    assert names[0] == "tunnel"
    assert not {"access_token", "client_token", "payload", "data"} & set(names)


def test_an_event_cannot_be_changed() -> None:
    event = TunnelStateChanged("press-4", TunnelState.BACKOFF, "lost")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.reason = "other"  # type: ignore[misc]


def test_equal_events_are_equal() -> None:
    assert StreamClosed("a", "SSH", 1, "peer_reset") == StreamClosed("a", "SSH", 1, "peer_reset")
    assert StreamClosed("a", "SSH", 1, "peer_reset") != StreamClosed("b", "SSH", 1, "peer_reset")
