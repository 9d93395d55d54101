"""The command line: `tunnelfleet service | demo | localproxy | version`.

Owns the entry point of the `tunnelfleet` program. The commands are in modules of their own,
imported when they are asked for.
"""

from __future__ import annotations

from .app import main

__all__ = ["main"]
