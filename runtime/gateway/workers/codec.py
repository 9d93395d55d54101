"""What goes between a gateway and its worker processes, as bytes: a length, then JSON.

Owns the form and its bounds, and which classes travel: configurations, events and numbers of
tunnels, each as its name and its fields; nothing else is made of what comes. A TLS context cannot
travel; the sender leaves it out. Both ends are of one version, as the gateway starts its workers:
what does not follow the form is a bug, and ends the connection. Pure.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import HttpProxy, TcpAddress, UnixAddress
from tunnelfleet.actors.config import Limits, NoListener, TunnelConfig
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.actors.transport.breaker import BreakerState
from tunnelfleet.actors.transport.connect_gate import BreakerStatus, ConnectStats
from tunnelfleet.proto import Endpoint, Mode, ProtocolVersion

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


def to_json(value: Any) -> Any:
    """Return a value in the types of JSON.

    Raises:
        TypeError: it is of a class that does not travel.
    """
    name = type(value).__name__
    if _ENUMS.get(name) is type(value):
        return {_CLASS: name, "is": value.value}
    if _CLASSES.get(name) is type(value):
        return {_CLASS: name} | {
            each: to_json(getattr(value, each)) for each in _names(value) if each not in _LEFT_OUT
        }
    if value is None or isinstance(value, str | int | float | bool):
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
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    given = dict(value)
    name = given.pop(_CLASS, None)
    try:
        if name == "tuple":
            return tuple(from_json(each) for each in given["is"])
        if name == "dict":
            return {key: from_json(each) for key, each in given["is"]}
        if name in _ENUMS:
            return _ENUMS[name](given["is"])
        if name in _CLASSES:
            return _CLASSES[name](**{key: from_json(each) for key, each in given.items()})
    except (KeyError, TypeError) as error:
        raise ValueError(f"a {name} cannot be read: {type(error).__name__}") from None
    raise ValueError("a value of an unknown class came")


def _names(value: Any) -> tuple[str, ...]:
    if is_dataclass(value):
        return tuple(each.name for each in fields(value) if each.init)
    names: tuple[str, ...] = value._fields
    return names
