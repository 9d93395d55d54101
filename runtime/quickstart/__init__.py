"""`tunnelfleet quickstart`: a whole fleet on this machine, to look at and to play with."""

from .quickstart import Quickstart, QuickstartOptions

__all__ = ["Quickstart", "QuickstartOptions"]
