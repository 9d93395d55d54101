"""Who a peer is (mode) and how it speaks (protocol version).

Owns the two words that everything else is keyed on. Knows no message and no rule.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


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
