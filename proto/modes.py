"""Who a peer is (mode) and how it speaks (protocol version).

Owns the two words that everything else is keyed on. Knows no message and no rule.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Self

from .text import listed, printable


class Mode(StrEnum):
    """The side of a tunnel, as in the parameter `local-proxy-mode` (docs/protocol.md section 1)."""

    SOURCE = "source"
    """Accepts local connections and starts streams."""
    DESTINATION = "destination"
    """Connects to local services when a stream starts."""


class ProtocolVersion(IntEnum):
    """A version of the protocol. It is seen, not negotiated (docs/protocol.md section 3)."""

    V1 = 1
    """One service without a name, one connection at a time."""
    V2 = 2
    """Several services, one connection each."""
    V3 = 3
    """Several services, several connections each."""

    @classmethod
    def parse(cls, given: ProtocolVersion | str) -> Self:
        """Return the version that somebody wrote: a member, or its name in either case.

        Wherever a version is given it is given so: in code, on a command line, in a file.

        Raises:
            ValueError: there is no such version, or it is something else, such as a number.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str) and given.upper() in cls.__members__:
            return cls[given.upper()]
        # What is longer may be a token, which somebody put in the wrong place.
        text = repr(given)
        shown = f"{printable(text)} is" if len(text) <= MAX_SHOWN_CHARACTERS else "it is"
        names = listed(cls.__members__, "or")
        raise ValueError(f"{shown} no version of the protocol; write {names}")


MAX_SHOWN_CHARACTERS = 12
