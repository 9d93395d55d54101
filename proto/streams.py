"""Active streams, their connections, and the ids of new ones (PROTOCOL.md section 3).

Owns what a session remembers of its streams, and how a message of a stream carries ids in each
version. Knows no rule of who may do what: that is `session.py`.
"""

from __future__ import annotations

from .message import Message, MessageType
from .modes import ProtocolVersion

FIRST_CONNECTION_ID = 1
"""The connection that a STREAM_START brings with it, and the only one in V1 and V2."""
MAX_STREAM_ID = 2**31 - 1
MAX_CONNECTION_ID = 2**32 - 1


def following(number: int, largest: int) -> int:
    """Return the id after `number`: 1 after the largest, as 0 is invalid."""
    return number + 1 if number < largest else 1


class Stream:
    """One active stream.

    Args:
        service_id: the service as events and commands name it.
        stream_id: its id, not 0.
        version: the version that its messages are in.
        connection_id: its first connection.

    A connection is open until one side resets it, and half-closed until the other side has as well:
    what was on its way, or is still to be answered, is not lost (DESIGN.md section 5).

    Attributes:
        connection_ids: the open connections.
        receiving: those that this side has reset: what comes is still taken.
        sending: those that the peer has reset: what is left may still be sent.
    """

    __slots__ = (
        "_next_connection_id",
        "connection_ids",
        "receiving",
        "sending",
        "service_id",
        "stream_id",
        "version",
    )

    def __init__(
        self,
        service_id: str,
        stream_id: int,
        version: ProtocolVersion,
        connection_id: int = FIRST_CONNECTION_ID,
    ) -> None:
        self.service_id = service_id
        self.stream_id = stream_id
        self.version = version
        self.connection_ids = {connection_id}
        self.receiving: set[int] = set()
        self.sending: set[int] = set()
        self._next_connection_id = following(connection_id, MAX_CONNECTION_ID)

    def next_connection_id(self) -> int:
        """Return the id that the next connection gets: never one that is open."""
        candidate = self._next_connection_id
        while candidate in self.known_ids:
            candidate = following(candidate, MAX_CONNECTION_ID)
        return candidate

    @property
    def known_ids(self) -> set[int]:
        """Return the connections that are open or half-closed."""
        if not self.receiving and not self.sending:
            return self.connection_ids
        return self.connection_ids | self.receiving | self.sending

    def can_receive(self, connection_id: int) -> bool:
        """Tell whether DATA of the peer is taken."""
        return connection_id in self.connection_ids or connection_id in self.receiving

    def can_send(self, connection_id: int) -> bool:
        """Tell whether DATA may be sent."""
        return connection_id in self.connection_ids or connection_id in self.sending

    def end_local(self, connection_id: int) -> bool:
        """Note that this side resets a connection; return whether that is news to the peer."""
        return self._end(connection_id, self.receiving, self.sending)

    def end_remote(self, connection_id: int) -> bool:
        """Note that the peer has reset a connection; return whether that is news."""
        return self._end(connection_id, self.sending, self.receiving)

    def forget(self, connection_id: int) -> None:
        """Keep nothing of a connection."""
        for ids in (self.connection_ids, self.receiving, self.sending):
            ids.discard(connection_id)

    def _end(self, connection_id: int, half: set[int], other_half: set[int]) -> bool:
        if connection_id in self.connection_ids:
            self.connection_ids.remove(connection_id)
            half.add(connection_id)
            return True
        if connection_id in other_half:
            other_half.remove(connection_id)
            return True
        return False

    def add_connection(self, connection_id: int) -> None:
        """Open a connection; later ones get ids after it."""
        self.connection_ids.add(connection_id)
        if connection_id >= self._next_connection_id:
            self._next_connection_id = following(connection_id, MAX_CONNECTION_ID)

    def message(self, type_: MessageType, connection_id: int, payload: bytes = b"") -> Message:
        """Return a message of one connection with the ids that the version carries."""
        if self.version is ProtocolVersion.V3:
            return Message(
                type_, self.stream_id, False, payload, self.service_id, (), connection_id
            )
        service_id = "" if self.version is ProtocolVersion.V1 else self.service_id
        return Message(type_, self.stream_id, False, payload, service_id)

    def reset_message(self) -> Message:
        """Return the STREAM_RESET of this stream.

        In V3 it names a connection, any one: the C client takes it for another version otherwise
        (PROTOCOL.md section 4).
        """
        connection_id = min(self.connection_ids, default=FIRST_CONNECTION_ID)
        return self.message(MessageType.STREAM_RESET, connection_id)


class StreamIds:
    """Gives out stream ids, for each service on its own, none twice.

    It outlives connections: an id that came back could make a late message of a lost stream look
    current.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def take(self, service_id: str) -> int:
        """Return a new stream id for `service_id`: 1, 2, 3 and so on."""
        stream_id = following(self._last.get(service_id, 0), MAX_STREAM_ID)
        self._last[service_id] = stream_id
        return stream_id
