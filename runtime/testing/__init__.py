"""What the tests of other people's programs need: a service of their own, and connected tunnels.

``LocalService`` and ``ConnectedPair`` are context managers for any test framework. The fixtures of
``tunnelfleet.pytest_plugin`` are made of them. docs/testing.md shows how to use both.
"""

from .local_service import LocalService
from .pair import ConnectedPair

__all__ = ["ConnectedPair", "LocalService"]
