"""What a front door asks about names that no tunnel of this gateway has, and what it is answered.

Owns the interface between the doors and whoever can find a tunnel for a name: on demand, by opening
one; later at another gateway of the fleet. The questions are asked after the door's rules: who may
not reach a name cannot make it cost anything. It knows neither AWS nor other gateways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import DispatchedFuture

    from .handshake import Denial

__all__ = ["Answer", "AskedTunnel", "Elsewhere", "Local", "Refused", "Resolver"]


class AskedTunnel(NamedTuple):
    """A client wants a tunnel that is not there.

    Attributes:
        name: that the tunnel is to have.
        service_id: that the client wants to reach; one of `Resolver.services_of`.
        user: who it is; empty if nobody knows.
        peer: where it is, for people.
        client: its actor. When that has ended, nobody waits for the answer any more.
    """

    name: str
    service_id: str
    user: str
    peer: str
    client: ActorRef[Any]


class Local(NamedTuple):
    """A tunnel of this gateway leads there."""

    tunnel: str


class Refused(NamedTuple):
    """There is no tunnel for the client; the text is for people, and says what to do."""

    denial: Denial
    text: str


class Elsewhere(NamedTuple):
    """Another gateway of the fleet has to be asked.

    Attributes:
        gateway: its name, for people.
        address: of a door there.
    """

    gateway: str
    address: str


Answer = Local | Refused | Elsewhere


class Resolver(Protocol):
    """Finds tunnels for names. For the doors' thread, which it does not hold up."""

    def name_of(self, text: str) -> str | None:
        """The name that is meant, if there can be a tunnel for it; None if not.

        Asked about each way in which the words of a client can be read. It opens nothing.
        """

    def services_of(self, name: str) -> Collection[str] | None:
        """The services that such a tunnel has."""

    def current(self, name: str) -> str | None:
        """The tunnel of this gateway that serves a name right now; None to have it asked for."""

    def resolve(self, asked: AskedTunnel) -> DispatchedFuture[Answer]:
        """Begin to find a tunnel. The answer may take minutes; whoever asks bounds the wait."""
