"""The registry of a runtime's tunnels: which names are taken, and by what.

Owns the names, the order of opening, and that a tunnel is in the metrics as long as it is in here.
It must not know the actors: it is entered before they start, and left when they are over.

Lock: one for the names, held for a look or an entry. The meter's is taken under it; the users who
wait for an end are answered without it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pykka import ActorRef

from tunnelfleet.actors.addresses import Address
from tunnelfleet.actors.config import TunnelConfig
from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.actors.tunnel.context import Credentials, Services, TunnelContext, TunnelParts
from tunnelfleet.proto import ConfigError

from .tunnel import Tunnel

if TYPE_CHECKING:
    from tunnelfleet.actors.api.outbox import Outbox
    from tunnelfleet.actors.callbacks import CallbackQueue

    from .metrics import TunnelMeter
    from .tunnel import Changes


class TunnelRegistry:
    """The tunnels of a runtime by name. Any thread.

    Args:
        services: what all tunnels look up.
        meter: has the counters of each.
        changes: on which waiters wait.
        dispatchers: over how many tunnels are spread, in turn.
        why_waiting: why tunnels of an endpoint have not tried to connect yet; empty without reason.
        start: starts the actors of a tunnel where they run; None for this process.
    """

    def __init__(
        self,
        services: Services,
        meter: TunnelMeter,
        changes: Changes,
        dispatchers: int = 1,
        why_waiting: Callable[[str], str] = lambda _endpoint: "",
        start: Callable[[TunnelContext, Dispatcher], ActorRef[Any]] | None = None,
    ) -> None:
        self._start = start
        self._services = services
        self._meter = meter
        self._changes = changes
        self._why_waiting = why_waiting
        self._next_dispatcher = itertools.cycle(range(dispatchers))
        self._tunnels: dict[str, Tunnel] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of tunnels."""
        return len(self._tunnels)

    def add(
        self,
        config: TunnelConfig,
        parts: TunnelParts,
        *,
        outbox: Outbox | None = None,
        callback_queue: CallbackQueue | None = None,
        bound: Mapping[str, Address] | None = None,
    ) -> Tunnel:
        """Enter a tunnel whose actors are to be started.

        Args:
            config: the tunnel.
            parts: of this run of the runtime.
            outbox: leads to the client API.
            callback_queue: leads to the callback of all tunnels.
            bound: where an earlier life of it has listened, by service id.

        Raises:
            ConfigError: its name is taken, or a token is malformed.
        """
        credentials = Credentials(config.access_token, config.client_token)
        with self._lock:
            if config.name in self._tunnels:
                raise ConfigError(f"there is a tunnel {config.name!r} already: choose another name")
            number = next(self._next_dispatcher)
            context = TunnelContext(
                config=config,
                credentials=credentials,
                stats=self._meter.open(config.name, config.mode.value, number),
                parts=parts,
                services=self._services,
                bound=dict(bound or {}),
                callback_queue=callback_queue,
            )
            tunnel = Tunnel(self._changes, context, number, outbox, self._why_waiting, self._start)
            self._tunnels[config.name] = tunnel
        return tunnel

    def remove(self, tunnel: Tunnel) -> None:
        """Strike a tunnel out: its actors are over, its name is free. Safe to call twice."""
        with self._lock:
            if self._tunnels.get(tunnel.name) is not tunnel:
                return
            del self._tunnels[tunnel.name]
        self._meter.close(tunnel.stats)

    def get(self, name: str) -> Tunnel:
        """Return the tunnel of that name.

        Raises:
            KeyError: there is none.
        """
        with self._lock:
            return self._tunnels[name]

    def tunnels(self) -> list[Tunnel]:
        """Return all tunnels, in the order in which they were opened."""
        with self._lock:
            return list(self._tunnels.values())

    def finish(self) -> None:
        """Answer what users of all tunnels still wait for: the actors are over."""
        for tunnel in self.tunnels():
            tunnel.finish()

    def clear(self) -> None:
        """Strike out all."""
        for tunnel in self.tunnels():
            self.remove(tunnel)
