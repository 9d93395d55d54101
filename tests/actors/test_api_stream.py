"""ApiStream: what it tells the user for what TunnelActor tells it."""

from __future__ import annotations

from typing import Any

import pytest

from tunnelfleet.actors.api_events import (
    ApiEvent,
    ConnectionReset,
    ConnectionStarted,
    Message,
    MessageReceived,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.actors.api_stream import ApiStream, OpenConnections
from tunnelfleet.actors.messages import (
    ConnectionEnded,
    ConnectionKey,
    DeliverTo,
    OpenLocal,
    RemoteEndedFor,
    StopReadingLocal,
    StopStream,
)
from tunnelfleet.proto import Mode, ProtocolVersion

V2, V3 = ProtocolVersion.V2, ProtocolVersion.V3


class Port:
    name = "t"

    def __init__(self) -> None:
        self.events: list[ApiEvent] = []
        self.active_services: set[str] = set()

    def emit(self, event: ApiEvent, _payload_bytes: int = 0) -> None:
        self.events.append(event)


class Tunnel:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, message: Any) -> None:
        self.told.append(message)


class Setting:
    def __init__(self, version: ProtocolVersion = V3, mode: Mode = Mode.DESTINATION) -> None:
        self.port, self.tunnel = Port(), Tunnel()
        self.open: OpenConnections = {}
        self.stream = ApiStream(
            "SSH",
            7,
            3,
            version=version,
            mode=mode,
            tunnel=self.tunnel,  # type: ignore[arg-type]
            port=self.port,  # type: ignore[arg-type]
            open_connections=self.open,
        )

    def tell(self, *messages: Any) -> list[ApiEvent]:
        self.port.events.clear()
        for message in messages:
            self.stream.tell(message)
        return self.port.events


def ended(connection_id: int, reason: str) -> ConnectionEnded:
    return ConnectionEnded(ConnectionKey("SSH", 7, connection_id, 3), reason, gone=True)


def test_starts_are_told_to_a_destination() -> None:
    setting = Setting()
    assert setting.tell(OpenLocal(1, None), OpenLocal(2, None)) == [
        StreamStarted("t", "SSH", 1),
        ConnectionStarted("t", "SSH", 2),
    ]
    assert set(setting.open) == {("SSH", 1), ("SSH", 2)}
    assert setting.port.active_services == {"SSH"}


def test_a_source_knows_what_it_started() -> None:
    setting = Setting(mode=Mode.SOURCE)
    assert setting.tell(OpenLocal(1, None)) == []
    assert set(setting.open) == {("SSH", 1)}


def test_bytes_are_messages_of_open_connections() -> None:
    setting = Setting()
    setting.tell(OpenLocal(1, None))
    assert setting.tell(DeliverTo(1, b"x"), DeliverTo(2, b"y")) == [
        MessageReceived("t", Message(b"x", "SSH", 1))
    ]


@pytest.mark.parametrize(
    ("version", "event"),
    [(V3, ConnectionReset("t", "SSH", 1)), (V2, StreamStopped("t", "SSH"))],
)
def test_an_end_of_the_peer_is_answered_at_once(version: ProtocolVersion, event: ApiEvent) -> None:
    setting = Setting(version)
    setting.tell(OpenLocal(1, None))
    assert setting.tell(RemoteEndedFor(1, False), RemoteEndedFor(1, True)) == [event]
    assert setting.tunnel.told == [ended(1, "ended by the peer")]
    assert setting.open == {}
    expected = [StreamStopped("t", "SSH")] if version is V3 else []
    assert setting.tell(StopStream(False)) == expected
    assert setting.port.active_services == set()


def test_the_end_of_the_stream_ends_its_connections() -> None:
    setting = Setting()
    setting.tell(OpenLocal(1, None), OpenLocal(2, None))
    assert setting.tell(StopStream(True)) == [StreamStopped("t", "SSH")]
    assert setting.tunnel.told == [ended(1, ""), ended(2, "")]
    assert setting.open == {}


def test_a_stop_ends_connections_behind_their_bytes() -> None:
    setting = Setting()
    setting.tell(OpenLocal(1, None))
    assert setting.tell(StopReadingLocal()) == []
    assert setting.tunnel.told == [ended(1, "the tunnel is stopping")]


def test_the_user_ends_a_connection_once() -> None:
    setting = Setting()
    setting.tell(OpenLocal(1, None))
    assert setting.stream.end(1)
    assert not setting.stream.end(1)
    assert setting.tunnel.told == [ended(1, "ended by this side")]


def test_a_successor_with_the_same_ids_is_not_touched() -> None:
    setting = Setting()
    setting.tell(OpenLocal(1, None))
    successor = setting.open["SSH", 1]._replace(serial=4)
    setting.open["SSH", 1] = successor
    setting.tell(StopStream(True))
    assert setting.open == {("SSH", 1): successor}
