"""The work of tunnels on demand that waits: the calls to AWS and the rows in the state.

Owns the threads, and the order of the steps in each piece of work: OpenTunnel is called after its
row is written, and its tokens are kept before anybody hears of them. Opening, looking and closing
have threads of their own, so that a call that hangs delays none of another kind. Every piece of
work gives a future, whose error is a `CloudError`. A state that takes nothing holds up no tunnel:
that is logged, and what is open then cannot be found again after a crash.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from tunnelfleet.actors.net.daemon_threads import DaemonExecutor
from tunnelfleet.runtime.gateway.store import StoredDemand, StoreError

from .cloud import AwsCloud, CloudError, CloudTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from concurrent.futures import Future

    from tunnelfleet.runtime.gateway.config import CloudPlace
    from tunnelfleet.runtime.gateway.store import LeftDemand
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

    from .cloud import Cloud, TunnelFound


T = TypeVar("T")

OPEN_THREADS = 8
LOOK_THREADS = 2
CLOSE_THREADS = 4
MAX_CLOUDS = 8
"""Regions, endpoints and profiles that a gateway knows at a time; more come by reloads alone."""
MARK = ", on demand, {request}"
"""The end of a description. A tunnel is found by it whoever has opened it."""

logger = logging.getLogger(__name__)


class KeepsDemands(Protocol):
    """What this needs of a gateway's store. All of it waits, and may raise a `StoreError`."""

    def begin_demand(self, demand: StoredDemand) -> None:
        """Note that OpenTunnel is about to be called."""

    def keep_demand(
        self, request: str, tunnel_id: str, ends_at: float, tunnel: WantedTunnel
    ) -> None:
        """Keep the tunnel that was opened."""

    def end_demand(self, request: str) -> None:
        """It is closed, or was not opened."""

    def load_demands(self) -> list[StoredDemand]:
        """What is kept, the newest first."""

    def left_demands(self) -> list[LeftDemand]:
        """What gateways have left that are gone."""

    def take_demands(self, requests: Collection[str]) -> list[StoredDemand]:
        """Take some of them; those that it has got."""

    def is_demand_taken(self, request: str) -> bool:
        """Whether another gateway has taken one of this one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """What is needed to open a tunnel.

    Attributes:
        request: tells it from all others.
        place: where.
        thing: whose device.
        services: that it has.
        lifetime_minutes: how long it lives.
        tags: at the service.
        tunnel: as the fleet is to run it, but for its token.
    """

    request: str
    place: CloudPlace
    thing: str
    services: tuple[str, ...]
    lifetime_minutes: int
    tags: Mapping[str, str]
    tunnel: WantedTunnel = field(repr=False)


class OpenedDemand(NamedTuple):
    """A tunnel was opened."""

    tunnel_id: str
    tunnel: WantedTunnel


class DemandCalls:
    """Does the work on threads. Any thread may ask.

    Args:
        gateway: its name, for whoever sees a tunnel at AWS.
        store: keeps tunnels over a crash; None for nobody.
        make_cloud: makes what calls a place.
    """

    def __init__(
        self,
        gateway: str,
        store: KeepsDemands | None,
        make_cloud: Callable[[CloudPlace], Cloud] = AwsCloud,
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._make_cloud = make_cloud
        self._lock = threading.Lock()
        self._clouds: OrderedDict[CloudPlace, Cloud] = OrderedDict()
        self._is_store_down = False
        self._opens = DaemonExecutor(OPEN_THREADS, "tunnelfleet-demand-open")
        self._looks = DaemonExecutor(LOOK_THREADS, "tunnelfleet-demand-look")
        self._closes = DaemonExecutor(CLOSE_THREADS, "tunnelfleet-demand-close")

    def open(self, work: OpenWork) -> Future[OpenedDemand]:
        """Open a tunnel, and keep it."""
        return self._opens.submit(self._do, self._open, work)

    def describe(self, place: CloudPlace, tunnel_id: str) -> Future[TunnelFound]:
        """Look at a tunnel."""
        return self._looks.submit(self._do, lambda: self._cloud(place).describe_tunnel(tunnel_id))

    def close(self, place: CloudPlace, request: str, tunnel_id: str) -> Future[None]:
        """Close a tunnel, and let go of it."""
        return self._closes.submit(self._do, self._close, place, request, tunnel_id)

    def search(self, place: CloudPlace, request: str, thing: str) -> Future[int]:
        """Close the tunnel of a request whose answer was lost; how many were found and closed."""
        return self._closes.submit(self._do, self._search, place, request, thing)

    def forget(self, request: str) -> Future[None]:
        """Let go of what is not open."""
        return self._closes.submit(self._do, self._end, request)

    def load(self) -> Future[list[StoredDemand]]:
        """What an earlier life has left.

        The future may raise a `StoreError`: it has to be asked again.
        """
        return self._looks.submit(self._load)

    def left(self) -> Future[list[LeftDemand]]:
        """What other gateways have left. The future may raise a `StoreError`."""
        return self._looks.submit(lambda: [] if self._store is None else self._store.left_demands())

    def take_over(self, requests: Collection[str]) -> Future[list[StoredDemand]]:
        """Take some of that; those that were got. The future may raise a `StoreError`."""
        return self._looks.submit(self._take_over, requests)

    def shutdown(self) -> None:
        """Let what is under way end, for a moment, and close the connections."""
        for executor in (self._opens, self._looks, self._closes):
            executor.shutdown()
        with self._lock:
            clouds, self._clouds = list(self._clouds.values()), OrderedDict()
        for cloud in clouds:
            _close(cloud)

    # -- on the threads

    def _do(self, do: Callable[..., T], *given: Any) -> T:
        """Do it; whatever fails is a `CloudError`."""
        try:
            return do(*given)
        except CloudError:
            raise
        except Exception as error:
            logger.exception("a call for a tunnel on demand has failed")
            text = f"it failed, which the gateway's log tells more of: {type(error).__name__}"
            raise CloudError(CloudTrouble.UNKNOWN, text) from None

    def _cloud(self, place: CloudPlace) -> Cloud:
        with self._lock:
            found = self._clouds.get(place)
            if found is None:
                found = self._clouds[place] = self._make_cloud(place)
            self._clouds.move_to_end(place)
            old = self._clouds.popitem(last=False)[1] if len(self._clouds) > MAX_CLOUDS else None
        if old is not None:
            _close(old)
        return found

    def _open(self, work: OpenWork) -> OpenedDemand:
        begun_at = time.time()
        row = StoredDemand(work.request, work.thing, work.place, begun_at)
        self._keep(lambda store: store.begin_demand(row))
        try:
            opened = self._cloud(work.place).open_tunnel(
                work.thing,
                work.services,
                work.lifetime_minutes,
                f"tunnelfleet {self._gateway}{MARK.format(request=work.request)}",
                work.tags,
            )
        except CloudError as error:
            if error.trouble is not CloudTrouble.UNKNOWN:
                self._end(work.request)
            raise
        tunnel = replace(work.tunnel, access_token=opened.source_token)
        ends_at = begun_at + work.lifetime_minutes * 60.0
        self._keep(lambda store: store.keep_demand(work.request, opened.tunnel_id, ends_at, tunnel))
        return OpenedDemand(opened.tunnel_id, tunnel)

    def _close(self, place: CloudPlace, request: str, tunnel_id: str) -> None:
        if not self._is_taken(request):
            self._cloud(place).close_tunnel(tunnel_id)
            self._end(request)

    def _is_taken(self, request: str) -> bool:
        """Whether another gateway uses the tunnel, since this one was not heard for a while."""
        try:
            return self._store is not None and self._store.is_demand_taken(request)
        except StoreError:
            # It cannot be asked, nor can whoever might have taken it.
            return False

    def _search(self, place: CloudPlace, request: str, thing: str) -> int:
        cloud = self._cloud(place)
        found = cloud.find_tunnels(thing, MARK.format(request=request))
        for tunnel_id in found:
            cloud.close_tunnel(tunnel_id)
        if found:
            self._end(request)
        return len(found)

    def _end(self, request: str) -> None:
        self._keep(lambda store: store.end_demand(request))

    def _load(self) -> list[StoredDemand]:
        return [] if self._store is None else self._store.load_demands()

    def _take_over(self, requests: Collection[str]) -> list[StoredDemand]:
        return [] if self._store is None else self._store.take_demands(requests)

    def _keep(self, keep: Callable[[KeepsDemands], None]) -> None:
        if self._store is None:
            return
        try:
            keep(self._store)
        except StoreError as error:
            if not self._is_store_down:
                self._is_store_down = True
                hint = "what is opened on demand now is not found again after a crash"
                logger.error("%s: %s", hint, error)
        else:
            self._is_store_down = False


def _close(cloud: Cloud) -> None:
    close = getattr(cloud, "close", None)
    if close is not None:
        close()
