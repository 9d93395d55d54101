"""Gateways of a shared fleet carry connections for each other, and tell each other what they have.

`Forwarding` is what a gateway holds. A connection is forwarded once at the most.
"""

from .forwarding import FORWARD, Forwarding

__all__ = ["FORWARD", "Forwarding"]
