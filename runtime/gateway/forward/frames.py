"""What two gateways of a fleet say to each other over one connection. Pure: bytes in, frames out.

A connection carries one question. Whoever calls sends `HELLO`, which says what it wants; then both
sides send frames of a byte for the kind, two for the length, and the payload:

    HELLO   the question, as JSON; the first frame of the caller, and of nobody else
    DATA    bytes; the first line of the one who is called is the answer, as JSON
    END     this direction is over in good order: all was sent
    CUT     both directions are over, and not in good order; the payload says why
    ALIVE   nothing else was to be said for a while

An end of the connection without `END` is a cut, whatever TCP says: no end is a lie.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.proto import RemoteProtocolError, printable
from tunnelfleet.runtime.gateway.door.handshake import Denial

if TYPE_CHECKING:
    from collections.abc import Iterator


VERSION = 1
MAX_PAYLOAD_BYTES = 65_535
MAX_QUESTION_BYTES = 16_384
ANSWER_BYTES = 4_096
"""The longest line of an answer."""
MAX_TEXT_CHARACTERS = 600
_HEAD = struct.Struct("!BH")


class FrameKind(IntEnum):
    """What a frame is; see above."""

    HELLO = 1
    DATA = 2
    END = 3
    CUT = 4
    ALIVE = 5


class GatewayFrame(NamedTuple):
    """One frame."""

    kind: FrameKind
    payload: bytes = b""


def encode_frame(kind: FrameKind, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame; the payload has at most `MAX_PAYLOAD_BYTES`."""
    return _HEAD.pack(kind, len(payload)) + payload


class GatewayFrameReader:
    """Cuts a stream into frames. It keeps at most one that is not whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[GatewayFrame]:
        """Take bytes, and yield the frames that are whole.

        Raises:
            RemoteProtocolError: the other side does not speak this.
        """
        self._buffer += data
        at, end = 0, len(self._buffer)
        try:
            while end - at >= _HEAD.size:
                number, length = _HEAD.unpack_from(self._buffer, at)
                try:
                    kind = FrameKind(number)
                except ValueError:
                    raise RemoteProtocolError(f"there is no frame of kind {number}") from None
                start = at + _HEAD.size
                if end - start < length:
                    return
                at = start + length
                yield GatewayFrame(kind, bytes(self._buffer[start:at]))
        finally:
            del self._buffer[:at]


class Ask(StrEnum):
    """The kinds of questions, as they are called on the wire."""

    CONNECT = "connect"
    """To carry what follows to a tunnel."""
    TUNNELS = "tunnels"
    """To tell which tunnels there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a gateway asks another one.

    Attributes:
        ask: its kind.
        target: the tunnel, and after a colon the service, as a client of a door writes it.
        port: the number behind that, if there is one.
        user: who the client is, as the door of the asking gateway knows it; empty for nobody.
        peer: where the client is, for people.
        filters: of the tunnels that are asked for, as in the admin API.
    """

    ask: Ask
    target: str = ""
    port: int | None = None
    user: str = ""
    peer: str = ""
    filters: dict[str, list[str]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the payload of `HELLO`."""
        return json.dumps({"version": VERSION, **asdict(self)}).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Question:
        """Read the payload of `HELLO`.

        Raises:
            RemoteProtocolError: it is none, or of a later version.
        """
        given = _object(payload, MAX_QUESTION_BYTES)
        if given.pop("version", None) != VERSION:
            raise RemoteProtocolError("it speaks another version: run the same one at both")
        match given:
            case {
                "ask": str(ask),
                "target": str(target),
                "port": int() | None as port,
                "user": str(user),
                "peer": str(peer),
                "filters": dict(filters),
            } if ask in set(Ask):
                texts = {
                    str(key): [str(each) for each in values] for key, values in _lists(filters)
                }
                return cls(
                    ask=Ask(ask), target=target, port=port, user=user, peer=peer, filters=texts
                )
        raise RemoteProtocolError("its question cannot be read")


def _lists(filters: dict[Any, Any]) -> Iterator[tuple[Any, list[Any]]]:
    for key, values in filters.items():
        if not isinstance(values, list):
            raise RemoteProtocolError("its question cannot be read")
        yield key, values


@dataclass(frozen=True, slots=True)
class ForwardAnswer:
    """What the gateway that was asked says before bytes flow.

    Attributes:
        denial: why not; None if it carries what follows.
        text: the same for people.
    """

    denial: Denial | None = None
    text: str = ""

    def encode(self) -> bytes:
        """Return the line."""
        if self.denial is None:
            return b"{}\n"
        text = printable(self.text, MAX_TEXT_CHARACTERS)
        return json.dumps({"denial": self.denial.value, "text": text}).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> ForwardAnswer:
        """Read the line.

        Raises:
            RemoteProtocolError: it is none.
        """
        given = _object(line, ANSWER_BYTES)
        if not given:
            return cls()
        match given:
            case {"denial": str(value), "text": str(text)}:
                known = next((each for each in Denial if each.value == value), Denial.FAILED)
                return cls(known, printable(text, MAX_TEXT_CHARACTERS))
        raise RemoteProtocolError("its answer cannot be read")


def _object(data: bytes, limit_bytes: int) -> dict[str, Any]:
    try:
        given = json.loads(data) if len(data) <= limit_bytes else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise RemoteProtocolError("it does not speak the language of gateways")
    return given
