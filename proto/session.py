"""The state machine of one tunnel: messages in, events out (docs/protocol.md sections 2 and 3).

Everything that affects the state is here; which action a message leads to is in the table of
`transitions.py`. Pure: it knows no socket, thread, clock, actor or log. Its shell feeds it what
arrives (`receive`), asks it for what to send (the commands), and tells it when the WebSocket comes
and goes.

    session = Session(Mode.SOURCE)
    session.connected()
    events = session.receive(message)            # for every message of the FrameDecoder
    opened = session.open_connection("SSH")      # send opened.messages, then
    session.data("SSH", opened.connection_id, b"SSH-2.0-...")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from .errors import (
    ConnectionIdUnknown,
    ConnectionIdUnusable,
    LocalProtocolError,
    NoActiveStream,
    NotConnected,
    PayloadTooLarge,
    RemoteProtocolError,
    ServiceIdUnknown,
    ServiceWithoutStream,
    TooManyConnections,
    VersionMismatch,
    WrongMode,
)
from .events import (
    Answer,
    ConnectionReset,
    ConnectionStarted,
    DataReceived,
    DropReason,
    Event,
    MessageDropped,
    Opened,
    ServicesAnnounced,
    SessionReset,
    StopCause,
    StreamStarted,
    StreamStopped,
    StreamView,
)
from .message import MAX_PAYLOAD_BYTES, Message, MessageType
from .modes import Mode, ProtocolVersion
from .streams import FIRST_CONNECTION_ID, MAX_CONNECTION_ID, MAY_SEND, Stream, StreamIds
from .transitions import BEFORE_SERVICE_IDS, TABLE, Action, Agreement, End, Happening, Phase

MAX_SERVICES = 256
"""The most services, and so active streams, of one tunnel. AWS has 3."""
MAX_CONNECTIONS_PER_STREAM = 4096
"""The most open connections of one stream that a session keeps."""


# As plain names: Python 3.11 takes six times as long to look up the member of an enum.
_DATA, _V3, _OPEN = MessageType.DATA, ProtocolVersion.V3, Phase.OPEN


def shape_of(message: Message) -> ProtocolVersion:
    """Return the version that the ids of `message` speak (docs/protocol.md section 3)."""
    if message.connection_id:
        return _V3
    return ProtocolVersion.V2 if message.service_id else ProtocolVersion.V1


class Session:
    """The protocol state of one tunnel, over all its connections.

    Args:
        mode: the side of the tunnel this is.
        version: for a source the version it speaks, by default V3. For a destination None to see it
            from the first STREAM_START of each connection, or the only version to accept.
        marks: whether to tell the kinds of end apart with peers that do so too (docs/protocol.md
            section 3a).
        first_stream_id: of a source, for each service. The peer may still be sending what is meant
            for the streams of another source, one that was here before: with an id that such a
            stream had, a stream would be given bytes of that one.
    """

    def __init__(
        self,
        mode: Mode,
        version: ProtocolVersion | None = None,
        *,
        marks: bool = True,
        first_stream_id: int = 1,
    ) -> None:
        self._mode = mode
        self._marks = marks
        if version is None and mode is Mode.SOURCE:
            version = ProtocolVersion.V3
        self._configured_version = version
        self._stream_ids = StreamIds(first_stream_id)
        self._streams: dict[str, Stream] = {}
        self._begin()

    @property
    def mode(self) -> Mode:
        """Which side of the tunnel this is."""
        return self._mode

    @property
    def version(self) -> ProtocolVersion | None:
        """The version of this connection; None on a destination that has seen none yet."""
        return self._version

    @property
    def service_ids(self) -> tuple[str, ...] | None:
        """The service ids of the tunnel; None until they have been announced."""
        return self._service_ids

    def active_streams(self) -> Mapping[str, StreamView]:
        """Return a snapshot of the active streams by service id."""
        return {
            service_id: StreamView(stream.stream_id, stream.version, stream.open_ids)
            for service_id, stream in self._streams.items()
        }

    # The connection

    def connected(self) -> None:
        """Begin a new WebSocket connection: nothing is announced, no version seen.

        Raises:
            LocalProtocolError: the connection before still has streams.
        """
        if self._streams:
            raise LocalProtocolError("streams are still active: call disconnected() first")
        self._begin()

    def disconnected(self) -> list[Event]:
        """End the WebSocket connection and every stream. Stream ids are not given out again."""
        events = self._stop_all(StopCause.DISCONNECTED)
        self._begin()
        return events

    def stop_marking(self) -> None:
        """Stop telling the kinds of end apart, from the next stream on."""
        self._marks = False

    def _begin(self) -> None:
        self._service_ids: tuple[str, ...] | None = None
        # The service of a message or command without a service id: the only one (V1).
        self._default_service_id = ""
        self._version = self._configured_version
        self._row = BEFORE_SERVICE_IDS
        # Whether a peer on this link was asked and has not answered in time.
        self._expects_no_hello = False

    # Receiving

    def receive(self, message: Message) -> list[Event]:
        """Take a message of the peer or the service and return what it did, in order.

        Raises:
            RemoteProtocolError: the message is forbidden here. Nothing has changed; the shell drops
                the connection and then calls `disconnected`.
        """
        rule = self._row.get(message.type)
        if rule is None:
            return self._receive_unknown(message)
        if shape_of(message) not in rule.shapes:
            raise RemoteProtocolError(
                f"the peer sent {_name(message)} of V{shape_of(message).value} "
                f"on a tunnel that speaks V{self._version or 0:d}: "
                "set the version of the source to what the destination speaks"
            )
        return self._ACTIONS[rule.action](self, message)

    def _receive_unknown(self, message: Message) -> list[Event]:
        if not message.ignorable:
            raise RemoteProtocolError(f"the peer sent a message of unknown type {message.type:d}")
        return _dropped(message, DropReason.IGNORABLE)

    def _refuse_early(self, message: Message) -> list[Event]:
        raise RemoteProtocolError(f"{_name(message)} came before the services were announced")

    def _refuse_direction(self, message: Message) -> list[Event]:
        raise RemoteProtocolError(f"the peer sent {_name(message)} to a source")

    def _refuse_version(self, message: Message) -> list[Event]:
        raise RemoteProtocolError(
            f"the peer sent {_name(message)}, which V{self._version or 0:d} does not have: "
            "set the version of the source to what the destination speaks"
        )

    def _announce(self, message: Message) -> list[Event]:
        announced = tuple(dict.fromkeys(message.available_service_ids))
        if "" in announced or len(announced) > MAX_SERVICES:
            raise RemoteProtocolError(
                f"the service announced an empty service id or more than {MAX_SERVICES}"
            )
        self._service_ids = announced
        self._default_service_id = announced[0] if len(announced) == 1 else ""
        self._row = TABLE[self._mode, self._version]
        return [ServicesAnnounced(announced)]

    def _repeat(self, message: Message) -> list[Event]:
        # The services of a tunnel never change, so another list means that one of them is wrong.
        if tuple(dict.fromkeys(message.available_service_ids)) != self._service_ids:
            raise RemoteProtocolError("the service announced other services than before")
        return _dropped(message, DropReason.REPEATED_SERVICE_IDS)

    def _start_stream(self, message: Message) -> list[Event]:
        if message.stream_id == 0:
            raise _stream_id_zero(message)
        service_id = message.service_id or self._default_service_id
        if not self._knows(service_id):
            return _refused(message, DropReason.UNKNOWN_SERVICE)
        if len(self._streams) >= MAX_SERVICES and service_id not in self._streams:
            return _refused(message, DropReason.TOO_MANY_STREAMS)
        version = shape_of(message)
        if self._version is None:
            self._version = version
            self._row = TABLE[self._mode, version]
        events = self._stop(service_id, StopCause.REPLACED)
        connection_id = message.connection_id or FIRST_CONNECTION_ID
        is_agreed = self._marks and message.ignorable
        agreement = Agreement.AGREED if is_agreed else Agreement.UNMARKED
        stream = Stream(service_id, message.stream_id, version, connection_id, agreement)
        self._streams[service_id] = stream
        if is_agreed:
            # This goes out first, because the source takes the first message of this side for
            # the answer.
            hello = stream.message(MessageType.DATA, connection_id, is_marked=True)
            events.append(Answer(hello))
        events.append(StreamStarted(service_id, message.stream_id, connection_id, version))
        return events

    def _start_connection(self, message: Message) -> list[Event]:
        stream = self._active(message)
        if stream is None:
            return self._drop_stale(message)
        connection_id = message.connection_id or FIRST_CONNECTION_ID
        reset = Answer(stream.reset_of(connection_id, is_marked=False))
        if connection_id in stream.connections:
            # The peer ends the connection of this id when the answer arrives, so it is over here
            # too.
            del stream.connections[connection_id]
            end = End.CUT if stream.agreement is Agreement.AGREED else End.BOTH
            over = ConnectionReset(stream.service_id, stream.stream_id, connection_id, end)
            return [reset, over, *_dropped(message, DropReason.DUPLICATE_CONNECTION)]
        if len(stream.connections) >= MAX_CONNECTIONS_PER_STREAM:
            return [reset, *_dropped(message, DropReason.TOO_MANY_CONNECTIONS)]
        stream.add_connection(connection_id)
        return [ConnectionStarted(stream.service_id, stream.stream_id, connection_id)]

    def _deliver(self, message: Message) -> list[Event]:
        stream = self._active(message)
        if stream is None:
            return self._drop_late(message)
        connection_id = message.connection_id or FIRST_CONNECTION_ID
        if stream.is_unheard:
            if message.ignorable and not message.payload and stream.agreement.awaits_hello:
                return self._settle_agreed(stream)
            return [*self._settle_unmarked(stream, Agreement.UNMARKED), *self._deliver(message)]
        if stream.connections.get(connection_id) is not _OPEN:
            step = stream.step(connection_id, Happening.PEER_DATA)
            if step is None:
                return _dropped(message, DropReason.UNKNOWN_CONNECTION)
            if step.reset is not None:
                reset = stream.reset_of(connection_id, is_marked=step.reset)
                events = [Answer(reset), *_dropped(message, DropReason.APPLICATION_CLOSED)]
                return [*events, *self._stop_if_over(stream, StopCause.LOCAL_RESET)]
        return [DataReceived(stream.service_id, stream.stream_id, connection_id, message.payload)]

    def _reset_connection(self, message: Message) -> list[Event]:
        stream = self._active(message)
        if stream is None:
            return self._drop_stale(message)
        return self._end_remote(stream, message, message.connection_id or FIRST_CONNECTION_ID)

    def _end_remote(self, stream: Stream, message: Message, connection_id: int) -> list[Event]:
        is_first = stream.is_unheard
        happening = Happening.PEER_END if message.ignorable else Happening.PEER_RESET
        step = stream.step(connection_id, happening)
        events: list[Event] = []
        if step is not None and step.end is not None:
            # In V3 the stream stays active without connections: the next joins it by
            # CONNECTION_START.
            ids = stream.service_id, stream.stream_id, connection_id
            events.append(ConnectionReset(*ids, step.end))
            events += self._stop_if_over(stream, StopCause.PEER_RESET)
        has_ended = bool(events)
        if is_first:
            events += self._settle_unmarked(stream, Agreement.UNMARKED)
        # The first message of V1 or V2 may have been the end of the stream.
        return events if has_ended else [*events, *_dropped(message, DropReason.DUPLICATE_RESET)]

    def _reset_stream(self, message: Message) -> list[Event]:
        stream = self._active(message)
        if stream is None:
            return self._drop_stale(message)
        if stream.version is not ProtocolVersion.V3:
            # In V1 and V2 this is how the one connection ends in good order.
            return self._end_remote(stream, message, FIRST_CONNECTION_ID)
        # As every reset: with a peer that does not tell ends apart it may be an orderly end, but
        # not before anything has come from it. Half-closed connections are cut then, too: a reset
        # of this side is answered by that of a connection, if at all.
        end = End.BOTH if stream.agreement is Agreement.UNMARKED else End.CUT
        return self._stop(stream.service_id, StopCause.PEER_RESET, end)

    def _settle_agreed(self, stream: Stream) -> list[Event]:
        """Note that the peer tells ends apart, and tell it what was cut before that was known."""
        self._expects_no_hello = False
        events: list[Event] = []
        for connection_id in [*stream.connections]:
            step = stream.step(connection_id, Happening.HELLO)
            if step is not None and step.reset is not None:
                events.append(Answer(stream.reset_of(connection_id, is_marked=step.reset)))
        stream.settle(Agreement.AGREED)
        return [*events, *self._stop_if_over(stream, StopCause.LOCAL_RESET)]

    def _settle_unmarked(self, stream: Stream, agreement: Agreement) -> list[Event]:
        """Note that the peer does not tell ends apart. What this side has half-closed is over."""
        stream.settle(agreement)
        events: list[Event] = []
        for connection_id in [*stream.connections]:
            step = stream.step(connection_id, Happening.NO_HELLO)
            if step is not None and step.end is not None:
                events.append(
                    ConnectionReset(stream.service_id, stream.stream_id, connection_id, step.end)
                )
        return [*events, *self._stop_if_over(stream, StopCause.LOCAL_RESET)]

    def _reset_session(self, _message: Message) -> list[Event]:
        return [*self._stop_all(StopCause.SESSION_RESET), SessionReset()]

    def _drop_stale(self, message: Message) -> list[Event]:
        if message.stream_id == 0:
            raise _stream_id_zero(message)
        if self._knows(message.service_id or self._default_service_id):
            return _dropped(message, DropReason.STALE_STREAM)
        return _dropped(message, DropReason.UNKNOWN_SERVICE)

    def _drop_late(self, message: Message) -> list[Event]:
        """Drop DATA of a stream that is over; a hello of the last one is answered by its reset.

        A source that gives a stream up after its orderly end sends no second reset before the
        hello: a peer of another make may not take it. One that says hello takes it, and would wait
        for it (docs/protocol.md section 3a). So would one whose start was on its way when the
        service reset the session. A stream that another one has replaced needs none.
        """
        dropped = self._drop_stale(message)
        service_id = message.service_id or self._default_service_id
        is_source = self._mode is Mode.SOURCE
        is_hello = is_source and message.ignorable and not message.payload
        if is_hello and self._knows(service_id) and service_id not in self._streams:
            return _refused(message, DropReason.STALE_STREAM)
        return dropped

    _ACTIONS: ClassVar[dict[Action, Callable[[Session, Message], list[Event]]]] = {
        Action.ANNOUNCE: _announce,
        Action.REPEAT: _repeat,
        Action.START_STREAM: _start_stream,
        Action.START_CONNECTION: _start_connection,
        Action.DELIVER: _deliver,
        Action.RESET_CONNECTION: _reset_connection,
        Action.RESET_STREAM: _reset_stream,
        Action.RESET_SESSION: _reset_session,
        Action.DROP_STALE: _drop_stale,
        Action.REFUSE_EARLY: _refuse_early,
        Action.REFUSE_DIRECTION: _refuse_direction,
        Action.REFUSE_VERSION: _refuse_version,
    }

    # Commands

    def open_connection(self, service_id: str) -> Opened:
        """Carry one more local connection, with ids as the observed clients choose them.

        In V3 it joins the active stream, or starts one if there is none. In V1 and V2 it takes the
        place of the one there is (docs/protocol.md section 3).

        Raises:
            LocalProtocolError: `NotConnected`, `WrongMode`, `ServiceIdUnknown`, `VersionMismatch`,
                `TooManyConnections`.
        """
        stream = self._streams.get(service_id or self._default_service_id)
        if stream is not None and self._version is ProtocolVersion.V3:
            return self.start_connection(service_id)
        return self.start_stream(service_id)

    def start_stream(self, service_id: str) -> Opened:
        """Start a new stream of `service_id` with its first connection.

        An active stream of it is reset first, in so many words: localproxy loses the start of a
        stream that replaces another one (docs/protocol.md section 4).

        Raises:
            LocalProtocolError: `NotConnected`, `WrongMode`, `ServiceIdUnknown`, `VersionMismatch`.
        """
        version = self._source_version("start a stream")
        service_id = self._known(service_id)
        self._check_service_fits(service_id, version)
        resets, events = self.reset_stream(service_id, cause=StopCause.REPLACED)
        stream_id = self._stream_ids.take(service_id)
        agreement = self._agreement_of_a_start()
        stream = Stream(service_id, stream_id, version, agreement=agreement)
        self._streams[service_id] = stream
        start = stream.message(MessageType.STREAM_START, FIRST_CONNECTION_ID, is_marked=self._marks)
        return Opened(
            stream.stream_id, FIRST_CONNECTION_ID, service_id, (*resets, start), tuple(events)
        )

    def _agreement_of_a_start(self) -> Agreement:
        if not self._marks:
            return Agreement.UNHEARD
        return Agreement.DOUBTED if self._expects_no_hello else Agreement.ASKED

    def awaits_hello(self, service_id: str, stream_id: int) -> bool:
        """Tell whether a stream was asked to tell ends apart and has not been answered.

        The shell gives it a time, and calls `hello_overdue` when that is over.
        """
        stream = self._streams.get(service_id)
        if stream is None or stream.stream_id != stream_id:
            return False
        return stream.agreement is Agreement.ASKED

    def hello_overdue(self, service_id: str, stream_id: int) -> list[Event]:
        """Go on as with a peer that does not tell ends apart, as nothing has come from it.

        Later streams of this WebSocket connection start so, until a hello comes.
        """
        stream = self._streams.get(service_id)
        if stream is None or not self.awaits_hello(service_id, stream_id):
            return []
        self._expects_no_hello = True
        return self._settle_unmarked(stream, Agreement.DOUBTED)

    def start_connection(self, service_id: str, connection_id: int | None = None) -> Opened:
        """Start one more connection on the active stream (V3).

        Args:
            service_id: the service whose stream it joins.
            connection_id: its id, 1 or more; None for the next one.

        Raises:
            LocalProtocolError: `NotConnected`, `WrongMode`, `ServiceIdUnknown`, `VersionMismatch`,
                `NoActiveStream`, `ServiceWithoutStream`, `ConnectionIdUnusable`,
                `TooManyConnections`.
        """
        version = self._source_version("start a connection")
        if version is not ProtocolVersion.V3:
            raise VersionMismatch(version, "a stream has one connection; start a new stream")
        stream = self._stream(service_id)
        if connection_id is None:
            connection_id = stream.next_connection_id()
        in_range = 1 <= connection_id <= MAX_CONNECTION_ID
        if not in_range or connection_id in stream.connections:
            raise ConnectionIdUnusable(stream.service_id, connection_id)
        if len(stream.connections) >= MAX_CONNECTIONS_PER_STREAM:
            raise TooManyConnections(stream.service_id, MAX_CONNECTIONS_PER_STREAM)
        stream.add_connection(connection_id)
        start = stream.message(
            MessageType.CONNECTION_START, connection_id, is_marked=stream.is_marking
        )
        return Opened(stream.stream_id, connection_id, stream.service_id, (start,), ())

    def data(self, service_id: str, connection_id: int, payload: bytes) -> Message:
        """Return the DATA that carries `payload` on an open connection.

        Raises:
            LocalProtocolError: `NotConnected`, `ServiceIdUnknown`, `NoActiveStream`,
                `ServiceWithoutStream`, `ConnectionIdUnknown`, `PayloadTooLarge`.
        """
        stream = self._streams.get(service_id)
        if stream is None:
            stream = self._stream(service_id)
        if stream.connections.get(connection_id) not in MAY_SEND:
            raise ConnectionIdUnknown(stream.service_id, connection_id)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLarge(len(payload), MAX_PAYLOAD_BYTES)
        # As `Stream.message` has it, without one more call for each DATA.
        return Message(
            _DATA,
            stream.stream_id,
            stream.is_marking,
            payload,
            stream.service_id_sent,
            (),
            connection_id if stream.sends_connection_ids else 0,
        )

    def reset_connection(
        self, service_id: str, connection_id: int, *, is_orderly: bool = True
    ) -> tuple[list[Message], list[Event]]:
        """End one connection from this side; in V1 and V2 that is the stream.

        Where both ends tell the kinds of end apart, an orderly end leaves the peer's direction as
        it is: `is_known` tells so. Otherwise the connection is over, and nothing more may be sent
        for it. What this side has ended already can still be aborted.

        Args:
            service_id: the service.
            connection_id: the connection; if it is over, nothing happens.
            is_orderly: the local application has sent all that it had. False: it broke, or was
                stopped before it had.
        """
        stream = self._streams.get(service_id or self._default_service_id)
        happening = Happening.END if is_orderly else Happening.ABORT
        step = None if stream is None else stream.step(connection_id, happening)
        if stream is None or step is None:
            return [], []
        messages = []
        if step.reset is not None:
            messages.append(stream.reset_of(connection_id, is_marked=step.reset))
        return messages, self._stop_if_over(stream, StopCause.LOCAL_RESET)

    def leave_connection(self, service_id: str, stream_id: int, connection_id: int) -> None:
        """Take nothing more of a connection that this side has ended: nobody is left to take it.

        If the peer sends more, it is told so, once.
        """
        stream = self._streams.get(service_id or self._default_service_id)
        if stream is not None and stream.stream_id == stream_id:
            stream.step(connection_id, Happening.LEAVE)

    def is_known(self, service_id: str, stream_id: int, connection_id: int) -> bool:
        """Tell whether a direction of a connection is still open for the local end."""
        stream = self._streams.get(service_id or self._default_service_id)
        if stream is None or stream.stream_id != stream_id:
            return False
        over = (None, Phase.CLOSED, Phase.ABORTED)
        return stream.connections.get(connection_id) not in over

    def reset_stream(
        self, service_id: str, *, cause: StopCause = StopCause.LOCAL_RESET
    ) -> tuple[list[Message], list[Event]]:
        """End the active stream and all its connections at once. If there is none, do nothing.

        Args:
            service_id: the service whose stream it is.
            cause: what the event says of it.
        """
        stream = self._streams.get(service_id or self._default_service_id)
        if stream is None:
            return [], []
        return stream.stream_resets(), self._stop(stream.service_id, cause)

    # State

    def _knows(self, service_id: str) -> bool:
        """Tell whether a service can have streams. A tunnel opened with none takes any."""
        return not self._service_ids or service_id in self._service_ids

    def _active(self, message: Message) -> Stream | None:
        stream = self._streams.get(message.service_id or self._default_service_id)
        return stream if stream is not None and stream.stream_id == message.stream_id else None

    def _stop(self, service_id: str, cause: StopCause, end: End = End.CUT) -> list[Event]:
        stream = self._streams.pop(service_id, None)
        if stream is None:
            return []
        ended = tuple(sorted(stream.connections))
        return [StreamStopped(service_id, stream.stream_id, ended, cause, end)]

    def _stop_if_over(self, stream: Stream, cause: StopCause) -> list[Event]:
        """End a stream of V1 or V2 with its one connection."""
        if stream.version is ProtocolVersion.V3 or stream.connections:
            return []
        return self._stop(stream.service_id, cause)

    def _stop_all(self, cause: StopCause) -> list[Event]:
        return [event for service_id in [*self._streams] for event in self._stop(service_id, cause)]

    def _source_version(self, operation: str) -> ProtocolVersion:
        if self._mode is not Mode.SOURCE or self._version is None:
            raise WrongMode(self._mode, operation)
        return self._version

    def _known(self, service_id: str) -> str:
        if self._service_ids is None:
            raise NotConnected
        service_id = service_id or self._default_service_id
        if not self._knows(service_id):
            raise ServiceIdUnknown(service_id, self._service_ids)
        return service_id

    def _check_service_fits(self, service_id: str, version: ProtocolVersion) -> None:
        """Refuse a command that would look on the wire like another service or version."""
        if version is ProtocolVersion.V1 and service_id != self._default_service_id:
            raise VersionMismatch(
                version, "it cannot name a service; open the tunnel with one service, or use V2, V3"
            )

    def _stream(self, service_id: str) -> Stream:
        stream = self._streams.get(service_id or self._default_service_id)
        if stream is not None:
            return stream
        service_id = self._known(service_id)
        if not self._streams:
            raise NoActiveStream
        raise ServiceWithoutStream(service_id)


def _name(message: Message) -> str:
    return MessageType(message.type).name


def _dropped(message: Message, reason: DropReason) -> list[Event]:
    return [MessageDropped(message.type, reason)]


def _refused(message: Message, reason: DropReason) -> list[Event]:
    """Answer with the reset of the stream that a message belongs to, or meant to start."""
    reset = Message(
        MessageType.STREAM_RESET,
        message.stream_id,
        service_id=message.service_id,
        connection_id=message.connection_id,
    )
    return [Answer(reset), *_dropped(message, reason)]


def _stream_id_zero(message: Message) -> RemoteProtocolError:
    return RemoteProtocolError(f"the peer sent {_name(message)} with the invalid stream id 0")
