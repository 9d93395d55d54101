"""Carrying out what was decided about a tunnel, with the core's runtime.

Owns the way from an action to the calls of `TunnelRuntime`, and what `FleetState` says of the
tunnel afterwards. It decides nothing, and waits for nothing: what takes a while comes back to the
actor as one of the messages here.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.kernel.moments import CLOCK
from tunnelfleet.proto import ConfigError, TunnelClosed
from tunnelfleet.runtime import TunnelRuntime, TunnelState

from .reconcile import (
    Action,
    Apply,
    DrainTunnel,
    RotateToken,
    Running,
    RunPhase,
    StartTunnel,
    StopTunnel,
)
from .wanted import WantedTunnel

if TYPE_CHECKING:
    from tunnelfleet.actors.kernel.loop_io import Timer

    from .config import ClientTokens
    from .fleet_state import FleetState


logger = logging.getLogger(__name__)


class OpenAgain(NamedTuple):
    """A tunnel could not be opened; try again."""

    name: str


class TunnelEnded(NamedTuple):
    """A tunnel is closed, and its name free."""

    name: str


class DrainTimedOut(NamedTuple):
    """A drain has lasted long enough."""

    running: Running


RETRY_OPEN_SECONDS = 1.0
"""After which a tunnel is opened again if the runtime was not there."""


class TunnelKeeper:
    """Starts, changes and ends tunnels for an actor, in its turns.

    Args:
        actor: is told `OpenAgain`, `TunnelEnded` and `DrainTimedOut`.
        state: kept up to date.
        runtime: runs the tunnels, or did before another took its place.
        client_tokens: derives client tokens.
    """

    def __init__(
        self,
        actor: DispatchedActor,
        state: FleetState,
        runtime: TunnelRuntime,
        client_tokens: ClientTokens,
    ) -> None:
        self._actor = actor
        self._state = state
        self._runtime = runtime
        self._client_tokens = client_tokens
        self._drains: dict[str, Timer] = {}
        """What ends the drains that last too long."""

    def resume(self) -> None:
        """Go on with what an earlier run of the actor had begun to end."""
        for name, running in list(self._state.running.items()):
            if running.phase is RunPhase.STOPPING:
                self._close(name)
            elif running.phase is RunPhase.DRAINING:
                self._drain(running)

    def carry_out(self, action: Action) -> None:
        """Do it, or begin to."""
        match action:
            case StartTunnel(tunnel):
                self._open(tunnel)
            case Apply(tunnel):
                self._apply(tunnel)
            case RotateToken(tunnel):
                self.give_token(tunnel)
            case DrainTunnel(name):
                running = replace(self._state.running[name], phase=RunPhase.DRAINING)
                self._state.running[name] = running
                self._drain(running)
            case StopTunnel(name):
                self.stop(name)

    def give_token(self, tunnel: WantedTunnel) -> None:
        """Have a running tunnel connect with these tokens, at once."""
        client_token = tunnel.client_token or self._client_tokens.derive(tunnel.access_token)
        try:
            self._runtime.replace_token(tunnel.name, tunnel.access_token, client_token)
        except KeyError:
            self._is_gone(tunnel.name)
        else:
            self._runs(tunnel)

    def stop(self, name: str) -> None:
        """End a running tunnel in good order."""
        running = self._state.running[name]
        self._state.running[name] = replace(running, phase=RunPhase.STOPPING)
        self._end_drain(name)
        self._close(name)

    def forget(self, name: str) -> None:
        """A tunnel has ended, whatever ended it."""
        self._end_drain(name)
        self._state.running.pop(name, None)

    def _end_drain(self, name: str) -> None:
        timer = self._drains.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _open(self, tunnel: WantedTunnel) -> None:
        name = tunnel.name
        if name in self._state.failures:
            # Until its entry changes, or somebody says `retry`.
            return
        try:
            config = tunnel.to_config(self._client_tokens.derive(tunnel.access_token))
            self._runtime.present.open_tunnel(config)
        except TunnelClosed:
            # The runtime is being started again, or everything ends.
            self._actor.schedule(RETRY_OPEN_SECONDS, OpenAgain(name))
        except ConfigError as error:
            self._state.failures[name] = (f"it could not be opened: {error}", CLOCK.now())
            logger.error("it could not be opened: %s", error, extra={"tunnel": name})
        else:
            self._runs(tunnel)

    def _apply(self, tunnel: WantedTunnel) -> None:
        before = self._state.running[tunnel.name].tunnel
        if tunnel.limits != before.limits:
            try:
                self._runtime.replace_limits(tunnel.name, tunnel.limits)
            except KeyError:
                self._is_gone(tunnel.name)
                return
        self._runs(tunnel)

    def _runs(self, tunnel: WantedTunnel) -> None:
        source = self._state.source_of(tunnel.name)
        self._state.running[tunnel.name] = Running(tunnel, source=source)

    def _drain(self, running: Running) -> None:
        name = running.tunnel.name
        try:
            self._runtime.drain_tunnel(name)
            state = self._runtime.tunnel(name).stats.state
        except KeyError:
            self._is_gone(name)
            return
        if state in (TunnelState.STOPPED, TunnelState.QUARANTINED):
            # There is nobody who could drain it.
            self.stop(name)
            return
        seconds = self._state.config.gateway.drain_seconds
        self._end_drain(name)
        self._drains[name] = self._actor.schedule(seconds, DrainTimedOut(running))

    def _close(self, name: str) -> None:
        try:
            closed = self._runtime.present.begin_close(name)
        except (KeyError, TunnelClosed):
            self._is_gone(name)
        else:
            self._actor.pipe_to_self(closed, lambda _closed: TunnelEnded(name))

    def _is_gone(self, name: str) -> None:
        """The runtime does not have it: whatever ended it, it has ended."""
        self._actor.actor_ref.tell(TunnelEnded(name))
