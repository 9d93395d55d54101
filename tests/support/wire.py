"""Short names for messages and for sessions that are ready, so that tests read as a transcript."""

from __future__ import annotations

from tunnelfleet.proto import Message, MessageType, Mode, ProtocolVersion, Session

V1, V2, V3 = ProtocolVersion.V1, ProtocolVersion.V2, ProtocolVersion.V3
T = MessageType


def service_ids(*names: str) -> Message:
    return Message(T.SERVICE_IDS, available_service_ids=names)


def stream_start(service: str = "SSH", stream: int = 1, connection: int = 1) -> Message:
    return Message(T.STREAM_START, stream, service_id=service, connection_id=connection)


def stream_reset(service: str = "SSH", stream: int = 1, connection: int = 1) -> Message:
    return Message(T.STREAM_RESET, stream, service_id=service, connection_id=connection)


def connection_start(service: str = "SSH", stream: int = 1, connection: int = 2) -> Message:
    return Message(T.CONNECTION_START, stream, service_id=service, connection_id=connection)


def connection_reset(service: str = "SSH", stream: int = 1, connection: int = 1) -> Message:
    return Message(T.CONNECTION_RESET, stream, service_id=service, connection_id=connection)


def data(
    payload: bytes = b"hello", service: str = "SSH", stream: int = 1, connection: int = 1
) -> Message:
    return Message(T.DATA, stream, payload=payload, service_id=service, connection_id=connection)


def tunnel_frame(body: bytes) -> bytes:
    """A tunnel frame of any body, whether or not it is a message."""
    return len(body).to_bytes(2, "big") + body


SESSION_RESET = Message(T.SESSION_RESET)

STARTS = {
    V1: Message(T.STREAM_START, 1),
    V2: Message(T.STREAM_START, 1, service_id="SSH"),
    V3: stream_start(),
}
"""How a version starts the first connection of a destination."""


def reset_in(version: ProtocolVersion) -> Message:
    """The reset of the connection that `STARTS` starts."""
    return STARTS[version]._replace(type=T.CONNECTION_RESET if version is V3 else T.STREAM_RESET)


def data_in(version: ProtocolVersion, payload: bytes = b"x") -> Message:
    """DATA of the connection that `STARTS` starts."""
    return STARTS[version]._replace(type=T.DATA, payload=payload)


def marked(message: Message) -> Message:
    return message._replace(ignorable=True)


def hello(start: Message) -> Message:
    """Return the answer of an end of ours to a marked STREAM_START."""
    return start._replace(type=T.DATA, ignorable=True)


def source(
    version: ProtocolVersion = V3,
    services: tuple[str, ...] = ("SSH", "HTTP"),
    *,
    marks: bool = False,
) -> Session:
    return _announced(Session(Mode.SOURCE, version, marks=marks), services)


def destination(services: tuple[str, ...] = ("SSH", "HTTP"), *, marks: bool = False) -> Session:
    return _announced(Session(Mode.DESTINATION, marks=marks), services)


def _announced(session: Session, services: tuple[str, ...]) -> Session:
    session.connected()
    session.receive(service_ids(*services))
    return session
