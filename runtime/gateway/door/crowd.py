"""How many clients are at a front door, and who has to go when there are too many. Pure.

Owns the limits of a door, and the places of the clients whose handshake is not over. A client that
has not said where it wants to go yet gives way to a new one when all places are taken, the one that
has been there longest first: so thousands that connect and say nothing keep nobody out. Those that
wait for their tunnel keep their places, which are counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from tunnelfleet.proto import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """Every bound of a gateway's front doors, by name. All doors share them."""

    handshake_seconds: float = 10.0
    """How long a client may take, from its connect, to say where it wants to go."""
    max_handshakes: int = 256
    """Clients that have not said it yet, or were refused and are about to go; a further one takes
    the place of the oldest."""
    max_waiting: int = 256
    """Clients that wait for a tunnel which is not connected; a further one is refused."""
    max_connections: int = 4_096
    """Sockets that came through a front door and are open; a further client is refused."""
    resolve_seconds: float = 300.0
    """What whoever opens tunnels on demand has to answer, at the longest."""
    answer_seconds: float = 10.0
    """How long a tunnel may take to say whether it takes a client."""
    linger_seconds: float = 2.0
    """How long a refused client may take to read why, and to close."""
    listen_backlog: int = 256
    """Clients that may wait in the kernel."""
    max_logins: int = 64
    """Passwords that may wait to be checked, two at a time."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ConfigError(f"{each.name} is {value!r}: it must be greater than 0")


Client = TypeVar("Client")


class Crowd(Generic[Client]):
    """The clients whose handshake is not over.

    Args:
        limits: of the doors.
    """

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._yielding: dict[Client, None] = {}
        self._waiting: set[Client] = set()

    @property
    def yielding(self) -> int:
        """How many clients would have to go for others."""
        return len(self._yielding)

    @property
    def waiting(self) -> int:
        """How many clients wait for their tunnel."""
        return len(self._waiting)

    def enter(self, client: Client) -> Client | None:
        """Enter a client that came or was refused; return the one that must go for it, if any."""
        self.leave(client)
        self._yielding[client] = None
        return self.oldest() if len(self._yielding) > self._limits.max_handshakes else None

    def oldest(self) -> Client | None:
        """Remove and return the client that would have to go first."""
        client = next(iter(self._yielding), None)
        if client is not None:
            del self._yielding[client]
        return client

    def named(self, client: Client) -> None:
        """A client has said where it wants to go: it gives way to nobody any more."""
        self._yielding.pop(client, None)

    def wait(self, client: Client) -> bool:
        """Let a client wait for its tunnel; return whether it may."""
        if client not in self._waiting and len(self._waiting) >= self._limits.max_waiting:
            return False
        self._waiting.add(client)
        return True

    def leave(self, client: Client) -> None:
        """Forget a client that is gone, or that a tunnel has. Safe to call twice."""
        self._yielding.pop(client, None)
        self._waiting.discard(client)
