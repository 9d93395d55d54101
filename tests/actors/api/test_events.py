"""The events of the client API: frozen, named after their tunnel, silent about payloads."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from tunnelfleet.actors.api import messages as api_events
from tunnelfleet.actors.api.messages import ApiEvent, Message, MessageReceived
from tunnelfleet.actors.events import TunnelEvent

KINDS = [getattr(api_events, name) for name in api_events.__all__ if name != "Message"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_names_its_tunnel_and_does_not_change(kind: type[ApiEvent]) -> None:
    assert issubclass(kind, TunnelEvent)
    assert fields(kind)[0].name == "tunnel"
    event = kind(*["x"] * len(fields(kind)))
    with pytest.raises(FrozenInstanceError):
        event.tunnel = "y"  # type: ignore[misc]


def test_no_payload_is_shown() -> None:
    event = MessageReceived("t", Message(b"secret", "SSH", 1))
    assert "secret" not in repr(event)
    assert "SSH" in repr(event)


def test_messages_are_equal_by_content() -> None:
    assert Message(b"x", "SSH", 1) == Message(b"x", "SSH", 1)
    assert Message(b"x", "SSH", 1) != Message(b"y", "SSH", 1)
