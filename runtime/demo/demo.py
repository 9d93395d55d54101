"""The demo itself: what is started, in which order, for how long, and how it is judged.

Owns the phases and the clock. What is served, said, broken and shown is in the modules beside it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.service import TunnelService

from . import fleet
from .plan import Chaos, StrikeKind, TrafficPlan, plan_strikes
from .report import DemoPhase, FleetSampler, FleetSnapshot, Report, make_report
from .traffic import Traffic

if TYPE_CHECKING:
    from .fleet import DemoTunnel, TunnelPair
    from .plan import Strike
    from .view import View

MAX_TUNNELS: Final = 5_000
TICK_SECONDS: Final = 0.25
"""The time between two looks at the tunnels, and so between two pictures."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to demonstrate.

    Attributes:
        tunnels: how many.
        duration_seconds: how long the traffic lasts, from when all tunnels are connected.
        chaos: whether to break connections on purpose.
        keep: stay up afterwards, until `Demo.stop`, for a person's own clients.
        seed: of all content and of the schedule of breaks.
        admin: where to serve metrics, liveness and readiness; None does not.

    Raises:
        ConfigError: a number is out of its range.
    """

    tunnels: int = 20
    duration_seconds: float = 30.0
    chaos: bool = True
    keep: bool = False
    seed: int = 0
    admin: AdminOptions | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.tunnels <= MAX_TUNNELS:
            raise ConfigError(f"--tunnels takes 1 to {MAX_TUNNELS}, not {self.tunnels}")
        if not 0 < self.duration_seconds < float("inf"):
            raise ConfigError(
                f"--duration takes more than 0 seconds, not {self.duration_seconds:g}"
            )


class _UserStopped(Exception):  # noqa: N818 (a way out, not an error)
    """The user has seen enough."""


CONNECT_SECONDS: Final = 30.0
CONNECT_SECONDS_PER_TUNNEL: Final = 0.1
"""How long the tunnels may take to connect, at first and again after the chaos."""
PER_TUNNEL_SERIES: Final = 1_000
"""How many ends of tunnels have metrics of their own, if the metrics are served."""
FINISH_SECONDS: Final = 10.0
"""How long the last transfers may take."""


class Demo:
    """Runs the demo once.

    Args:
        options: what to demonstrate.
        view: where to show it.
    """

    def __init__(self, options: DemoOptions, view: View) -> None:
        self._options = options
        self._view = view
        # A signal handler may call SimpleQueue.put, and must not call Event.set.
        self._stops: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._service = TunnelService()
        self._traffic = Traffic(options.seed)
        self._pairs: list[DemoTunnel] = []
        self._quiet: list[DemoTunnel] = []
        self._chaos = Chaos(())
        self._sampler = FleetSampler()
        self._phase = DemoPhase.CONNECTING
        self._began = self._phase_began = time.monotonic()
        self._threads = 0
        self._missing: tuple[str, ...] = ()

    def stop(self, cause: object = None) -> None:
        """End the demo early; may be called from a signal handler and from any thread."""
        self._stops.put(cause)

    def run(self) -> Report:
        """Run it to its end.

        Returns:
            What it came to; `Report.is_good` says whether all was well.

        Raises:
            ConfigError: the system does not let so many tunnels be.
        """
        fleet.allow_files_for(self._options.tunnels)
        self._began = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._service)
            runtime = stack.enter_context(
                TunnelRuntime(
                    connect_rate_per_second=fleet.CONNECT_RATE_PER_SECOND,
                    ssl_context=self._service.ssl_context(),
                    per_tunnel_series=PER_TUNNEL_SERIES if self._options.admin else 0,
                )
            )
            admin = self._serve_admin(stack, runtime)
            stack.enter_context(self._traffic)
            with self._view:
                if admin is not None:
                    self._view.guide(fleet.admin_lines(admin.url))
                interrupted = self._play(runtime)
                self._enter(DemoPhase.OVER)
                snapshot = self._look()
                self._view.update(snapshot)
            return make_report(
                snapshot,
                seconds=time.monotonic() - self._began,
                threads=self._threads,
                missing=self._missing,
                fault=self._traffic.meter.first_fault,
                interrupted=interrupted,
            )

    def _serve_admin(self, stack: ExitStack, runtime: TunnelRuntime) -> AdminServer | None:
        options = self._options.admin
        if options is None:
            return None
        # Both ends of a tunnel are in this process. People count tunnels, and so does the table.
        return stack.enter_context(AdminServer(runtime, options, tunnel_of=fleet.tunnel_of))

    def _play(self, runtime: TunnelRuntime) -> bool:
        """Go through the phases. Returns whether the user ended them before they were over."""
        try:
            self._open(runtime)
            self._connect()
            self._run_traffic()
            self._recover()
            self._finish()
        except _UserStopped:
            return True
        if self._options.keep:
            self._keep()
        return False

    # the phases

    def _open(self, runtime: TunnelRuntime) -> None:
        self._enter(DemoPhase.CONNECTING)
        shown_at = 0.0
        for name in fleet.tunnel_names(self._options.tunnels):
            pair = fleet.open_pair(name, self._service, runtime, self._traffic.serve)
            self._pairs.append(pair)
            self._sampler.add(pair)
            if self._elapsed() >= shown_at:
                self._tick_until(lambda: True, 0.0)
                shown_at = self._elapsed() + TICK_SECONDS

    def _connect(self) -> None:
        # Clients begin when all tunnels are open: traffic would slow the opening down.
        self._quiet = list(self._pairs)
        self._tick_until(lambda: not self._quiet, self._connect_seconds)
        if self._options.keep:
            self._show_guide()

    def _run_traffic(self) -> None:
        self._enter(DemoPhase.RUNNING)
        if self._options.chaos:
            # The first tunnel is a person's own when the demo is to be kept, so it is left alone.
            names = [pair.name for pair in self._pairs][1 if self._options.keep else 0 :]
            strikes = plan_strikes(names, self._options.duration_seconds, self._options.seed)
            self._chaos = Chaos(strikes)
        self._tick_until(lambda: False, self._options.duration_seconds)

    def _recover(self) -> None:
        self._chaos = Chaos(())
        if not self._all_whole():
            self._enter(DemoPhase.RECOVERING)
            self._tick_until(self._all_whole, self._connect_seconds)
        self._missing = self._look_for_missing()

    def _look_for_missing(self) -> tuple[str, ...]:
        return tuple(filter(None, (_absence(pair) for pair in self._pairs)))

    def _finish(self) -> None:
        self._enter(DemoPhase.FINISHING)
        finished = self._traffic.stop_clients(FINISH_SECONDS)
        self._tick_until(finished.done, 2 * FINISH_SECONDS)
        if not finished.done():
            raise TunnelError("the clients of the demo do not end; please report this")
        finished.result()
        if not self._missing:
            # The last break may show only now, and is waited for as those before.
            self._tick_until(self._all_whole, self._connect_seconds)
            self._missing = self._look_for_missing()

    def _keep(self) -> None:
        self._enter(DemoPhase.KEEPING)
        try:
            self._tick_until(lambda: False, float("inf"))
        except _UserStopped:
            return

    # what every tick does

    def _tick_until(self, condition: Callable[[], bool], limit_seconds: float) -> None:
        """Show what happens until `condition` holds or the time is up.

        Raises:
            _UserStopped: the user wants no more.
        """
        deadline = time.monotonic() + limit_seconds
        while True:
            self._start_clients()
            self._strike()
            self._view.update(self._look())
            left_seconds = deadline - time.monotonic()
            over = condition() or left_seconds <= 0
            self._pause(0.0 if over else min(TICK_SECONDS, left_seconds))
            if over:
                return

    def _pause(self, seconds: float) -> None:
        try:
            self._stops.get(timeout=seconds)
        except queue.Empty:
            return
        raise _UserStopped

    def _start_clients(self) -> None:
        """Start the clients of the tunnels that have come up since the last time."""
        ready: dict[TunnelPair, Mapping[str, tuple[str, int]]] = {}
        for pair in self._quiet:
            addresses = pair.addresses()
            if addresses is not None and pair.is_whole():
                ready[pair] = addresses
        if ready:
            self._quiet = [pair for pair in self._quiet if pair not in ready]
            self._traffic.start_clients(ready, TrafficPlan.for_fleet(self._options.tunnels))

    def _strike(self) -> None:
        whole = {pair.name: pair for pair in self._pairs}
        for strike in self._chaos.due(self._elapsed(), lambda name: whole[name].is_whole()):
            whole[strike.tunnel].strike()
            self._sampler.strike(strike.tunnel, strike.kind, time.time())
            self._carry_out(strike)

    def _carry_out(self, strike: Strike) -> None:
        if strike.kind is StrikeKind.SESSION_RESET:
            self._service.session_reset(strike.tunnel)
        else:
            self._service.drop(strike.tunnel, strike.kind.mode)

    def _look(self) -> FleetSnapshot:
        self._threads = max(self._threads, fleet.thread_count())
        meter = self._traffic.meter
        rows = self._sampler.rows(time.time())
        return FleetSnapshot(
            phase=self._phase,
            tunnels=self._options.tunnels,
            elapsed_seconds=time.monotonic() - self._began,
            phase_seconds=self._elapsed(),
            duration_seconds=self._options.duration_seconds,
            rows=rows,
            history=self._sampler.history,
            verified_bytes=meter.verified_bytes,
            mismatched_bytes=meter.mismatched_bytes,
            exchanges_completed=meter.exchanges_completed,
            exchanges_broken=meter.exchanges_broken,
            threads=self._threads,
            rss_bytes=fleet.rss_bytes(),
        )

    # small questions

    def _enter(self, phase: DemoPhase) -> None:
        self._phase = phase
        self._phase_began = time.monotonic()

    def _elapsed(self) -> float:
        return time.monotonic() - self._phase_began

    @property
    def _connect_seconds(self) -> float:
        return CONNECT_SECONDS + CONNECT_SECONDS_PER_TUNNEL * self._options.tunnels

    def _all_whole(self) -> bool:
        return all(pair.is_whole() for pair in self._pairs)

    def _show_guide(self) -> None:
        pair = self._pairs[0]
        addresses = pair.addresses()
        if addresses is not None:
            ca_path = str(self._service.ca_path or "")
            self._view.guide(
                fleet.guide_lines(pair.name, addresses, self._service.endpoint, ca_path)
            )


def _absence(pair: DemoTunnel) -> str:
    """Return which end of a tunnel is not connected, and why; empty when both are."""
    for status in (pair.source.status(), pair.destination.status()):
        if status.state is not TunnelState.CONNECTED:
            return f"{pair.name}: its {status.mode} is {status.state} ({status.reason or '?'})"
    return ""
