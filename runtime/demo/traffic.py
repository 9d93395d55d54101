"""The thread on which all servers and clients of the demo run.

Owns the event loop, and the way from the demo's thread onto it. Must not know what is served or
said, nor what the tunnels are doing.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import threading
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from .clients import TunnelClients
from .meter import Meter
from .servers import TunnelServers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Future

    from .pacing import TrafficPlan
    from .pairs import TunnelPair

COMMAND_SECONDS: Final = 30.0
"""How long a call from the demo's thread waits for this one."""

_Result = TypeVar("_Result")


class Traffic:
    """All servers and clients, on one thread. Use it as a context manager.

    Args:
        seed: what all content is made from.
    """

    def __init__(self, seed: int = 0) -> None:
        self.meter = Meter()
        self._seed = seed
        self._servers: list[TunnelServers] = []
        self._clients: list[TunnelClients] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="demo-traffic", daemon=True)
        self._ready = threading.Event()
        self._closing: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def serve(self, tunnel: str) -> dict[str, int]:
        """Start the servers of a tunnel and return their ports of loopback by service id."""
        return self._do(self._serve(tunnel))

    def start_clients(
        self, ready: Mapping[TunnelPair, Mapping[str, tuple[str, int]]], plan: TrafficPlan
    ) -> None:
        """Start the clients of some tunnels.

        Args:
            ready: for each tunnel where its source listens, host and port by service id.
            plan: how much the clients of each do.
        """
        self._do(self._start_clients(ready, plan))

    def stop_clients(self, grace_seconds: float) -> Future[None]:
        """Stop all clients, see `TunnelClients.stop`; the future is done when they have ended."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._stop_clients(grace_seconds), self._loop)

    def close(self) -> None:
        """Stop the clients at once, then the servers, then the thread. Safe to call twice."""
        loop, closing = self._loop, self._closing
        if loop is not None and closing is not None and not loop.is_closed():
            loop.call_soon_threadsafe(closing.set)
        self._thread.join(COMMAND_SECONDS)

    # the thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._ready.set()
        await self._closing.wait()
        try:
            await self._stop_clients(0.0)
        finally:
            await asyncio.gather(*(servers.stop() for servers in self._servers))

    async def _serve(self, tunnel: str) -> dict[str, int]:
        servers = TunnelServers(tunnel, self.meter)
        self._servers.append(servers)
        return await servers.start()

    async def _start_clients(
        self, ready: Mapping[TunnelPair, Mapping[str, tuple[str, int]]], plan: TrafficPlan
    ) -> None:
        for pair, addresses in ready.items():
            clients = TunnelClients(pair, addresses, plan, self.meter, self._seed)
            self._clients.append(clients)
            clients.start()

    async def _stop_clients(self, grace_seconds: float) -> None:
        stops = [clients.stop(grace_seconds) for clients in self._clients]
        ends = await asyncio.gather(*stops, return_exceptions=True)
        self._clients.clear()
        for error in ends:
            if isinstance(error, Exception):
                raise error

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(COMMAND_SECONDS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's when it is installed, else None for asyncio's own."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
        "uvloop"
    ).new_event_loop
    return factory
