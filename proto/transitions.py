"""The table of the session: what to do with which message (docs/protocol.md sections 2 and 3).

Owns who may send what, in which version, and which action that is. What an action does is in
`session.py`. The table is keyed by mode and version, then by message type; a row changes only when
SERVICE_IDS arrives or when a destination first sees a version.

The *shape* of a message is the version that its ids speak: a connection id says V3, else a service
id V2, else V1. The shapes that a rule accepts are those of its version, and where real peers
differ:

- STREAM_RESET may lack the ids of the session's version: localproxy leaves the connection id out
  when it could not connect locally, and so does the service when a peer was replaced. With a
  service id it is also taken in V1. It ends the stream in any case, whatever else it says.
- A V3 destination takes DATA and CONNECTION_* without a connection id for connection 1.
- Nothing else: a message of another version is a protocol error. The guide would have a V1
  destination start over when a service id appears; dropping the connection does that for every pair
  of versions, works with both observed peers, and cannot mistake one for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, auto
from typing import NamedTuple

from .message import MessageType
from .modes import Mode, ProtocolVersion


class Action(IntEnum):
    """What a session does with a message."""

    ANNOUNCE = auto()
    """Take the services of the tunnel, which can be used from now on."""
    REPEAT = auto()
    """Compare the services with those announced before."""
    START_STREAM = auto()
    START_CONNECTION = auto()
    DELIVER = auto()
    RESET_CONNECTION = auto()
    RESET_STREAM = auto()
    RESET_SESSION = auto()
    DROP_STALE = auto()
    """No stream can exist that it belongs to."""
    REFUSE_EARLY = auto()
    """It came before SERVICE_IDS, which is not allowed."""
    REFUSE_DIRECTION = auto()
    """Only a source may send it, and this side is the source."""
    REFUSE_VERSION = auto()
    """The session's version does not have it."""


class Rule(NamedTuple):
    """What to do with one type of message, and which shapes of it are accepted."""

    action: Action
    shapes: frozenset[ProtocolVersion]


Row = dict[int, Rule]
"""The rules by message type. A type without a rule is unknown."""

_T, _V = MessageType, ProtocolVersion
_V1, _V2, _V3 = frozenset({_V.V1}), frozenset({_V.V2}), frozenset({_V.V3})
_ANY = _V1 | _V2 | _V3

_REFUSE_DIRECTION = Rule(Action.REFUSE_DIRECTION, _ANY)
_REFUSE_VERSION = Rule(Action.REFUSE_VERSION, _ANY)
_DROP_STALE = Rule(Action.DROP_STALE, _ANY)

_FROM_SERVICE: Row = {
    _T.SERVICE_IDS: Rule(Action.REPEAT, _ANY),
    _T.SESSION_RESET: Rule(Action.RESET_SESSION, _ANY),
}

BEFORE_SERVICE_IDS: Row = {
    int(type_): Rule(Action.REFUSE_EARLY, _ANY) for type_ in MessageType if type_ is not _T.UNKNOWN
} | {_T.SERVICE_IDS: Rule(Action.ANNOUNCE, _ANY)}
"""The row of a connection on which the service has not announced the services yet."""

TABLE: Mapping[tuple[Mode, ProtocolVersion | None], Row] = {
    (Mode.DESTINATION, None): _FROM_SERVICE
    | {
        _T.STREAM_START: Rule(Action.START_STREAM, _ANY),
        _T.STREAM_RESET: _DROP_STALE,
        _T.DATA: _DROP_STALE,
        _T.CONNECTION_START: _DROP_STALE,
        _T.CONNECTION_RESET: _DROP_STALE,
    },
    (Mode.DESTINATION, _V.V1): _FROM_SERVICE
    | {
        _T.STREAM_START: Rule(Action.START_STREAM, _V1),
        _T.STREAM_RESET: Rule(Action.RESET_STREAM, _V1 | _V2),
        _T.DATA: Rule(Action.DELIVER, _V1),
        _T.CONNECTION_START: _REFUSE_VERSION,
        _T.CONNECTION_RESET: _REFUSE_VERSION,
    },
    (Mode.DESTINATION, _V.V2): _FROM_SERVICE
    | {
        _T.STREAM_START: Rule(Action.START_STREAM, _V2),
        _T.STREAM_RESET: Rule(Action.RESET_STREAM, _V1 | _V2),
        _T.DATA: Rule(Action.DELIVER, _V2),
        _T.CONNECTION_START: _REFUSE_VERSION,
        _T.CONNECTION_RESET: _REFUSE_VERSION,
    },
    (Mode.DESTINATION, _V.V3): _FROM_SERVICE
    | {
        _T.STREAM_START: Rule(Action.START_STREAM, _V3),
        _T.STREAM_RESET: Rule(Action.RESET_STREAM, _ANY),
        _T.DATA: Rule(Action.DELIVER, _V2 | _V3),
        _T.CONNECTION_START: Rule(Action.START_CONNECTION, _V2 | _V3),
        _T.CONNECTION_RESET: Rule(Action.RESET_CONNECTION, _V2 | _V3),
    },
    (Mode.SOURCE, _V.V1): _FROM_SERVICE
    | {
        _T.STREAM_START: _REFUSE_DIRECTION,
        _T.STREAM_RESET: Rule(Action.RESET_STREAM, _V1 | _V2),
        _T.DATA: Rule(Action.DELIVER, _V1),
        _T.CONNECTION_START: _REFUSE_DIRECTION,
        _T.CONNECTION_RESET: _REFUSE_VERSION,
    },
    (Mode.SOURCE, _V.V2): _FROM_SERVICE
    | {
        _T.STREAM_START: _REFUSE_DIRECTION,
        _T.STREAM_RESET: Rule(Action.RESET_STREAM, _V1 | _V2),
        # On a tunnel without services V2 is the same bytes as V1 (docs/protocol.md section 4).
        _T.DATA: Rule(Action.DELIVER, _V1 | _V2),
        _T.CONNECTION_START: _REFUSE_DIRECTION,
        _T.CONNECTION_RESET: _REFUSE_VERSION,
    },
    (Mode.SOURCE, _V.V3): _FROM_SERVICE
    | {
        _T.STREAM_START: _REFUSE_DIRECTION,
        _T.STREAM_RESET: Rule(Action.RESET_STREAM, _ANY),
        _T.DATA: Rule(Action.DELIVER, _V3),
        _T.CONNECTION_START: _REFUSE_DIRECTION,
        _T.CONNECTION_RESET: Rule(Action.RESET_CONNECTION, _V3),
    },
}
"""The row of a mode in a version. A destination has no version until it has seen a STREAM_START."""
