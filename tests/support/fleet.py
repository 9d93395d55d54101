"""Wanted tunnels, files, an engine of placement and a whole gateway, for the gateway's tests."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self

from tests.support.rig import FAST_LIMITS, Rig
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import TcpAddress, TunnelConfig, TunnelState
from tunnelfleet.runtime.gateway import Gateway, WantedTunnel
from tunnelfleet.runtime.gateway.config import ConfigProblems, FleetConfig, GatewaySettings, Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tunnelfleet.runtime.gateway import Assigned, Placement, Revoked, TunnelRow
    from tunnelfleet.runtime.gateway.placement import Member


def wanted(name: str = "a", **given: Any) -> WantedTunnel:
    """A destination that nobody serves, unless told otherwise."""
    keys: dict[str, Any] = {
        "name": name,
        "mode": Mode.DESTINATION,
        "endpoint": Endpoint.parse("ws://127.0.0.1:1"),
        "access_token": f"{name}-{'t' * 40}",
        "services": {"SSH": TcpAddress("127.0.0.1", 22)},
        **given,
    }
    return WantedTunnel(**keys)


class Files:
    """Stands for the files of a gateway: what they say can be changed, and a reading held up."""

    def __init__(self, folder: Path, *tunnels: WantedTunnel) -> None:
        self.settings = GatewaySettings(
            name="gw",
            admin="unix:unused",
            state_folder=folder,
            connect_rate=1_000.0,
            drain_seconds=WAIT_SECONDS,
        )
        self.tunnels = {each.name: each for each in tunnels}
        self.problems: tuple[Problem, ...] = ()
        self.readings = 0
        self.may_read = threading.Event()
        self.may_read.set()

    def __call__(self) -> FleetConfig:
        """Read them."""
        self.readings += 1
        assert self.may_read.wait(WAIT_SECONDS)
        if self.problems:
            raise ConfigProblems(self.problems)
        return FleetConfig(self.settings, dict(self.tunnels))


class FakePlacement:
    """An engine that says what a test says."""

    def __init__(self) -> None:
        self._tell: Callable[[Assigned | Revoked], None] | None = None
        self._started = threading.Event()
        self.is_stopped = False
        self.has_left = False
        self.vacant: frozenset[int] = frozenset()

    def start(self, tell: Callable[[Assigned | Revoked], None]) -> None:
        """Take the listener."""
        self._tell = tell
        self._started.set()

    def tell(self, message: Assigned | Revoked) -> None:
        """Say something, once it is started."""
        assert self._started.wait(WAIT_SECONDS)
        assert self._tell is not None
        self._tell(message)

    def vacated(self, shards: frozenset[int]) -> None:
        """Note it."""
        self.vacant |= shards

    def look(self) -> None:
        """Nothing hangs."""

    def members(self) -> tuple[Member, ...]:
        """Nobody."""
        return ()

    def owner(self, name: str) -> Member | None:
        """Nobody."""
        return None

    def status(self) -> dict[str, Any] | None:
        """Nothing can be wrong."""
        return None

    def leave(self) -> None:
        """Note it."""
        self.has_left = True

    def stop(self) -> None:
        """Note it."""
        self.is_stopped = True

    def close(self) -> None:
        """Nothing was started."""


class Fleet:
    """A gateway in this process, with a service and the other ends of its tunnels."""

    def __init__(self, folder: Path, placement: Placement | None = None) -> None:
        self._rig = Rig(tls=False)
        self.service = self._rig.service
        self.files = Files(folder)
        self._placement = placement
        self._stack = contextlib.ExitStack()
        self._gateway: Gateway | None = None

    def __enter__(self) -> Self:
        self._stack.enter_context(self._rig)
        self._target = self._rig.backends.echo().address
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    @property
    def gateway(self) -> Gateway:
        """The gateway, once it is started."""
        assert self._gateway is not None
        return self._gateway

    def start(self, **options: Any) -> Gateway:
        """Start the gateway with what the files say."""
        gateway = Gateway(self.files, placement=self._placement, **options)
        self._gateway = self._stack.enter_context(gateway)
        return gateway

    def tunnel(self, name: str, **given: Any) -> WantedTunnel:
        """A source of a tunnel that is opened at the service; its other end echoes.

        `service_ids` are those of the tunnel, SSH alone unless they are given.
        """
        service_ids = given.pop("service_ids", ["SSH"])
        tokens = self.service.open_tunnel(name, service_ids)
        other = TunnelConfig(
            name=name,
            mode=Mode.DESTINATION,
            endpoint=Endpoint.parse(self.service.endpoint),
            access_token=tokens.destination_token,
            services=dict.fromkeys(service_ids or [""], self._target),
            limits=FAST_LIMITS,
        )
        self._rig.runtime.open_tunnel(other).wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        keys: dict[str, Any] = {
            "mode": Mode.SOURCE,
            "endpoint": Endpoint.parse(self.service.endpoint),
            "access_token": tokens.source_token,
            "services": {each: TcpAddress("127.0.0.1", 0) for each in service_ids},
            "limits": FAST_LIMITS,
            **given,
        }
        return wanted(name, **keys)

    def row(self, name: str) -> TunnelRow:
        """What a snapshot says of a tunnel."""
        rows = self.gateway.snapshot().rows(self.gateway.runtime)
        (row,) = [each for each in rows if each.name == name]
        return row

    def names(self) -> list[str]:
        """The names in a snapshot."""
        return [entry.tunnel.name for entry in self.gateway.snapshot().entries]

    def wait_state(self, name: str, state: str) -> TunnelRow:
        """Wait until a snapshot says that a tunnel is in this state."""
        eventually(lambda: self.row(name).state == state)
        return self.row(name)

    def connects(self, name: str) -> int:
        """How many handshakes the tunnel's counters know."""
        return self.gateway.runtime.tunnel(name).stats.connect_attempts
