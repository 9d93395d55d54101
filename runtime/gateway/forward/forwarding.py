"""Forwarding: the way between the gateways of a shared fleet, as a program holds it.

Owns the order in which the parts begin and end. What is listened on comes first, so that a wrong
address is told before anything runs. For the front doors it is `OtherGateways`, on their thread.

    forwarding = Forwarding(config.gateway, store)
    door = Door(config.gateway, others=forwarding.for_doors)
    with forwarding, door, Gateway(load, config, store=store, more_children=lambda gateway: [
        door.child(gateway), *forwarding.children(gateway, door)
    ]):
        ...
"""

from __future__ import annotations

import functools
import json
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import pykka

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.kernel import DispatchedFuture, ask_future
from tunnelfleet.actors.net.name_lookup import NameLookups
from tunnelfleet.actors.net.socket_io import ExhaustionLog
from tunnelfleet.proto import NotConnected, TunnelClosed, TunnelError
from tunnelfleet.runtime.gateway.config.fleet import POSTGRES
from tunnelfleet.runtime.gateway.door.listening import DoorListener
from tunnelfleet.runtime.gateway.door.resolver import Refused
from tunnelfleet.runtime.gateway.supervisor import child

from .counters import ForwardCounters
from .directory import FleetDirectory
from .envoy import AskAway, EnvoyActor, Errand
from .frames import Ask, ForwardAnswer, Question
from .guest import GuestParts
from .listener import FleetListenerActor, Inquire
from .survey import own_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import ChildSpec
    from tunnelfleet.runtime.gateway.config import GatewaySettings
    from tunnelfleet.runtime.gateway.config.fleet_tls import FleetTls
    from tunnelfleet.runtime.gateway.door import Door
    from tunnelfleet.runtime.gateway.door.resolver import Forwarded, OtherGateways, Way
    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.placement import Member
    from tunnelfleet.runtime.gateway.store import Store

__all__ = ["FORWARD", "Forwarding"]

FORWARD = "forward"
"""The id of its actor among the gateway's children."""
LIST_THREADS = 2
"""Lists of tunnels that are made for others at once."""
MAX_LISTS = 8
"""Of those and the ones that wait; a further one is refused."""

logger = logging.getLogger(__name__)


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
    ) -> Callable[[float], list[dict[str, Any]]]:
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
        return lambda seconds: _rows_of(future, seconds)

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
        return json.dumps(own_rows(self._gateway, filters)).encode()


def _tell_door(done: Any, told: DispatchedFuture[Any]) -> None:
    try:
        answer = done.get()
    except pykka.ActorDeadError:
        answer = ForwardAnswer()
        told.set_exception((NotConnected, NotConnected("the way to it has failed"), None))
        return
    assert isinstance(answer, ForwardAnswer)
    told.set(None if answer.denial is None else Refused(answer.denial, answer.text))


def _rows_of(future: DispatchedFuture[Any], seconds: float) -> list[dict[str, Any]]:
    try:
        answer = future.get(timeout=seconds)
    except pykka.Timeout:
        raise TunnelError(f"it did not answer within {seconds:.1f} s") from None
    except pykka.ActorDeadError:
        raise TunnelError("the way to it has failed; try again") from None
    if isinstance(answer, ForwardAnswer):
        raise TunnelError(answer.text)
    try:
        rows = json.loads(answer)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(each, dict) for each in rows):
        raise TunnelError("its answer cannot be read")
    return rows
