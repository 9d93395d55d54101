"""An application of Ray actors that holds tunnels, hears of them, and opens more.

    python examples/ray_actors.py

    Tunnels    an actor with a TunnelRuntime; what happens to a tunnel goes to Dispatch as a call
    Dispatch   an actor that knows which devices wait, and has the next opened when one is there

With RAY_ADDRESS in the environment it joins that cluster, else it starts one in this process. It
needs the extra `ray`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from contextlib import ExitStack
from typing import Any, NamedTuple

import ray

from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelEvent,
    TunnelRuntime,
    TunnelState,
    TunnelStateChanged,
)
from tunnelfleet.runtime.service import TunnelService

DEVICES = ("press-1", "press-2", "press-3")
WAIT_SECONDS = 60.0


class Device(NamedTuple):
    """A tunnel that is to be opened. Ray shows no arguments; this shows no token either."""

    name: str
    endpoint: str
    token: str
    root_ca: str

    def __repr__(self) -> str:
        return f"Device({self.name})"


class Tunnels:
    """Holds a runtime. Its methods do not wait: a runtime has threads of its own."""

    def __init__(self, dispatch: Any) -> None:
        self._dispatch = dispatch
        self._runtime = TunnelRuntime(on_event=self._tell).start()

    def _tell(self, event: TunnelEvent) -> None:
        # On a thread of the runtime's, in order; a call of another actor waits for nothing.
        if isinstance(event, TunnelStateChanged):
            self._dispatch.happened.remote(event.tunnel, event.state.value)

    async def open(self, device: Device) -> None:
        """Open the device's end of a tunnel."""
        # The authorities of the application's service; with AWS the system's are right.
        context = ssl.create_default_context(cadata=device.root_ca)
        self._runtime.open_tunnel(
            TunnelConfig(
                name=device.name,
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(device.endpoint),
                access_token=device.token,
                services={"SSH": TcpAddress("127.0.0.1", 22)},
                ssl_context=context,
            )
        )

    async def stop(self) -> None:
        """End all tunnels in good order."""
        await asyncio.to_thread(self._runtime.stop)


class Dispatch:
    """Decides what is opened, by what it hears."""

    def __init__(self, waiting: list[Device]) -> None:
        self._waiting = deque(waiting)
        self._tunnels: Any = None
        self._connected: list[str] = []
        self._all = asyncio.Event()

    async def begin(self, tunnels: Any) -> None:
        """Have the first one opened."""
        self._tunnels = tunnels
        self._open_next()

    async def happened(self, tunnel: str, state: str) -> None:
        """A tunnel is in another state."""
        if state == TunnelState.CONNECTED.value:
            self._connected.append(tunnel)
            self._open_next()

    def _open_next(self) -> None:
        if self._waiting:
            self._tunnels.open.remote(self._waiting.popleft())
        else:
            self._all.set()

    async def everybody(self) -> list[str]:
        """The devices in the order in which they connected, once all are there."""
        await self._all.wait()
        return self._connected


def main() -> None:
    """Start the actors, let them open one tunnel after another, stop them."""
    with ExitStack() as stack:
        service = stack.enter_context(TunnelService())
        assert service.ca_path is not None
        root_ca = service.ca_path.read_text()
        devices = [
            Device(
                name,
                service.endpoint,
                service.open_tunnel(name, ["SSH"]).destination_token,
                root_ca,
            )
            for name in DEVICES
        ]
        own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 1, "include_dashboard": False}
        ray.init(log_to_driver=False, **own)
        stack.callback(ray.shutdown)
        # Actors that hold something are not made for each task, so they need no CPU of their own.
        dispatch = ray.remote(Dispatch).options(num_cpus=0).remote(devices)
        tunnels = ray.remote(Tunnels).options(num_cpus=0).remote(dispatch)
        ray.get(dispatch.begin.remote(tunnels), timeout=WAIT_SECONDS)
        for name in ray.get(dispatch.everybody.remote(), timeout=WAIT_SECONDS):
            print(f"connected: {name}")
        ray.get(tunnels.stop.remote(), timeout=WAIT_SECONDS)
        print("all tunnels have ended")


if __name__ == "__main__":
    main()
