"""Forwarding: the way between the gateways of a shared fleet, as a program holds it, and its actor.

`Forwarding` owns the order in which the parts begin and end: what is listened on comes first, so
that a wrong address is told before anything runs. For the front doors it is `OtherGateways`, on
their thread. `FleetListenerActor` accepts other gateways and sends envoys to them; with too many in
their handshake the oldest has to go, so that strangers keep no gateway out.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import pykka

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.kernel import DispatchedActor, DispatchedFuture, Terminated, ask_future
from tunnelfleet.actors.net.name_lookup import NameLookups
from tunnelfleet.actors.net.socket_io import ExhaustionLog, abort_quietly
from tunnelfleet.proto import NotConnected, TunnelClosed, TunnelError
from tunnelfleet.runtime.gateway.config.fleet import POSTGRES
from tunnelfleet.runtime.gateway.door.hall import Crowd, DoorLimits
from tunnelfleet.runtime.gateway.door.resolver import Refused
from tunnelfleet.runtime.gateway.listening import Acceptor, DoorListener, MayAccept
from tunnelfleet.runtime.gateway.listing import Listing, Page
from tunnelfleet.runtime.gateway.log import RateLimit
from tunnelfleet.runtime.gateway.supervisor import child

from .carriage import ForwardCounters
from .directory import FleetDirectory
from .envoy import AskAway, EnvoyActor, Errand
from .frames import Ask, ForwardAnswer, Question
from .guest import GuestActor, GuestParts, GuestShaken, GuestTurnedAway
from .survey import own_rows

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import ChildSpec
    from tunnelfleet.actors.kernel.actor import Handlers
    from tunnelfleet.runtime.gateway.config import GatewaySettings
    from tunnelfleet.runtime.gateway.config.fleet_tls import FleetTls
    from tunnelfleet.runtime.gateway.door import Door
    from tunnelfleet.runtime.gateway.door.resolver import Forwarded, OtherGateways, Way
    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.placement import Member
    from tunnelfleet.runtime.gateway.store import Store

logger = logging.getLogger(__name__)

MAX_HANDSHAKES = 64
"""Gateways, or whoever calls, that have not asked yet."""
MAX_GUESTS = 4_096
"""Connections of other gateways; a further one is closed at once."""
TOLD_STRANGERS = 10
TOLD_SECONDS = 60.0
"""So many lines of the log about those that were turned away in so many seconds."""


class Inquire(NamedTuple):
    """Ask a gateway. Answers what `AskAway` does."""

    member: Member
    question: Question


class FleetListenerActor(DispatchedActor):
    """Accepts other gateways.

    Args:
        listeners: what it listens on, non-blocking.
        parts: what guests share.
        exhaustion: writes the log line about descriptors that are missing.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        parts: GuestParts,
        exhaustion: ExhaustionLog,
    ) -> None:
        super().__init__()
        self._parts = parts
        self._crowd: Crowd[ActorRef[Any]] = Crowd(DoorLimits(max_handshakes=MAX_HANDSHAKES))
        self._told = RateLimit(TOLD_STRANGERS, TOLD_SECONDS)
        what = "accept another gateway"
        self._acceptor = Acceptor(self, listeners, exhaustion, what, self._take, self._relieve)

    def on_start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def _take(self, sock: socket.socket, address: Any) -> None:
        if self._parts.counters.open >= MAX_GUESTS:
            self._parts.counters.failures["busy"] += 1
            abort_quietly(sock)
            return
        peer = str(TcpAddress(address[0], address[1]))
        guest = GuestActor.start(sock, peer, self.actor_ref, self._parts)
        self.watch(guest)
        oldest = self._crowd.enter(guest)
        if oldest is not None:
            oldest.stop(block=False)

    def _relieve(self) -> None:
        oldest = self._crowd.oldest()
        if oldest is not None:
            oldest.stop(block=False)

    def _on_shaken(self, message: GuestShaken) -> None:
        self._crowd.named(message.guest)

    def _on_turned_away(self, message: GuestTurnedAway) -> None:
        peer, reason = message
        left_out = self._told.admit(peer.rpartition(":")[0])
        if left_out is None:
            return
        more = f" (and {left_out} more like it before)" if left_out else ""
        extra = {
            "event": "fleet_stranger",
            "by_stranger": True,
            "fields": {"peer": peer, "reason": reason},
        }
        text = "%s called as a gateway of this fleet and was turned away: %s%s"
        logger.warning(text, peer, reason, more, extra=extra)

    def _on_inquire(self, message: Inquire) -> None:
        reply = self.defer_reply()
        errand = Errand(message.member, message.question, self._parts.call_tls(), self.actor_ref)
        envoy = EnvoyActor.start(errand, self._parts.lookups, self._parts.counters)
        future = ask_future(envoy, AskAway())
        future.add_done_callback(lambda done: _pass_on(done, reply))

    def _on_terminated(self, message: Terminated) -> None:
        self._crowd.leave(message.ref)

    HANDLERS: ClassVar[Handlers] = {
        MayAccept: lambda actor, _message: actor._acceptor.start(),  # noqa: SLF001 - its own
        GuestShaken: _on_shaken,
        GuestTurnedAway: _on_turned_away,
        Inquire: _on_inquire,
        Terminated: _on_terminated,
    }


def _pass_on(done: Any, reply: Any) -> None:
    try:
        reply.set(done.get())
    except Exception as error:  # noqa: BLE001 - it is the answer
        reply.fail(error)


FORWARD = "forward"
"""The id of its actor among the gateway's children."""
LIST_THREADS = 2
"""Lists of tunnels that are made for others at once."""
MAX_LISTS = 8
"""Of those and the ones that wait; a further one is refused."""


@runtime_checkable
class Announces(Protocol):
    """An engine of placement that tells other gateways where this one is."""

    def announce(self, address: str | None) -> None:
        """Tell the others, with the next heartbeat."""


class _GatewayLookups:
    """See `dial.Lookups`."""

    def __init__(self) -> None:
        self.names = NameLookups()
        self.exhaustion = ExhaustionLog()


class Forwarding:
    """Carries connections between this gateway and others. A context manager.

    Args:
        settings: of the gateway.
        store: has the tunnels that were added at run time.
    """

    def __init__(self, settings: GatewaySettings, store: Store | None = None) -> None:
        self._settings = settings
        self._store = store
        self._listener: DoorListener | None = None
        self._gateway: Gateway | None = None
        self._directory: FleetDirectory | None = None
        self._lookups = _GatewayLookups()
        self._lists = ThreadPoolExecutor(LIST_THREADS, thread_name_prefix="tunnelfleet-list")
        self._guard = threading.Lock()
        self._listing = 0
        self.counters = ForwardCounters()
        self.address: TcpAddress | None = None
        """Where other gateways are listened for; None for nowhere."""

    @property
    def for_doors(self) -> OtherGateways | None:
        """What front doors need of it; None where gateways do not share the fleet."""
        return self if self._settings.placement == POSTGRES else None

    # -- life

    def open(self) -> Self:
        """Listen. Other gateways wait until this one runs.

        Raises:
            ConfigError: the address of the settings cannot be listened on.
        """
        address = self._settings.fleet_listen
        if address is not None:
            self._listener = DoorListener.at_tcp(address, what="the listener for other gateways")
            assert isinstance(self._listener.address, TcpAddress)
            self.address = self._listener.address
        return self

    def children(self, gateway: Gateway, door: Door) -> list[ChildSpec]:
        """How the gateway runs it, as some of `more_children`, after the doors."""
        if self.for_doors is None:
            return []
        self._gateway = gateway
        name = self._settings.name
        self._directory = FleetDirectory(name, gateway.placement, self._store)
        gateway.collector.add(self.counters.collect)
        gateway.others = self
        if self._listener is None:
            return []
        announced = self._settings.fleet_address or str(self._listener.address)
        if isinstance(gateway.placement, Announces):
            gateway.placement.announce(announced)
        extra = {"event": "forward", "fields": {"address": announced}}
        text = "other gateways of the fleet reach this one at %s"
        logger.info(text, announced, extra=extra)
        assert door.hall is not None
        parts = GuestParts(
            tls=lambda: self._tls.server,
            call_tls=lambda: self._tls.client,
            hall=door.hall,
            tell=self._begin_list,
            lookups=self._lookups,
            counters=self.counters,
        )
        exhaustion = self._lookups.exhaustion
        sockets = self._listener.sockets
        start = functools.partial(FleetListenerActor.start, sockets, parts, exhaustion)
        return [child(FORWARD, start)]

    @property
    def _tls(self) -> FleetTls:
        """As the files say now."""
        assert self._gateway is not None
        found = self._gateway.state.config.gateway.fleet_tls
        tls = found or self._settings.fleet_tls
        assert tls is not None
        return tls

    def close(self) -> None:
        """End what it has, when the gateway has ended. Safe to call twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._lookups.names.close()
        self._lists.shutdown(wait=True, cancel_futures=True)
        if self._directory is not None:
            self._directory.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    # -- for the doors; see `OtherGateways`

    def find(self, names: Sequence[str]) -> Future[str | None]:
        """Begin to look for the first of some names that a tunnel of the fleet has."""
        assert self._directory is not None
        return self._directory.find(names)

    def way_to(self, name: str) -> Way:
        """Who has a tunnel of this name."""
        assert self._directory is not None
        return self._directory.way_to(name, can_ask=self._listener is not None)

    def send(self, member: Member, asked: Forwarded) -> tuple[ActorRef[Any], DispatchedFuture[Any]]:
        """Ask a gateway for a tunnel."""
        tunnel, service, port, user, peer, client = asked
        target = tunnel if service is None else f"{tunnel}:{service}"
        question = Question(ask=Ask.CONNECT, target=target, port=port, user=user, peer=peer)
        errand = Errand(member, question, self._tls.client, client)
        envoy = EnvoyActor.start(errand, self._lookups, self.counters)
        told: DispatchedFuture[Any] = DispatchedFuture()
        ask_future(envoy, AskAway()).add_done_callback(lambda done: _tell_door(done, told))
        return envoy, told

    # -- lists of tunnels

    def ask_tunnels(
        self, member: Member, filters: dict[str, list[str]]
    ) -> Callable[[float], Listing]:
        """Begin to ask a gateway for its tunnels.

        Returns:
            What waits for the answer, for so many seconds; it raises `TunnelError` if there is
            none.
        """
        gateway = self._gateway
        ref = None if gateway is None else gateway.refs.by_id.get(FORWARD)
        if ref is None or not ref.is_alive():
            raise TunnelClosed("this gateway cannot ask others: it has no fleet_listen")
        question = Question(ask=Ask.TUNNELS, filters=filters)
        future = ask_future(ref, Inquire(member, question))
        return lambda seconds: _listing_of(future, seconds)

    def _begin_list(self, filters: dict[str, list[str]]) -> Future[bytes]:
        """For another gateway: what this one has."""
        with self._guard:
            if self._listing >= MAX_LISTS:
                raise RuntimeError("too many lists of tunnels are asked for: try again")
            self._listing += 1
        future = self._lists.submit(self._list, filters)
        future.add_done_callback(self._is_listed)
        return future

    def _is_listed(self, _done: object) -> None:
        with self._guard:
            self._listing -= 1

    def _list(self, filters: dict[str, list[str]]) -> bytes:
        assert self._gateway is not None
        page = Page.of(filters)
        found = own_rows(self._gateway, filters, page)
        # An older gateway asks for no page, and wants the rows alone.
        return json.dumps(found.rows).encode() if page is None else found.to_bytes()


def _tell_door(done: Any, told: DispatchedFuture[Any]) -> None:
    try:
        answer = done.get()
    except Exception:  # noqa: BLE001 - the envoy has failed, and its log line says of what
        told.set_exception((NotConnected, NotConnected("the way to it has failed"), None))
        return
    assert isinstance(answer, ForwardAnswer)
    told.set(None if answer.denial is None else Refused(answer.denial, answer.text))


def _listing_of(future: DispatchedFuture[Any], seconds: float) -> Listing:
    try:
        answer = future.get(timeout=seconds)
    except pykka.Timeout:
        raise TunnelError(f"it did not answer within {seconds:.1f} s") from None
    except Exception:  # noqa: BLE001 - an actor on the way has failed, or has ended
        raise TunnelError("the way to it has failed; try again") from None
    if isinstance(answer, ForwardAnswer):
        raise TunnelError(answer.text)
    try:
        return Listing.of_bytes(answer)
    except (ValueError, RecursionError):
        raise TunnelError("its answer cannot be read") from None
