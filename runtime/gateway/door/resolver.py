"""What a front door asks about names that no tunnel of this gateway has, and what it is answered.

Owns the interface between the doors and whoever can find a tunnel for a name: on demand, by opening
one, or at another gateway of the fleet. The questions are asked after the door's rules: who may not
reach a name cannot make it cost anything. It knows neither AWS nor how gateways speak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Collection, Sequence

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import DispatchedFuture
    from tunnelfleet.runtime.gateway.placement import Member

    from .handshake import Denial


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
    """Another gateway of the fleet has to be asked: the owner of the name's shard."""


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


class SendTo(NamedTuple):
    """This gateway has the tunnel, and can be asked for it."""

    member: Member


class NobodyYet(NamedTuple):
    """No gateway can be asked for it now, but one will soon; the text says why, for people."""

    text: str


Way = SendTo | NobodyYet | Refused


class Forwarded(NamedTuple):
    """What another gateway is asked for.

    Attributes:
        tunnel: its name.
        service: its service, as the client wrote it or by its id; None for the only one.
        port: the number behind it.
        user: who the client is; empty if nobody knows.
        peer: where it is, for people.
        client: its actor. When that has ended, nobody waits for the answer any more.
    """

    tunnel: str
    service: str | None
    port: int | None
    user: str
    peer: str
    client: ActorRef[Any]


class OtherGateways(Protocol):
    """The other gateways of a shared fleet. For the doors' thread, which it does not hold up."""

    def find(self, names: Sequence[str]) -> concurrent.futures.Future[str | None]:
        """Begin to look for the first of some names that a tunnel of the fleet has.

        Those are meant that were added at run time, at whatever gateway. The future raises a
        `TunnelError` when that cannot be told.
        """

    def way_to(self, name: str) -> Way:
        """Who has a tunnel of this name, as far as this gateway knows."""

    def send(self, member: Member, asked: Forwarded) -> tuple[ActorRef[Any], DispatchedFuture[Any]]:
        """Ask a gateway for a tunnel.

        Returns:
            The actor that carries the connection from then on: it takes a `HandOver`, as a tunnel
            does, when the future has told that it may: with None, or with what `Refused` says.
        """
