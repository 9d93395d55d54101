"""Active streams, their connections, and the ids of new ones (docs/protocol.md section 3).

Owns what a session remembers of its streams, and how a message of a stream carries ids in each
version. Knows no rule of who may do what: that is `session.py`.
"""

from __future__ import annotations

from .message import Message, MessageType
from .modes import ProtocolVersion
from .transitions import ENDS, Agreement, Happening, Phase, Step

MAX_STREAM_ID = 2**31 - 1
MAX_CONNECTION_ID = 2**32 - 1
MAY_SEND = (Phase.OPEN, Phase.REMOTE_ENDED)
"""The phases of a connection in which DATA may be sent."""


def following(number: int, largest: int) -> int:
    """Return the id after `number`: 1 after the largest, as 0 is invalid."""
    return number + 1 if number < largest else 1


FIRST_CONNECTION_ID = 1
"""The id of the connection that a STREAM_START opens, the only one in V1 and V2."""


class Stream:
    """One active stream.

    Args:
        service_id: the service as events and commands name it.
        stream_id: its id, not 0.
        version: the version that its messages are in.
        connection_id: its first connection.
        agreement: whether its two ends tell the kinds of end apart.

    Attributes:
        connections: the connections that have not wholly ended, and which directions each has left.
        is_marking: whether its messages are marked, as `agreement` says.
        is_unheard: whether it was started here, and nothing has come from the other end yet.
        service_id_sent: the service as messages of the version name it: not at all in V1.
        sends_connection_ids: whether messages of the version carry the connection's id.
    """

    __slots__ = (
        "_next_connection_id",
        "agreement",
        "connections",
        "is_marking",
        "is_unheard",
        "sends_connection_ids",
        "service_id",
        "service_id_sent",
        "stream_id",
        "version",
    )

    def __init__(
        self,
        service_id: str,
        stream_id: int,
        version: ProtocolVersion,
        connection_id: int = FIRST_CONNECTION_ID,
        agreement: Agreement = Agreement.UNMARKED,
    ) -> None:
        self.service_id = service_id
        self.stream_id = stream_id
        self.version = version
        self.service_id_sent = "" if version is ProtocolVersion.V1 else service_id
        self.sends_connection_ids = version is ProtocolVersion.V3
        self.connections = {connection_id: Phase.OPEN}
        self._next_connection_id = following(connection_id, MAX_CONNECTION_ID)
        self.settle(agreement)

    def settle(self, agreement: Agreement) -> None:
        """Note whether the other end tells the kinds of end apart."""
        self.agreement = agreement
        self.is_marking = agreement.is_marking
        self.is_unheard = agreement.is_unheard

    def next_connection_id(self) -> int:
        """Return the id that the next connection gets: never one that is in use."""
        candidate = self._next_connection_id
        while candidate in self.connections:
            candidate = following(candidate, MAX_CONNECTION_ID)
        return candidate

    @property
    def open_ids(self) -> frozenset[int]:
        """Return the connections whose two directions are both open."""
        return frozenset(
            connection_id
            for connection_id, phase in self.connections.items()
            if phase is Phase.OPEN
        )

    def step(self, connection_id: int, happening: Happening) -> Step | None:
        """Apply what happens to a connection; return what follows, or None if nothing does."""
        phase = self.connections.get(connection_id)
        if phase is None:
            return None
        step = ENDS[self.agreement].get((phase, happening))
        if step is None:
            return None
        if step.phase is Phase.GONE:
            del self.connections[connection_id]
        elif step.phase is not phase:
            self.connections[connection_id] = step.phase
        return step

    def add_connection(self, connection_id: int) -> None:
        """Open a connection. Later ones get higher ids."""
        self.connections[connection_id] = Phase.OPEN
        if connection_id >= self._next_connection_id:
            self._next_connection_id = following(connection_id, MAX_CONNECTION_ID)

    def message(
        self,
        type_: MessageType,
        connection_id: int,
        payload: bytes = b"",
        *,
        is_marked: bool = False,
    ) -> Message:
        """Return a message of one connection with the ids that the version carries."""
        ids = self.service_id_sent, (), connection_id if self.sends_connection_ids else 0
        return Message(type_, self.stream_id, is_marked, payload, *ids)

    def reset_of(self, connection_id: int, *, is_marked: bool) -> Message:
        """Return the reset of one connection: in V1 and V2 it is that of the stream."""
        is_v3 = self.version is ProtocolVersion.V3
        type_ = MessageType.CONNECTION_RESET if is_v3 else MessageType.STREAM_RESET
        return self.message(type_, connection_id, is_marked=is_marked)

    def stream_resets(self) -> list[Message]:
        """Return what tells the peer that the stream is over, with all its connections: unmarked.

        In V3 the STREAM_RESET names a connection, any one: the C client takes it for another
        version otherwise (docs/protocol.md section 4). In V1 and V2 none is due where this side has
        sent its reset to a peer that may not take a second one.
        """
        if self.version is not ProtocolVersion.V3:
            phase = self.connections.get(FIRST_CONNECTION_ID)
            has_ended = phase in (Phase.LOCAL_ENDED, Phase.CLOSED, Phase.ABORTED)
            if has_ended and self.agreement.awaits_hello:
                return []
        connection_id = min(self.open_ids, default=FIRST_CONNECTION_ID)
        return [self.message(MessageType.STREAM_RESET, connection_id)]


class StreamIds:
    """Gives out stream ids, for each service on its own, none twice.

    It outlives connections: an id that came back could make a late message of a lost stream look
    current.

    Args:
        first: the first id of each service.
    """

    __slots__ = ("_before", "_last")

    def __init__(self, first: int = 1) -> None:
        self._before = first - 1
        self._last: dict[str, int] = {}

    def take(self, service_id: str) -> int:
        """Return a new stream id for `service_id`: the first, the next one, and so on."""
        stream_id = following(self._last.get(service_id, self._before), MAX_STREAM_ID)
        self._last[service_id] = stream_id
        return stream_id
