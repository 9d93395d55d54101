"""Events: equal only to their own kind, and silent about payloads."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from tunnelfleet.proto import (
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    DropReason,
    Event,
    MessageDropped,
    MessageType,
    SessionReset,
)


def test_events_of_different_kinds_differ() -> None:
    assert ConnectionStarted("SSH", 1, 2) != ConnectionReset("SSH", 1, 2)
    assert SessionReset() == SessionReset()


def test_events_cannot_be_changed() -> None:
    event = MessageDropped(MessageType.DATA, DropReason.STALE_STREAM)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.reason = DropReason.IGNORABLE  # type: ignore[misc]


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_events_carry_no_dictionary(kind: type) -> None:
    assert "__slots__" in vars(kind)


def test_repr_of_data_shows_the_length_only() -> None:
    event = DataReceived("SSH", 1, 2, b"secret")
    assert repr(event) == (
        "DataReceived(service_id='SSH', stream_id=1, connection_id=2, payload=<6 bytes>)"
    )
