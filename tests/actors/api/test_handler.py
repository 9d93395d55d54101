"""TunnelApi: which error a command gets, and what goes to the wire, without any socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.api.handler import TunnelApi
from tunnelfleet.actors.api.messages import Outgoing
from tunnelfleet.actors.api.outbox import Outbox
from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, Limits, TunnelConfig
from tunnelfleet.actors.tunnel.context import ApiShell
from tunnelfleet.actors.tunnel.messages import ConnectionKey, OpenLocal
from tunnelfleet.proto import (
    ConfigError,
    Endpoint,
    Message,
    MessageType,
    Mode,
    NotConnected,
    Opened,
    PayloadTooLarge,
    ServiceIdUnknown,
    Session,
    TooManyConnections,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeSender:
    def __init__(self) -> None:
        self.data_sent: list[tuple[ConnectionKey, bytes]] = []
        self.controls: list[tuple[Message, ConnectionKey | None]] = []
        self.messages_left: dict[ConnectionKey, int] = {}

    def messages(self, key: ConnectionKey, messages: list[bytes], _now: float) -> None:
        self.data_sent += [(key, each) for each in messages]

    def control(self, message: Message, key: ConnectionKey | None = None) -> None:
        self.controls.append((message, key))


class Outcome:
    def __init__(self) -> None:
        self.outcomes: list[tuple[Exception | None, Any]] = []

    def settle(self, error: Exception | None, result: Any) -> None:
        self.outcomes.append((error, result))


class Setting:
    """A source with A for the API and B for a socket."""

    def __init__(self, threads: RelayThreads) -> None:
        self.session = Session(Mode.SOURCE)
        self.wire = FakeSender()
        self.has_room = True
        self.max_connections = 7
        self.told: list[Any] = []
        config = TunnelConfig(
            name="t",
            mode=Mode.SOURCE,
            endpoint=Endpoint.parse("ws://localhost"),
            access_token="token",
            services={"B": TcpAddress("127.0.0.1", 0), ANY_SERVICE: ApiService()},
        )
        self.port = Outbox("t", Limits(), threads.queue("t", lambda _event: None, 10**6))
        shell = ApiShell(
            self,  # type: ignore[arg-type]
            self.session,
            self.wire,  # type: ignore[arg-type]
            self.adopt,
            lambda _events: None,
            lambda: self.has_room,
            lambda: self.max_connections,
        )
        self.api = TunnelApi(self.port, config, shell)

    def tell(self, message: Any) -> None:
        self.told.append(message)

    def adopt(self, opened: Opened, key: ConnectionKey) -> None:
        stream = self.api.open_stream(opened.service_id)
        ids = (opened.service_id, opened.stream_id, opened.connection_id)
        stream.tell(OpenLocal(ConnectionKey(*ids, 1), None))
        for message in opened.messages:
            self.wire.control(message, key)

    def connect(self) -> None:
        self.session.connected()
        self.session.receive(Message(MessageType.SERVICE_IDS, available_service_ids=("A", "B")))

    def command(self, kind: MessageType, service_id: str, *more: Any) -> Outcome:
        outcome = Outcome()
        entry = Outgoing(kind, service_id, *(more or (None,)))
        entry.waiter = outcome
        self.port.submit([entry], 0)
        self.api.take_commands()
        return outcome


@pytest.fixture
def setting() -> Iterator[Setting]:
    threads = RelayThreads()
    yield Setting(threads)
    threads.close(5.0)


def error_of(outcome: Outcome) -> type[Exception]:
    ((error, _result),) = outcome.outcomes
    return type(error)  # type: ignore[return-value]


def test_which_services_are_its_own(setting: Setting) -> None:
    assert setting.api.serves("A")
    assert setting.api.serves("never heard of")
    assert not setting.api.serves("B")


def test_errors(setting: Setting) -> None:
    data, start = MessageType.DATA, MessageType.STREAM_START
    assert error_of(setting.command(start, "A")) is NotConnected
    setting.connect()
    assert error_of(setting.command(start, "C")) is ServiceIdUnknown
    assert error_of(setting.command(start, "B")) is ConfigError
    setting.has_room = False
    ((refused, _result),) = setting.command(start, "A").outcomes
    # The limit as it is now: a running tunnel may get another one.
    assert isinstance(refused, TooManyConnections)
    assert refused.max_connections == setting.max_connections
    setting.has_room = True
    assert setting.command(start, "A").outcomes == []
    assert error_of(setting.command(data, "A", 1, bytes(64_513))) is PayloadTooLarge
    assert setting.wire.data_sent == []


def test_a_start_is_done_when_it_was_written(setting: Setting) -> None:
    setting.connect()
    outcome = setting.command(MessageType.STREAM_START, "A")
    ((message, key),) = setting.wire.controls
    assert message.type is MessageType.STREAM_START
    assert key is not None
    assert outcome.outcomes == []
    setting.wire.messages_left = {key: 1}
    setting.api.on_written()
    assert outcome.outcomes == [(None, 1)]


def test_data_is_done_when_it_was_written(setting: Setting) -> None:
    setting.connect()
    setting.command(MessageType.STREAM_START, "A")
    named = setting.command(MessageType.DATA, "A", 1, b"x")
    unnamed = setting.command(MessageType.DATA, "A", None, b"")
    ((key, _), (_, last)) = setting.wire.data_sent
    assert last == b""
    setting.api.on_taken(key, 1)
    setting.wire.messages_left = {key: 1}
    setting.api.on_written()
    assert named.outcomes == [(None, None)]
    assert unnamed.outcomes == []
    error = NotConnected()
    setting.api.on_lost(error)
    assert unnamed.outcomes == [(error, None)]
    assert setting.port.messages_in_flight == 0


def test_an_end_that_needs_no_message_is_done_at_once(setting: Setting) -> None:
    setting.connect()
    setting.command(MessageType.STREAM_START, "A")
    reset = setting.command(MessageType.CONNECTION_RESET, "A", 1)
    (ended,) = setting.told
    setting.api.on_end_taken(ended.key, is_sent=False)
    assert reset.outcomes == [(None, None)]
