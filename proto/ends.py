"""How a connection ends: which reset is sent, what a reset that arrives means.

See docs/protocol.md section 3a.

Owns the table of ends. The wire has one reset for an orderly end, an abnormal one and a half-close.
Two ends of ours tell them apart by the field `ignorable`, which others do not look at: a reset that
carries it ("marked") is the orderly end of its sender's direction, one without it ends both
directions. They do so on a stream on which both have agreed to it: the source by a marked
STREAM_START, the destination by the hello, an empty marked DATA before anything else. With every
other peer a reset ends both directions at once, whoever sends it, and nothing may follow it: a
second reset, or DATA behind it, makes AWS's C client crash (section 4).

Pure data: `Session` looks a row up and does what it says.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Agreement(Enum):
    """Whether the two ends of a stream tell the kinds of end apart."""

    UNMARKED = "unmarked"
    """They do not tell them apart: one of the two cannot, or does not want to."""
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
_UNMARKED_ROWS: _Rows = _PLAIN | {
    # What a half-closed connection becomes when the peer turns out not to know of such.
    (_P.LOCAL_ENDED, _H.NO_HELLO): Step(_P.GONE, end=End.BOTH),
    (_P.CLOSED, _H.NO_HELLO): Step(_P.GONE),
    (_P.ABORTED, _H.NO_HELLO): Step(_P.GONE),
}
_DOUBTED: _Rows = _PLAIN | {
    # As above, but kept in mind: should a hello come after all, the peer is told.
    (_P.LOCAL_ENDED, _H.NO_HELLO): Step(_P.ABORTED, end=End.BOTH),
    (_P.ABORTED, _H.HELLO): Step(_P.GONE, _UNMARKED),
}
_ASKED: _Rows = {
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
    _A.DOUBTED: _DOUBTED,
    _A.ASKED: _ASKED,
    _A.AGREED: _AGREED,
}
"""What follows from what happens in a phase. What has no row has no effect: DATA is dropped, a
reset of something that has ended is normal, and a second end of this side sends nothing.

An ASKED stream has no rows for the peer, because the peer's first message decides the agreement
before the table is asked."""
