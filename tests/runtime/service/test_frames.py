"""Who may send what."""

from __future__ import annotations

import pytest

from tunnelfleet.proto import (
    Message,
    MessageType,
    Mode,
    RemoteProtocolError,
)
from tunnelfleet.runtime.service.rules import check_message

ALLOWED = {
    MessageType.DATA: {Mode.SOURCE, Mode.DESTINATION},
    MessageType.STREAM_START: {Mode.SOURCE},
    MessageType.STREAM_RESET: {Mode.SOURCE, Mode.DESTINATION},
    MessageType.CONNECTION_START: {Mode.SOURCE},
    MessageType.CONNECTION_RESET: {Mode.SOURCE, Mode.DESTINATION},
    MessageType.SERVICE_IDS: set(),
    MessageType.SESSION_RESET: set(),
    MessageType.UNKNOWN: set(),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kind", list(MessageType))
def test_who_may_send_what(kind: MessageType, mode: Mode) -> None:
    message = Message(kind, 1, service_id="SSH", connection_id=1)
    if mode in ALLOWED[kind]:
        assert check_message(message, mode)
    else:
        with pytest.raises(RemoteProtocolError, match=kind.name):
            check_message(message, mode)


def test_negative_stream_ids_are_legal_and_0_is_not() -> None:
    assert check_message(Message(MessageType.STREAM_START, -1), Mode.SOURCE)
    with pytest.raises(RemoteProtocolError, match="stream id 0"):
        check_message(Message(MessageType.STREAM_START, 0), Mode.SOURCE)


def test_an_unknown_type_is_skipped_if_ignorable() -> None:
    assert not check_message(Message(42, ignorable=True), Mode.SOURCE)
    assert not check_message(Message(MessageType.UNKNOWN, ignorable=True), Mode.SOURCE)
    with pytest.raises(RemoteProtocolError, match="42"):
        check_message(Message(42), Mode.SOURCE)
