"""Two sessions and a service between them, against a model: what each end sent, and how it ended.

Starts, bytes, ends, aborts and lost links come in any order, and messages are on their way for as
long as it pleases. No byte is wrong or comes behind an end; an end in good order is told to who has
all bytes of who has ended so, and to nobody else; and once all has arrived, no end is left waiting
for one that is over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support.examples import stateful_settings
from tunnelfleet.proto import (
    Answer,
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    End,
    LocalProtocolError,
    Message,
    MessageDropped,
    MessageType,
    Mode,
    ProtocolVersion,
    ServicesAnnounced,
    Session,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.runtime.service.rules import StreamTable, check_message

OTHER = {Mode.SOURCE: Mode.DESTINATION, Mode.DESTINATION: Mode.SOURCE}
modes = st.sampled_from(list(Mode))


class Key(NamedTuple):
    """A connection; a source uses no pair of ids twice."""

    service_id: str
    stream_id: int
    connection_id: int


@dataclass
class Account:
    """One end's account of a connection.

    Attributes:
        sent: its bytes.
        got: those of the other end.
        has_ended: its application has sent all, and said so.
        told: how the other direction ended.
        is_over: nothing comes or goes any more.
    """

    sent: bytes = b""
    got: bytes = b""
    has_ended: bool = False
    told: End | None = None
    is_over: bool = False


@dataclass
class SideOfTunnel:
    """One end of the tunnel: its session, what is on its way to it, its accounts."""

    session: Session
    inbox: deque[Message] = field(default_factory=deque)
    accounts: dict[Key, Account] = field(default_factory=dict)

    def open(self, *, is_sending: bool = False) -> list[Key]:
        """Its connections that are not over."""
        return [
            key
            for key, each in self.accounts.items()
            if not each.is_over and not (is_sending and each.has_ended)
        ]


class SessionModel(RuleBasedStateMachine):
    """All that two applications, two links and a service can do."""

    @initialize(
        version=st.sampled_from(list(ProtocolVersion)),
        marks=st.tuples(st.booleans(), st.booleans()),
    )
    def begin(self, version: ProtocolVersion, marks: tuple[bool, bool]) -> None:
        self.version = version
        self.services = ("A",) if version is ProtocolVersion.V1 else ("A", "B")
        self.is_marked = all(marks)
        self.sides = {
            Mode.SOURCE: SideOfTunnel(Session(Mode.SOURCE, version, marks=marks[0])),
            Mode.DESTINATION: SideOfTunnel(Session(Mode.DESTINATION, marks=marks[1])),
        }
        self.relay = StreamTable()
        self.number = 0
        self.in_doubt: set[Key] = set()
        """Connections of which a destination is not told that the source was lost."""
        for mode in Mode:
            self._connect(mode)

    def _connect(self, mode: Mode) -> None:
        side = self.sides[mode]
        side.session.connected()
        services = Message(MessageType.SERVICE_IDS, available_service_ids=self.services)
        side.inbox.append(services)

    # -- the service

    def _send(self, sender: Mode, messages: Any) -> None:
        """The service takes note, and passes them on."""
        for message in messages:
            assert check_message(message, sender)
            is_hello = message.type is MessageType.DATA and message.ignorable
            if is_hello and not message.payload and sender is Mode.DESTINATION:
                self.relay.note_hello(message)
            elif message.type is not MessageType.DATA:
                self.relay.note(message, sender)
            self.sides[OTHER[sender]].inbox.append(message)

    @rule(mode=modes)
    def a_link_is_lost_and_made_again(self, mode: Mode) -> None:
        side, other = self.sides[mode], OTHER[mode]
        self._take(mode, side.session.disconnected())
        side.inbox.clear()
        assert not side.open()
        if mode is Mode.SOURCE and self.version is not ProtocolVersion.V3:
            self.in_doubt |= {key for key, each in side.accounts.items() if each.has_ended}
        self.sides[other].inbox.extend(self.relay.take_resets(to=other))
        self._connect(mode)

    # -- the applications

    def _is_announced(self, mode: Mode) -> bool:
        return self.sides[mode].session.service_ids is not None

    @rule(data=st.data())
    def one_connects(self, data: st.DataObject) -> None:
        if self._is_announced(Mode.SOURCE):
            self._open(data.draw(st.sampled_from(self.services)))

    def _open(self, service_id: str) -> Key:
        side = self.sides[Mode.SOURCE]
        opened = side.session.open_connection(service_id)
        self._take(Mode.SOURCE, opened.events)
        key = Key(opened.service_id, opened.stream_id, opened.connection_id)
        assert key not in side.accounts
        side.accounts[key] = Account()
        self._send(Mode.SOURCE, opened.messages)
        return key

    @rule(mode=modes, data=st.data(), size=st.integers(0, 3))
    def one_sends(self, mode: Mode, data: st.DataObject, size: int) -> None:
        side = self.sides[mode]
        if keys := side.open(is_sending=True):
            key = data.draw(st.sampled_from(keys))
            self.number += 1
            # No empty one: that of a destination would be a hello.
            payload = bytes([self.number % 256]) * (size + 1)
            self._send(mode, [side.session.data(key.service_id, key.connection_id, payload)])
            side.accounts[key].sent += payload

    @rule(mode=modes, data=st.data(), is_orderly=st.sampled_from([True, True, False]))
    def one_ends(self, mode: Mode, data: st.DataObject, is_orderly: bool) -> None:
        side = self.sides[mode]
        if keys := side.open(is_sending=is_orderly):
            self._end(mode, data.draw(st.sampled_from(keys)), is_orderly=is_orderly)

    def _end(self, mode: Mode, key: Key, *, is_orderly: bool) -> None:
        side = self.sides[mode]
        account = side.accounts[key]
        account.has_ended |= is_orderly
        messages, events = side.session.reset_connection(
            key.service_id, key.connection_id, is_orderly=is_orderly
        )
        self._send(mode, messages)
        account.is_over |= not side.session.is_known(*key)
        assert is_orderly or account.is_over
        self._take(mode, events)

    @rule(mode=modes, data=st.data())
    def one_resets_a_stream(self, mode: Mode, data: st.DataObject) -> None:
        side = self.sides[mode]
        if keys := side.open():
            key = data.draw(st.sampled_from(keys))
            messages, events = side.session.reset_stream(key.service_id)
            self._send(mode, messages)
            self._take(mode, events)
            assert side.accounts[key].is_over

    @rule(mode=modes, data=st.data())
    def who_has_ended_cannot_send(self, mode: Mode, data: st.DataObject) -> None:
        side = self.sides[mode]
        silent = [key for key in side.accounts if key not in side.open(is_sending=True)]
        # The ids of a stream that is over may be those of the present one.
        active = side.session.active_streams()
        silent = [
            key
            for key in silent
            if key.service_id in active and active[key.service_id].stream_id == key.stream_id
        ]
        if silent:
            key = data.draw(st.sampled_from(silent))
            with pytest.raises(LocalProtocolError):
                side.session.data(key.service_id, key.connection_id, b"late")

    # -- what arrives

    @rule(mode=modes, count=st.integers(1, 6))
    def messages_arrive(self, mode: Mode, count: int) -> None:
        inbox = self.sides[mode].inbox
        for _ in range(min(count, len(inbox))):
            self._take(mode, self.sides[mode].session.receive(inbox.popleft()))

    @precondition(lambda self: self.sides[Mode.SOURCE].open())
    @rule(data=st.data())
    def a_hello_is_overdue(self, data: st.DataObject) -> None:
        self._expire(data.draw(st.sampled_from(self.sides[Mode.SOURCE].open())))

    def _expire(self, key: Key) -> None:
        side = self.sides[Mode.SOURCE]
        was_marked = not side.session.awaits_hello(key.service_id, key.stream_id)
        self._take(Mode.SOURCE, side.session.hello_overdue(key.service_id, key.stream_id))
        # What it takes for the peer of another make may be one of ours that is late.
        self.is_marked &= was_marked

    def _take(self, mode: Mode, events: Any) -> None:
        for event in events:
            self.EVENTS[type(event)](self, mode, event)

    def _started(self, mode: Mode, event: StreamStarted | ConnectionStarted) -> None:
        key = Key(event.service_id, event.stream_id, event.connection_id)
        assert mode is Mode.DESTINATION
        assert key in self.sides[Mode.SOURCE].accounts, "nobody has started it"
        assert key not in self.sides[mode].accounts, "it starts twice"
        self.sides[mode].accounts[key] = Account()

    def _bytes(self, mode: Mode, event: DataReceived) -> None:
        key = Key(event.service_id, event.stream_id, event.connection_id)
        mine, other = (self.sides[each].accounts[key] for each in (mode, OTHER[mode]))
        assert not mine.is_over, "bytes behind its end"
        assert mine.told is None, "bytes behind an end in good order"
        mine.got += event.payload
        assert other.sent.startswith(mine.got)

    def _connection_ended(self, mode: Mode, event: ConnectionReset) -> None:
        self._told(mode, Key(event.service_id, event.stream_id, event.connection_id), event.end)

    def _told(self, mode: Mode, key: Key, end: End) -> None:
        mine, other = self.sides[mode].accounts[key], self.sides[OTHER[mode]].accounts.get(key)
        assert not mine.is_over, "it ends twice"
        if end is not End.ORDERLY:
            mine.is_over = True
            mine.told = mine.told or end
            return
        assert mine.told is None, "it ends in good order twice"
        assert other is not None
        assert other.has_ended, "an end that was none"
        assert mine.got == other.sent, "an end before the last byte"
        mine.told = end
        mine.is_over = not self.sides[mode].session.is_known(*key)

    def _stream_ended(self, mode: Mode, event: StreamStopped) -> None:
        for key, account in self.sides[mode].accounts.items():
            if key[:2] == (event.service_id, event.stream_id) and not account.is_over:
                assert event.end is not End.ORDERLY
                self._told(mode, key, event.end)

    def _answered(self, mode: Mode, event: Answer) -> None:
        self._send(mode, [event.message])

    def _nothing(self, _mode: Mode, _event: Any) -> None:
        pass

    EVENTS: Any = {
        StreamStarted: _started,
        ConnectionStarted: _started,
        DataReceived: _bytes,
        ConnectionReset: _connection_ended,
        StreamStopped: _stream_ended,
        Answer: _answered,
        ServicesAnnounced: _nothing,
        MessageDropped: _nothing,
    }

    def teardown(self) -> None:
        """All arrives, and hellos are overdue: then nobody waits for one that is over."""
        if not hasattr(self, "sides"):
            return
        self.all_arrives()
        for key in self.sides[Mode.SOURCE].open():
            # A destination of another make, that ended before it sent a byte, has said nothing.
            self._expire(key)
        self.all_arrives()
        source, destination = self.sides[Mode.SOURCE], self.sides[Mode.DESTINATION]
        for key, account in source.accounts.items():
            other = destination.accounts.get(key)
            if other is None:
                assert account.is_over, f"{key} never came, and its source waits"
                continue
            if key in self.in_doubt:
                continue
            assert account.is_over == other.is_over, f"{key}: {account}, {other}"
            if account.has_ended and other.has_ended and self.is_marked and account.is_over:
                self._check_agreement(account, other)

    def all_arrives(self) -> None:
        """Whatever is on its way to one side, and what that is answered by."""
        while any(side.inbox for side in self.sides.values()):
            for mode in Mode:
                self.messages_arrive(mode=mode, count=len(self.sides[mode].inbox))

    def _check_agreement(self, one: Account, other: Account) -> None:
        for mine, its in ((one, other), (other, one)):
            if mine.told is End.ORDERLY:
                assert mine.got == its.sent


@pytest.mark.parametrize("version", list(ProtocolVersion), ids=lambda version: version.name)
@pytest.mark.parametrize("marks", [(True, True), (True, False), (False, True), (False, False)])
def test_an_end_before_the_destination_has_said_anything(
    version: ProtocolVersion, marks: tuple[bool, bool]
) -> None:
    """A destination of another make is over then, and never tells: a clock ends the source."""
    model = SessionModel()
    model.begin(version, marks)
    model.messages_arrive(Mode.SOURCE, 1)
    key = model._open("A")
    model._end(Mode.SOURCE, key, is_orderly=True)
    model.teardown()
    assert model.sides[Mode.SOURCE].accounts[key].is_over is (marks != (True, True))


SessionModel.TestCase.settings = stateful_settings()
TestSession = SessionModel.TestCase
