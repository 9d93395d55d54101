"""Configurations, events and numbers of tunnels as JSON, for the way between two processes.

Owns which classes travel: each is written as its name and its fields, and nothing else is made of
what comes. What cannot travel, a TLS context, is left out by whoever sends. Pure.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import HttpProxy, TcpAddress, UnixAddress
from tunnelfleet.actors.config import Limits, NoListener, TunnelConfig
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.actors.transport.breaker import BreakerState
from tunnelfleet.actors.transport.connect_gate import BreakerStatus, ConnectStats
from tunnelfleet.proto import Endpoint, Mode, ProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["from_json", "to_json"]

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
    """A value as JSON knows it.

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
    """What `to_json` was given.

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
