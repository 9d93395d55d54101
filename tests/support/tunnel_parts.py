"""What a part of a TunnelActor needs, without an actor: `Common` between recorders."""

from __future__ import annotations

from typing import Any

from tests.support.fakes import CLIENT_TOKEN, FakeRef, make_config
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.tunnel.context import (
    Common,
    Credentials,
    Services,
    TunnelContext,
    TunnelParts,
)
from tunnelfleet.proto import Mode


class Teller(FakeRef):
    """One that knows whether its actor lives."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive


class PartBench:
    """The `Common` of a part, and what is told around it."""

    def __init__(self, mode: Mode = Mode.SOURCE, **settings: Any) -> None:
        self.tunnel, self.transport, self.relay = Teller(), Teller(), Teller()
        self.started: list[tuple[Any, ...]] = []
        self.stats = TunnelStats()
        services = Services()
        services.relay = self.relay  # type: ignore[assignment]
        context = TunnelContext(
            config=make_config(mode, **settings),
            credentials=Credentials("t", CLIENT_TOKEN),
            stats=self.stats,
            parts=TunnelParts(self._start, self._start, self._start),
            services=services,
            bound={},
        )
        self.common = Common(context, self.tunnel)  # type: ignore[arg-type]
        self.common.transport = self.transport  # type: ignore[assignment]

    def _start(self, *arguments: Any) -> Any:
        self.started.append(arguments)
        return Teller()
