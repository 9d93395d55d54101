"""ApiStream: what it tells the user for what TunnelActor tells it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fakes import FakeRef
from tunnelfleet.actors.api.handler import ApiStream, OpenConnections
from tunnelfleet.actors.api.messages import (
    ApiEvent,
    ConnectionReset,
    ConnectionStarted,
    InputEnded,
    Message,
    MessageReceived,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.actors.tunnel.messages import (
    ConnectionKey,
    Deliver,
    EndTold,
    LocalClosed,
    OpenLocal,
    RemoteEnded,
    StopReadingLocal,
    StopStream,
)
from tunnelfleet.proto import AbnormalEnd, End, Mode, ProtocolVersion, TunnelClosed

V2, V3 = ProtocolVersion.V2, ProtocolVersion.V3
KEY, SECOND = ConnectionKey("SSH", 7, 1, 3), ConnectionKey("SSH", 7, 2, 4)


class FakeOutbox:
    name = "t"

    def __init__(self, *, half_close: bool) -> None:
        self.half_close = half_close
        self.events: list[ApiEvent] = []
        self.behind_callbacks: list[Any] = []
        self.active_services: set[str] = set()
        self.admitted: list[ConnectionKey] = []

    def admit_in_turn(self, key: ConnectionKey) -> None:
        self.admitted.append(key)

    def emit(self, event: ApiEvent, _payload_bytes: int = 0) -> None:
        self.events.append(event)

    def after_callbacks(self, message: Any) -> None:
        self.behind_callbacks.append(message)


class Setting:
    def __init__(
        self,
        version: ProtocolVersion = V3,
        mode: Mode = Mode.DESTINATION,
        *,
        half_close: bool = False,
    ) -> None:
        self.outbox, self.tunnel = FakeOutbox(half_close=half_close), FakeRef()
        self.open: OpenConnections = {}
        self.stream = ApiStream(
            "SSH",
            version=version,
            mode=mode,
            tunnel=self.tunnel,  # type: ignore[arg-type]
            outbox=self.outbox,  # type: ignore[arg-type]
            open_connections=self.open,
        )

    def tell(self, *messages: Any) -> list[ApiEvent]:
        self.outbox.events.clear()
        for message in messages:
            self.stream.tell(message)
            self.admit()
        return self.outbox.events

    def admit(self) -> None:
        """The callbacks before the news of a connection have returned."""
        admitted, self.outbox.admitted = self.outbox.admitted, []
        for key in admitted:
            self.stream.admit(key)


def ended(key: ConnectionKey, reason: str, *, is_orderly: bool = True) -> LocalClosed:
    return LocalClosed(key, reason, is_orderly)


def errors(events: list[ApiEvent]) -> list[tuple[str, str]]:
    """The types of events and the texts of their errors, which have no equality."""
    found = []
    for event in events:
        error = event.error  # type: ignore[attr-defined]
        assert isinstance(error, AbnormalEnd)
        found.append((type(event).__name__, str(error)))
    return found


def test_starts_are_told_to_a_destination() -> None:
    setting = Setting()
    assert setting.tell(OpenLocal(KEY, None), OpenLocal(SECOND, None)) == [
        StreamStarted("t", "SSH", 1),
        ConnectionStarted("t", "SSH", 2),
    ]
    assert set(setting.open) == {("SSH", 1), ("SSH", 2)}
    assert setting.outbox.active_services == {"SSH"}


def test_commands_reach_a_connection_once_its_user_is_told_of_it() -> None:
    setting = Setting()
    setting.stream.tell(OpenLocal(KEY, None))
    assert setting.open == {}
    setting.admit()
    assert setting.open == {("SSH", 1): KEY}


def test_a_connection_that_has_ended_meanwhile_is_not_opened_to_commands() -> None:
    setting = Setting()
    setting.stream.tell(OpenLocal(KEY, None))
    setting.stream.end(KEY)
    setting.admit()
    assert setting.open == {}


def test_a_source_knows_what_it_started() -> None:
    setting = Setting(mode=Mode.SOURCE)
    assert setting.tell(OpenLocal(KEY, None)) == []
    assert set(setting.open) == {("SSH", 1)}


def test_bytes_are_messages_of_open_connections() -> None:
    setting = Setting()
    setting.tell(OpenLocal(KEY, None))
    assert setting.tell(Deliver(KEY, b"x"), Deliver(SECOND, b"y")) == [
        MessageReceived("t", Message(b"x", "SSH", 1))
    ]


EACH_VERSION = pytest.mark.parametrize(
    ("version", "event"),
    [(V3, ConnectionReset("t", "SSH", 1)), (V2, StreamStopped("t", "SSH"))],
)


@EACH_VERSION
def test_an_orderly_end_of_the_peer_is_answered_once_the_callbacks_have_returned(
    version: ProtocolVersion, event: ApiEvent
) -> None:
    """Until then the user may send, in the callback too."""
    setting = Setting(version)
    setting.tell(OpenLocal(KEY, None))
    assert setting.tell(RemoteEnded(KEY, End.ORDERLY, "closed by the peer")) == [event]
    assert setting.open == {("SSH", 1): KEY}
    assert setting.tunnel.told == []
    assert setting.outbox.behind_callbacks == [EndTold(KEY)]
    setting.stream.end(KEY)
    assert setting.tunnel.told == [ended(KEY, "ended by this side")]
    assert setting.open == {}
    expected = [StreamStopped("t", "SSH")] if version is V3 else []
    assert setting.tell(StopStream(None)) == expected
    assert setting.outbox.active_services == set()


@EACH_VERSION
def test_an_end_of_both_directions_has_no_error_and_is_answered_at_once(
    version: ProtocolVersion, event: ApiEvent
) -> None:
    """Nobody can tell whether it was in good order; nothing can be sent any more."""
    setting = Setting(version, half_close=True)
    setting.tell(OpenLocal(KEY, None))
    both = RemoteEnded(KEY, End.BOTH, "closed by the peer")
    assert setting.tell(both, both) == [event]
    assert setting.tunnel.told == [ended(KEY, "closed by the peer")]
    assert setting.outbox.behind_callbacks == []
    assert setting.open == {}


@pytest.mark.parametrize(("version", "kind"), [(V3, "ConnectionReset"), (V2, "StreamStopped")])
@pytest.mark.parametrize("half_close", [True, False])
def test_an_abnormal_end_has_an_error(
    version: ProtocolVersion, kind: str, half_close: bool
) -> None:
    setting = Setting(version, half_close=half_close)
    setting.tell(OpenLocal(KEY, None))
    cut = RemoteEnded(KEY, End.CUT, "reset by the peer")
    assert errors(setting.tell(cut, cut)) == [(kind, "reset by the peer")]
    assert setting.tunnel.told == [ended(KEY, "reset by the peer")]
    assert setting.open == {}


@pytest.mark.parametrize("version", [V2, V3])
def test_with_half_close_an_orderly_end_leaves_the_connection_to_the_user(
    version: ProtocolVersion,
) -> None:
    setting = Setting(version, half_close=True)
    setting.tell(OpenLocal(KEY, None))
    orderly = RemoteEnded(KEY, End.ORDERLY, "closed by the peer")
    assert setting.tell(orderly) == [InputEnded("t", "SSH", 1)]
    assert setting.open == {("SSH", 1): KEY}
    assert (setting.tunnel.told, setting.outbox.behind_callbacks) == ([], [])
    assert setting.outbox.active_services == {"SSH"}
    setting.stream.end(KEY)
    assert setting.tunnel.told == [ended(KEY, "ended by this side")]


def test_what_is_cut_after_its_input_has_ended_is_told_so(setting_of_half_close: Setting) -> None:
    setting = setting_of_half_close
    setting.tell(RemoteEnded(KEY, End.ORDERLY, "closed by the peer"))
    cut = RemoteEnded(KEY, End.CUT, "reset by the peer")
    assert errors(setting.tell(cut)) == [("ConnectionReset", "reset by the peer")]
    assert setting.open == {}


@pytest.fixture
def setting_of_half_close() -> Setting:
    setting = Setting(half_close=True)
    setting.tell(OpenLocal(KEY, None))
    return setting


def test_the_end_of_the_stream_ends_its_connections(setting_of_half_close: Setting) -> None:
    setting = setting_of_half_close
    setting.tell(OpenLocal(SECOND, None))
    assert setting.tell(StopStream(None)) == [StreamStopped("t", "SSH")]
    assert setting.tunnel.told == [
        ended(KEY, "", is_orderly=False),
        ended(SECOND, "", is_orderly=False),
    ]
    assert setting.open == {}
    assert setting.tell(StopStream(None)) == [], "once"


def test_a_stream_that_was_cut_has_an_error(setting_of_half_close: Setting) -> None:
    error = AbnormalEnd("the tunnel lost its connection")
    assert setting_of_half_close.tell(StopStream(error)) == [StreamStopped("t", "SSH", error)]


def test_a_stop_ends_connections_behind_their_bytes_and_not_in_good_order() -> None:
    """A user has not said that this was all."""
    setting = Setting()
    setting.tell(OpenLocal(KEY, None))
    assert setting.tell(StopReadingLocal()) == []
    assert setting.tunnel.told == [ended(KEY, "the tunnel is stopping", is_orderly=False)]


@pytest.mark.parametrize("version", [V2, V3])
def test_a_stop_while_a_connection_is_open_is_told_as_one(version: ProtocolVersion) -> None:
    """The peer may have had more to send: without an error it would look like all."""
    setting = Setting(version)
    setting.tell(OpenLocal(KEY, None))
    (event,) = setting.tell(StopReadingLocal(), StopStream(None))
    assert isinstance(event, StreamStopped)
    assert isinstance(event.error, TunnelClosed)
    assert "stopped here" in str(event.error)


@pytest.mark.parametrize("has_ended", ["told", "ended", "before"])
def test_a_stop_of_a_stream_whose_connections_have_ended_has_no_error(has_ended: str) -> None:
    setting = Setting()
    setting.tell(OpenLocal(KEY, None))
    if has_ended == "told":
        setting.tell(RemoteEnded(KEY, End.ORDERLY, "closed by the peer"))
    elif has_ended == "ended":
        setting.stream.end(KEY)
    else:
        setting.tell(RemoteEnded(KEY, End.BOTH, "closed by the peer"))
    assert setting.tell(StopReadingLocal(), StopStream(None)) == [StreamStopped("t", "SSH")]


def test_what_else_cut_the_stream_is_told_before_the_stop() -> None:
    setting = Setting()
    setting.tell(OpenLocal(KEY, None), StopReadingLocal())
    error = AbnormalEnd("the tunnel lost its connection")
    assert setting.tell(StopStream(error)) == [StreamStopped("t", "SSH", error)]


def test_the_user_ends_a_connection_once() -> None:
    setting = Setting()
    setting.tell(OpenLocal(KEY, None))
    setting.stream.end(KEY)
    setting.stream.end(KEY)
    assert setting.tunnel.told == [ended(KEY, "ended by this side")]


def test_a_connection_that_is_cut_while_its_end_is_being_told_is_told_once() -> None:
    setting = Setting()
    setting.tell(OpenLocal(KEY, None), RemoteEnded(KEY, End.ORDERLY, "closed by the peer"))
    assert setting.tell(RemoteEnded(KEY, End.CUT, "reset by the peer")) == []
    assert setting.tunnel.told == [ended(KEY, "reset by the peer")]
    assert setting.open == {}


def test_an_end_that_comes_late_ends_no_successor_with_the_same_ids() -> None:
    """The callbacks took their time, and the peer has used the id again meanwhile."""
    setting = Setting()
    setting.tell(OpenLocal(KEY, None), RemoteEnded(KEY, End.ORDERLY, "closed by the peer"))
    setting.tell(RemoteEnded(KEY, End.CUT, "reset by the peer"))
    successor = KEY._replace(serial=5)
    setting.tell(OpenLocal(successor, None))
    setting.tunnel.told.clear()
    setting.stream.end(KEY)
    assert setting.tunnel.told == []
    assert setting.tell(RemoteEnded(KEY, End.CUT, "late")) == []
    assert setting.open == {("SSH", 1): successor}


def test_a_successor_on_another_stream_is_not_touched() -> None:
    setting = Setting()
    setting.tell(OpenLocal(KEY, None))
    successor = KEY._replace(stream_id=8, serial=4)
    setting.open["SSH", 1] = successor
    setting.tell(StopStream(None))
    assert setting.open == {("SSH", 1): successor}
