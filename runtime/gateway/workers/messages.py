"""What goes between a gateway and its worker processes: the words, and their form as bytes.

A word of the wire is the value of `do` in what a worker is told, or of `is` in what it tells; all
that is about a tunnel has its `serial`, which no two runs of a tunnel share. Each message is a
length, then JSON, within bounds; configurations, events and numbers travel as a name and fields. A
TLS context cannot. Both ends are of one version: what breaks the form is a bug, and ends the way.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import HttpProxy, TcpAddress, UnixAddress
from tunnelfleet.actors.config import Limits, NoListener, TunnelConfig
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.actors.transport.connect_gate import BreakerState, BreakerStatus, ConnectStats
from tunnelfleet.proto import Endpoint, Mode, ProtocolVersion


class Do(StrEnum):
    """What a worker is told."""

    BEGIN = "begin"
    """The first command: begin, with this share of the connects."""
    OPEN = "open"
    CLOSE = "close"
    DRAIN = "drain"
    TOKEN = "token"  # noqa: S105 - a word of the wire
    LIMITS = "limits"
    CARRY = "carry"
    """The socket that comes with it goes to a source's service."""
    GATE = "gate"
    """Connects are suspended, or allowed again."""
    TREE = "tree"
    FREEZE = "freeze"
    """The fleet is up: keep what there is out of the garbage collector's sight."""


class Is(StrEnum):
    """What a worker tells."""

    STARTED = "started"
    BEAT = "beat"
    """A sign of life, with what the worker's governor has done."""
    REPORT = "report"
    EVENT = "event"
    CLOSED = "closed"
    FAILED = "failed"
    """A tunnel could not be opened."""
    CARRIED = "carried"
    LOG = "log"
    TREE = "tree"


class ToWorker(NamedTuple):
    """Tell the worker this, and give it a copy of the socket."""

    message: dict[str, Any]
    sock: socket.socket | None = None


class AskTree(NamedTuple):
    """Asks a worker for its actors: a list of `ActorNode`."""


class WorkerUp(NamedTuple):
    """The worker of a tunnel has started: it can be told things through this actor."""

    worker: ActorRef[Any]


class WorkerLost(NamedTuple):
    """The worker of a tunnel has ended, with all that it had; `reason` is for people."""

    reason: str


class Told(NamedTuple):
    """A worker has reported something about a tunnel."""

    kind: Is
    message: dict[str, Any]


EXHAUSTED: Final = "exhausted"
"""In the place of an error's class where a socket was not taken over for want of a descriptor."""
MAX_FRAME_BYTES: Final = 16_777_216
"""The longest message; a report on tunnels is cut into several."""
_LENGTH: Final = struct.Struct(">I")


class FrameError(Exception):
    """What came is not a message."""


def encode_frame(message: dict[str, Any]) -> bytes:
    """Return a message as bytes.

    Raises:
        FrameError: it is too long.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a message has {len(body)} bytes; at most {MAX_FRAME_BYTES} are possible")
    return _LENGTH.pack(len(body)) + body


class MessageDecoder:
    """Makes messages of bytes, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_amid(self) -> bool:
        """Whether a message has begun whose end has not come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes; returns the messages that are whole.

        Raises:
            FrameError: a length is beyond the limit, or a body is no JSON object.
        """
        self._buffer += data
        found = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a message of {length} bytes is announced")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            found.append(_parse(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return found


def _parse(body: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise FrameError("a message is no JSON") from None
    if not isinstance(found, dict):
        raise FrameError("a message is no JSON object")
    return found


_CLASS: Final = "!"
_EVENTS: Final = [getattr(events, name) for name in events.__all__]
_CLASSES: Final[Mapping[str, type[Any]]] = {
    each.__name__: each
    for each in (
        Backoff,
        BreakerStatus,
        ConnectStats,
        Endpoint,
        HttpProxy,
        Limits,
        NoListener,
        TcpAddress,
        TunnelConfig,
        UnixAddress,
        *_EVENTS,
    )
}
_ENUMS: Final = {each.__name__: each for each in (BreakerState, Mode, ProtocolVersion, TunnelState)}
_LEFT_OUT: Final = frozenset({"ssl_context"})
MAX_NESTING: Final = 32
"""The most levels of a value from a worker; those of a tunnel have five."""


def to_json(value: Any) -> Any:
    """Return a value in the types of JSON.

    Raises:
        TypeError: it is of a class that does not travel.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    name = type(value).__name__
    if _ENUMS.get(name) is type(value):
        return {_CLASS: name, "is": value.value}
    if _CLASSES.get(name) is type(value):
        names = [each for each in _names(value) if each not in _LEFT_OUT]
        return {_CLASS: name} | {each: to_json(getattr(value, each)) for each in names}
    return _collection_to_json(value, name)


def _collection_to_json(value: Any, name: str) -> Any:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        return {_CLASS: "tuple", "is": [to_json(each) for each in value]}
    if isinstance(value, list):
        return [to_json(each) for each in value]
    if hasattr(value, "items"):
        return {_CLASS: "dict", "is": [[key, to_json(each)] for key, each in value.items()]}
    raise TypeError(f"a {name} does not go to another process")


def from_json(value: Any) -> Any:
    """Return the value that `to_json` was given.

    Raises:
        ValueError: it says something else.
    """
    return _read(value, MAX_NESTING)


def _read(value: Any, levels: int) -> Any:
    if not isinstance(value, list | dict):
        return value
    if not levels:
        raise ValueError("a value is nested too deep")
    levels -= 1
    if isinstance(value, list):
        return [_read(each, levels) for each in value]
    given = dict(value)
    name = given.pop(_CLASS, None)
    try:
        return _made(name, given, levels)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a {name} cannot be read: {type(error).__name__}") from None


def _made(name: Any, given: dict[str, Any], levels: int) -> Any:
    """Make the value of a class of what is said of it."""
    if name == "tuple":
        return tuple(_read(each, levels) for each in given["is"])
    if name == "dict":
        return {key: _read(each, levels) for key, each in given["is"]}
    if name in _ENUMS:
        return _ENUMS[name](given["is"])
    if name in _CLASSES:
        return _CLASSES[name](**{key: _read(each, levels) for key, each in given.items()})
    raise ValueError("a value of an unknown class came")


def _names(value: Any) -> tuple[str, ...]:
    if is_dataclass(value):
        return tuple(each.name for each in fields(value) if each.init)
    names: tuple[str, ...] = value._fields
    return names
