"""Messages of a peer beside commands of this side, in every version (proto/session.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.fuzz.harness import TURNS, Harness, Source, is_line
from tunnelfleet.proto import (
    Answer,
    DataReceived,
    Event,
    LocalProtocolError,
    Message,
    MessageType,
    Mode,
    ProtocolVersion,
    RemoteProtocolError,
    Session,
    encode_frame,
)
from tunnelfleet.proto.session import MAX_CONNECTIONS_PER_STREAM, MAX_SERVICES

SERVICES = ("SSH", "HTTP", "", "ssh", "\N{SNOWMAN}", "x" * 200)
MAX_SHOWN = 1_000


def run(data: bytes) -> None:
    source = Source(data)
    mode = source.choose([Mode.SOURCE, Mode.DESTINATION])
    versions = [None, ProtocolVersion.V1, ProtocolVersion.V2, ProtocolVersion.V3]
    shell = Shell(Session(mode, source.choose(versions), marks=source.flag()))
    shell.session.connected()
    for step in source:
        step.choose(STEPS)(shell, step)
        shell.check_bounds()


class Shell:
    """What drives the session, and remembers what it said."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.last = (0, 0)
        """Ids that were used last, so that the next message may mean them."""

    def state(self) -> object:
        session = self.session
        return session.version, session.service_ids, session.active_streams()

    def receive(self, source: Source) -> None:
        message = self.message(source)
        before = self.state()
        open_before = connections(self.session)
        try:
            with TURNS:
                events = self.session.receive(message)
        except RemoteProtocolError as error:
            assert is_line(str(error), MAX_SHOWN)
            assert self.state() == before, "a message that was refused changed something"
            self.reconnect(source)
            return
        self.take(events, open_before)

    def message(self, source: Source) -> Message:
        kind = source.choose([*MessageType, 9])
        is_known = source.flag()
        ids = self.last if is_known else (source.number() & 0x7FFF_FFFF, source.number())
        self.last = ids
        payload = source.take(source.byte() % 8)
        available: tuple[str, ...] = ()
        if kind == MessageType.SERVICE_IDS:
            available = tuple(source.choose(SERVICES) for _ in range(source.byte() % 5))
        return Message(
            kind,
            ids[0],
            source.flag(),
            payload,
            source.choose(SERVICES),
            available,
            ids[1] if source.flag() else 0,
        )

    def take(self, events: Iterable[Event], open_before: int) -> None:
        count = 0
        for event in events:
            count += 1
            if isinstance(event, Answer):
                encode_frame(event.message)
            if isinstance(event, DataReceived):
                known = event.service_id, event.stream_id, event.connection_id
                assert self.session.is_known(*known) or self.session.active_streams()
        # One event for each connection that ends, and a few for what ends them.
        assert count <= 2 * open_before + 8

    def command(self, action: Callable[[], object]) -> None:
        try:
            with TURNS:
                action()
        except LocalProtocolError as error:
            assert is_line(str(error), MAX_SHOWN)

    def open(self, source: Source) -> None:
        def action() -> None:
            opened = self.session.open_connection(source.choose(SERVICES))
            self.last = opened.stream_id, opened.connection_id
            for message in opened.messages:
                encode_frame(message)

        self.command(action)

    def data(self, source: Source) -> None:
        service, connection = source.choose(SERVICES), self.last[1]
        self.command(lambda: encode_frame(self.session.data(service, connection, source.take(4))))

    def reset(self, source: Source) -> None:
        service, orderly = source.choose(SERVICES), source.flag()
        self.command(
            lambda: self.session.reset_connection(service, self.last[1], is_orderly=orderly)
        )

    def reset_stream(self, source: Source) -> None:
        self.command(lambda: self.session.reset_stream(source.choose(SERVICES)))

    def start(self, source: Source) -> None:
        number = source.number() if source.flag() else None
        self.command(lambda: self.session.start_connection(source.choose(SERVICES), number))

    def leave(self, source: Source) -> None:
        self.session.leave_connection(source.choose(SERVICES), *self.last)

    def hello_overdue(self, source: Source) -> None:
        service = source.choose(SERVICES)
        before = connections(self.session)
        self.take(self.session.hello_overdue(service, self.last[0]), before)
        assert not self.session.awaits_hello(service, self.last[0])

    def stop_marking(self, _source: Source) -> None:
        self.session.stop_marking()

    def reconnect(self, _source: Source) -> None:
        with TURNS:
            self.session.disconnected()
        assert not self.session.active_streams()
        assert self.session.service_ids is None
        self.session.connected()

    def check_bounds(self) -> None:
        streams = self.session.active_streams()
        assert len(streams) <= MAX_SERVICES
        for view in streams.values():
            assert view.stream_id
            assert len(view.connection_ids) <= MAX_CONNECTIONS_PER_STREAM


def connections(session: Session) -> int:
    """Also those that this side has ended: they wait for the peer, and end with an event."""
    return sum(len(each.connections) for each in session._streams.values())


STEPS: list[Callable[[Shell, Source], None]] = [
    Shell.receive,
    Shell.receive,
    Shell.receive,
    Shell.receive,
    Shell.open,
    Shell.open,
    Shell.data,
    Shell.reset,
    Shell.reset_stream,
    Shell.start,
    Shell.leave,
    Shell.hello_overdue,
    Shell.stop_marking,
    Shell.reconnect,
]
ANNOUNCED = bytes((0, 5, 0, 0, 0, 0, 0, 0, 1, 0))
HARNESS = Harness(
    run=run,
    covers=["proto/session.py", "proto/streams.py", "proto/transitions.py", "proto/transitions.py"],
    seeds=[
        bytes((mode, version, marks)) + ANNOUNCED + bytes((4, 0, 0, 1, 1, 2, 97, 98, 0, 0, 1)) * 3
        for mode in (0, 1)
        for version in range(4)
        for marks in (0, 1)
    ],
    max_bytes=512,
)
