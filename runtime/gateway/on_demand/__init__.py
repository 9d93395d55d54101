"""Tunnels that are opened when somebody asks for them, shared, and closed when nobody uses them.

`OnDemand` is what a gateway holds.
"""

from .holder import ON_DEMAND_ACTOR, OnDemand

__all__ = ["ON_DEMAND_ACTOR", "OnDemand"]
