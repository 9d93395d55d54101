"""The tables of the protocol: what to do with which message, and how a connection ends.

The first is keyed by mode and version, then by message type (docs/protocol.md sections 2 and 3); a
row changes only when SERVICE_IDS arrives or when a destination first sees a version. The second
says which reset is sent, and what one that arrives means (section 3a). Pure data: `Session` looks
a row up, and does what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from typing import NamedTuple

from .message import MessageType
from .modes import Mode, ProtocolVersion


class Agreement(Enum):
    """Whether the two ends of a stream tell the kinds of end apart."""

    UNMARKED = "unmarked"
    """They do not tell them apart: one of the two cannot, or does not want to."""
    UNHEARD = "unheard"
    """As unmarked: a source does not want to. Nothing has come back yet."""
    ASKED = "asked"
    """A source sent a marked STREAM_START, and nothing has come back yet."""
    DOUBTED = "doubted"
    """As asked, but the hello is overdue: unmarked, unless a hello comes after all."""
    AGREED = "agreed"
    """The hello was sent, or has arrived."""

    @property
    def is_marking(self) -> bool:
        """Whether what this side sends is marked."""
        return self in (Agreement.ASKED, Agreement.AGREED)

    @property
    def awaits_hello(self) -> bool:
        """Whether the next message of the peer decides."""
        return self in (Agreement.ASKED, Agreement.DOUBTED)

    @property
    def is_unheard(self) -> bool:
        """Whether nothing has come from the peer on a stream that this side has started."""
        return self.awaits_hello or self is Agreement.UNHEARD


class Phase(Enum):
    """Which directions of a connection are still open."""

    OPEN = "open"
    LOCAL_ENDED = "local_ended"
    """This side has sent its orderly end; what the peer sends is still taken."""
    CLOSED = "closed"
    """As in the phase before, but nobody here takes anything: it is over for the local end."""
    ABORTED = "aborted"
    """Given up here before it was known whether the peer can be told; over for the local end."""
    REMOTE_ENDED = "remote_ended"
    """The peer has ended its direction in good order; what is left here may still be sent."""
    GONE = "gone"
    """Over. Its id is free."""


class Happening(Enum):
    """What happens to a connection."""

    END = "end"
    """The local application has sent all that it had."""
    ABORT = "abort"
    """The local end broke, was refused, or is stopped in mid-transfer."""
    LEAVE = "leave"
    """After its own end the local application takes nothing more, either: a client of the API."""
    PEER_DATA = "peer_data"
    PEER_END = "peer_end"
    """A marked reset arrived."""
    PEER_RESET = "peer_reset"
    """An unmarked reset arrived."""
    HELLO = "hello"
    """It turns out that the peer tells ends apart."""
    NO_HELLO = "no_hello"
    """It turns out that the peer does not tell ends apart."""


class End(Enum):
    """What the end that a session reports means for the local application."""

    ORDERLY = "orderly"
    """The peer's direction is over, in good order. This side's stays as long as it likes."""
    BOTH = "both"
    """Both directions are over, and nobody can tell whether in good order (an unmarked stream)."""
    CUT = "cut"
    """Both directions are over, and not in good order."""


class Step(NamedTuple):
    """What to do.

    Attributes:
        phase: what the connection is in from here on.
        reset: the reset to send: True a marked one, False an unmarked one, None none.
        end: what to report, or None.
    """

    phase: Phase
    reset: bool | None = None
    end: End | None = None


_A, _P, _H = Agreement, Phase, Happening
_MARKED, _UNMARKED = True, False

_Rows = dict[tuple[Phase, Happening], Step]

_PLAIN: _Rows = {
    # The first reset ends both directions at once, so a connection is open or it is gone.
    (_P.OPEN, _H.END): Step(_P.GONE, _UNMARKED),
    (_P.OPEN, _H.ABORT): Step(_P.GONE, _UNMARKED),
    (_P.OPEN, _H.PEER_DATA): Step(_P.OPEN),
    (_P.OPEN, _H.PEER_END): Step(_P.GONE, end=End.BOTH),
    (_P.OPEN, _H.PEER_RESET): Step(_P.GONE, end=End.BOTH),
}
_CUT_UNHEARD: _Rows = {
    # The peer's first message. So a service says that nobody is there, and a destination that it
    # cannot connect: an answer that has not begun is not one that is whole.
    (_P.OPEN, _H.PEER_END): Step(_P.GONE, end=End.CUT),
    (_P.OPEN, _H.PEER_RESET): Step(_P.GONE, end=End.CUT),
}
_UNMARKED_ROWS: _Rows = _PLAIN | {
    # What a half-closed connection becomes when the peer turns out not to know of such.
    (_P.LOCAL_ENDED, _H.NO_HELLO): Step(_P.GONE, end=End.BOTH),
    (_P.CLOSED, _H.NO_HELLO): Step(_P.GONE),
    (_P.ABORTED, _H.NO_HELLO): Step(_P.GONE),
}
_DOUBTED: _Rows = (
    _PLAIN
    | _CUT_UNHEARD
    | {
        # As above, but kept in mind: should a hello come after all, the peer is told.
        (_P.LOCAL_ENDED, _H.NO_HELLO): Step(_P.ABORTED, end=End.BOTH),
        (_P.ABORTED, _H.HELLO): Step(_P.GONE, _UNMARKED),
    }
)
_ASKED: _Rows = _CUT_UNHEARD | {
    (_P.OPEN, _H.END): Step(_P.LOCAL_ENDED, _MARKED),
    (_P.OPEN, _H.ABORT): Step(_P.GONE, _UNMARKED),
    # A reset was sent, and this may be a peer that a second one crashes: the hello decides.
    (_P.LOCAL_ENDED, _H.ABORT): Step(_P.ABORTED),
    (_P.ABORTED, _H.HELLO): Step(_P.GONE, _UNMARKED),
    (_P.CLOSED, _H.ABORT): Step(_P.ABORTED),
    (_P.LOCAL_ENDED, _H.LEAVE): Step(_P.CLOSED),
}
_AGREED: _Rows = {
    (_P.OPEN, _H.END): Step(_P.LOCAL_ENDED, _MARKED),
    (_P.REMOTE_ENDED, _H.END): Step(_P.GONE, _MARKED),
    (_P.OPEN, _H.ABORT): Step(_P.GONE, _UNMARKED),
    (_P.LOCAL_ENDED, _H.ABORT): Step(_P.GONE, _UNMARKED),
    (_P.REMOTE_ENDED, _H.ABORT): Step(_P.GONE, _UNMARKED),
    (_P.LOCAL_ENDED, _H.LEAVE): Step(_P.CLOSED),
    (_P.OPEN, _H.PEER_DATA): Step(_P.OPEN),
    (_P.LOCAL_ENDED, _H.PEER_DATA): Step(_P.LOCAL_ENDED),
    (_P.CLOSED, _H.PEER_DATA): Step(_P.GONE, _UNMARKED),
    (_P.OPEN, _H.PEER_END): Step(_P.REMOTE_ENDED, end=End.ORDERLY),
    (_P.LOCAL_ENDED, _H.PEER_END): Step(_P.GONE, end=End.ORDERLY),
    (_P.CLOSED, _H.PEER_END): Step(_P.GONE, end=End.ORDERLY),
    (_P.OPEN, _H.PEER_RESET): Step(_P.GONE, end=End.CUT),
    (_P.LOCAL_ENDED, _H.PEER_RESET): Step(_P.GONE, end=End.CUT),
    (_P.CLOSED, _H.PEER_RESET): Step(_P.GONE, end=End.CUT),
    (_P.REMOTE_ENDED, _H.PEER_RESET): Step(_P.GONE, end=End.CUT),
}

ENDS: dict[Agreement, _Rows] = {
    _A.UNMARKED: _UNMARKED_ROWS,
    _A.UNHEARD: _PLAIN | _CUT_UNHEARD,
    _A.DOUBTED: _DOUBTED,
    _A.ASKED: _ASKED,
    _A.AGREED: _AGREED,
}
"""What follows from what happens in a phase. What has no row has no effect: DATA is dropped, a
reset of something that has ended is normal, and a second end of this side sends nothing.

A stream that is unheard has no other rows for the peer than those of a reset, because the peer's
first message decides the agreement."""


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
