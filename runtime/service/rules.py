"""Messages as the service sees them: judged, and remembered.

Owns the rule of who may send what (docs/protocol.md section 2), and which streams are active, so
that the other side can be told when a client is lost. Bounded whatever the source starts. Pure;
must not know connections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tunnelfleet.proto import Message, MessageType, Mode, RemoteProtocolError

_BOTH: Final = frozenset(Mode)
_SOURCE: Final = frozenset({Mode.SOURCE})
_SENDERS: Final[dict[int, frozenset[Mode]]] = {
    MessageType.DATA: _BOTH,
    MessageType.STREAM_START: _SOURCE,
    MessageType.STREAM_RESET: _BOTH,
    MessageType.CONNECTION_START: _SOURCE,
    MessageType.CONNECTION_RESET: _BOTH,
}


def check_message(message: Message, sender: Mode) -> bool:
    """Say whether a client's message is to be relayed; False: skip it.

    Raises:
        RemoteProtocolError: its sender may not send it, or it cannot be (docs/protocol.md section
            2).
    """
    senders = _SENDERS.get(message.type)
    if senders is None:
        return _check_unknown(message)
    if sender not in senders:
        raise RemoteProtocolError(f"a {sender} sent {_name(message)}")
    if message.stream_id == 0 and message.type is MessageType.STREAM_START:
        raise RemoteProtocolError("STREAM_START with stream id 0")
    return True


def _check_unknown(message: Message) -> bool:
    if message.ignorable and message.type not in _SERVICE_ONLY:
        return False
    raise RemoteProtocolError(f"a client sent {_name(message)}")


_SERVICE_ONLY: Final = frozenset({MessageType.SERVICE_IDS, MessageType.SESSION_RESET})


def _name(message: Message) -> str:
    if isinstance(message.type, MessageType):
        return message.type.name
    return f"a message of unknown type {message.type}"


MAX_STREAMS: Final = 1024
MAX_CONNECTIONS_REMEMBERED: Final = 1024
FIRST_CONNECTION: Final = 1


@dataclass(slots=True)
class ActiveStream:
    """One service's active stream.

    Attributes:
        stream_id: its id.
        has_connection_ids: whether it is a V3 stream.
        connection_ids: its open connections, as far as remembered.
        asks_for_marks: whether its STREAM_START was marked (docs/protocol.md section 3a).
        marks: whether both sides tell the kinds of end apart.
        ended_by: V1 and V2: the side that has ended its direction alone.
    """

    stream_id: int
    has_connection_ids: bool
    connection_ids: set[int] = field(default_factory=set)
    asks_for_marks: bool = False
    marks: bool = False
    ended_by: Mode | None = None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the source has ended its direction, and it is not known yet if one is left.

        The hello may be on its way. A destination that has none takes the reset for the end of all.
        """
        return self.ended_by is Mode.SOURCE and not self.marks

    def any_connection(self) -> int:
        """Return a connection id for a message about the whole stream; 0 means none is due."""
        if not self.has_connection_ids:
            return 0
        return min(self.connection_ids, default=FIRST_CONNECTION)


class StreamTable:
    """The active streams of one tunnel: service id -> stream."""

    __slots__ = ("_active",)

    def __init__(self) -> None:
        self._active: dict[str, ActiveStream] = {}

    def __len__(self) -> int:
        return sum(not each.is_in_doubt for each in self._active.values())

    def note_hello(self, message: Message) -> None:
        """Take in an empty marked DATA of the destination: its answer to a marked start."""
        stream = self._active.get(message.service_id)
        if stream is not None and stream.stream_id == message.stream_id:
            stream.marks = stream.asks_for_marks

    def note(self, message: Message, sender: Mode) -> None:
        """Take in a control message that was relayed."""
        if message.type is MessageType.STREAM_START:
            self._start(message)
            return
        stream = self._active.get(message.service_id)
        if stream is None or stream.stream_id != message.stream_id:
            return
        if message.type is MessageType.STREAM_RESET:
            self._note_reset(stream, message, sender)
        elif message.type is MessageType.CONNECTION_RESET:
            stream.connection_ids.discard(message.connection_id or FIRST_CONNECTION)
        elif len(stream.connection_ids) < MAX_CONNECTIONS_REMEMBERED:
            stream.connection_ids.add(message.connection_id or FIRST_CONNECTION)

    def _note_reset(self, stream: ActiveStream, message: Message, sender: Mode) -> None:
        may_mark = stream.marks or (stream.asks_for_marks and sender is Mode.SOURCE)
        is_half = may_mark and message.ignorable and not stream.has_connection_ids
        if is_half and stream.ended_by in (None, sender):
            # The other direction stays, and that side is to be told when this one is lost.
            stream.ended_by = sender
        else:
            del self._active[message.service_id]

    def _start(self, message: Message) -> None:
        if message.service_id not in self._active and len(self._active) >= MAX_STREAMS:
            return
        connections = {message.connection_id} if message.connection_id else set()
        self._active[message.service_id] = ActiveStream(
            message.stream_id, bool(message.connection_id), connections, message.ignorable
        )

    def take_resets(
        self, service_id: str | None = None, *, to: Mode | None = None
    ) -> list[Message]:
        """Forget a service's stream (None: every one), and return the STREAM_RESET of each.

        Args:
            service_id: the service.
            to: who alone is to have them. Of a stream in doubt that can be the source alone: AWS's
                C client as a destination does not survive a reset of what has ended for it
                (docs/protocol.md section 4).
        """
        ids = list(self._active) if service_id is None else [service_id]
        taken = [(each, self._active.pop(each)) for each in ids if each in self._active]
        if to is not Mode.SOURCE:
            taken = [each for each in taken if not each[1].is_in_doubt]
        return [
            Message(
                MessageType.STREAM_RESET,
                stream_id=stream.stream_id,
                service_id=each,
                connection_id=stream.any_connection(),
            )
            for each, stream in taken
        ]


def reset_for(start: Message) -> Message:
    """Return the STREAM_RESET that answers a STREAM_START which cannot be relayed."""
    return Message(
        MessageType.STREAM_RESET,
        stream_id=start.stream_id,
        service_id=start.service_id,
        connection_id=start.connection_id,
    )
