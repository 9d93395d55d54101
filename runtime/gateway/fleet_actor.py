"""FleetActor: makes what runs what is wanted and ours.

Whatever happens, a reload, a command, a shard that comes or goes, the end of a tunnel, changes the
facts in `FleetState` and marks names; then each marked name is asked about (`reconcile.decide`) and
the answer carried out. So there is one way for all changes, and what is not marked does not notice.

It reads no file itself: a reload runs on a thread that may wait. Names are looked at a few at a
time, so that thousands of them hold up nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, ClassVar, NamedTuple

from tunnelfleet.actors.kernel import DispatchedActor, Reply
from tunnelfleet.actors.kernel.moments import CLOCK
from tunnelfleet.proto import ConfigError, validate_access_token, validate_client_token
from tunnelfleet.runtime import (
    ListenerClosed,
    ListenerOpened,
    TunnelRuntime,
    TunnelState,
    TunnelStateChanged,
)

from . import messages
from .config import ClientTokens, FleetConfig
from .config.fleet import STATIC
from .fleet_state import FleetState, Marks
from .log import log_end, log_listener, log_listener_closed, log_reload, log_state
from .placement import Assigned, FleetLeaves, Revoked, Vacated
from .reconcile import Difference, RunPhase, compare, decide
from .reloading import Loaded, ReloadQueue, loaded
from .tunnel_keeper import DrainTimedOut, OpenAgain, TunnelEnded, TunnelKeeper
from .wanted import WantedTunnel

NAMES_A_TURN = 16
"""How many names are looked at before others have their turn."""
HANDOVER_SECONDS = 0.2
"""Between the tunnels that are handed over and the next ones."""
EVENTS = (TunnelStateChanged, ListenerOpened, ListenerClosed)
"""What is heard of the tunnels."""
RETRIED_BY_TOKEN = frozenset({TunnelState.BACKOFF, TunnelState.REFUSED})
AT_WORK = frozenset({TunnelState.CONNECTED, TunnelState.DRAINING, TunnelState.STOPPED})
"""What no attempt helps."""

logger = logging.getLogger(__name__)


class _LookAgain(NamedTuple):
    """Some names are marked."""


class _HandShardsOver(NamedTuple):
    """It is time for the next tunnels that another gateway gets."""


class _LeaveTimedOut(NamedTuple):
    """The time for leaving is over."""


class FleetActor(DispatchedActor):
    """The fleet of a gateway.

    Args:
        state: what it knows; outlives it.
        runtime: runs the tunnels, or did before another took its place.
        client_tokens: derives client tokens.
        begin_load: starts reading the files on a thread that may wait. The future has the
            configuration, or raises `ConfigProblems`.
        ask_for_shards: called in its first turn: has its shards told to it.
        on_files_taken: called when the files were taken over again.
        tell_placement: tells who assigns shards that some are vacated, or that all ends.
    """

    def __init__(
        self,
        state: FleetState,
        runtime: TunnelRuntime,
        client_tokens: ClientTokens,
        begin_load: Callable[[], Future[FleetConfig]],
        ask_for_shards: Callable[[], object],
        on_files_taken: Callable[[], object] = lambda: None,
        tell_placement: Callable[[Vacated | FleetLeaves], object] = lambda _message: None,
    ) -> None:
        super().__init__()
        self._state = state
        self._runtime = runtime
        self._keeper = TunnelKeeper(self, state, runtime, client_tokens)
        self._begin_load = begin_load
        self._ask_for_shards = ask_for_shards
        self._on_files_taken = on_files_taken
        self._tell_placement = tell_placement
        self._marks = Marks()
        self._looks = False
        self._handovers = Marks()
        self._handovers_per_second = 1.0
        self._hands_over = False
        self._reloads = ReloadQueue()
        self._leave: Reply | None = None

    def on_start(self) -> None:
        """Take up what an earlier run of this actor has left behind, then look at all."""
        self._runtime.present.subscribe(self.actor_ref, kinds=EVENTS)
        self._keeper.resume()
        self._ask_for_shards()
        self._mark(self._state.names())
        self._tell_vacated(self._state.take_empty())

    # -- wishes

    def _on_set_wanted(self, message: messages.SetWanted) -> Difference:
        return self._change_wishes(message.source, message.tunnels)

    def _on_set_wanted_in_shards(self, message: messages.SetWantedInShards) -> Difference:
        state = self._state
        kept = {
            name: tunnel
            for name, tunnel in state.sources.get(message.source, {}).items()
            if state.shard_of(name) not in message.shards
        }
        return self._change_wishes(message.source, {**kept, **message.tunnels})

    def _on_put_wanted(self, message: messages.PutWanted) -> Difference:
        name = message.tunnel.name
        before = self._state.wish(name)
        self._state.sources.setdefault(message.source, {})[name] = message.tunnel
        return self._changed_wish(name, before)

    def _on_remove_wanted(self, message: messages.RemoveWanted) -> Difference | None:
        name = message.name
        tunnels = self._state.sources.get(message.source, {})
        if name not in tunnels:
            self.defer_reply().fail(messages.UnknownTunnel(name))
            return None
        before = self._state.wish(name)
        del tunnels[name]
        return self._changed_wish(name, before)

    def _changed_wish(self, name: str, before: WantedTunnel | None) -> Difference:
        after = self._state.wish(name)
        if after is None:
            self._state.forget_what_is_gone()
        return self._adopt(
            compare(
                {} if before is None else {name: before}, {} if after is None else {name: after}
            )
        )

    def _change_wishes(self, source: str, tunnels: Mapping[str, WantedTunnel]) -> Difference:
        before = self._state.wishes()
        self._state.sources[source] = dict(tunnels)
        self._state.forget_what_is_gone()
        return self._adopt(compare(before, self._state.wishes()))

    def _on_compare_wanted(self, message: messages.CompareWanted) -> Difference:
        state = self._state
        after = state.wishes({**state.sources, message.source: dict(message.tunnels)})
        return compare(state.wishes(), after)

    def _adopt(self, difference: Difference) -> Difference:
        for name in difference.changed:
            self._state.failures.pop(name, None)
        self._mark([*difference.removed, *difference.changed, *difference.added])
        return difference

    # -- reload

    def _on_reload(self, _message: messages.Reload) -> None:
        if self._reloads.ask(self.defer_reply()):
            self._load()

    def _load(self) -> None:
        self.pipe_to_self(self._begin_load(), loaded)

    def _on_loaded(self, message: Loaded) -> None:
        if message.config is None:
            self._state.reload_ok = False
            self._state.problems = message.problems
            result = messages.ReloadResult(None, message.problems)
        else:
            result = self._take_config(message.config)
        log_reload(result)
        if self._reloads.answer(result):
            self._load()

    def _take_config(self, config: FleetConfig) -> messages.ReloadResult:
        state = self._state
        needs_restart = state.config.gateway.needing_restart(config.gateway)
        state.config = config
        state.reload_ok, state.reloaded_at = True, time.time()
        state.problems = config.warnings
        difference = self._change_wishes(messages.FILES, config.tunnels)
        self._on_files_taken()
        return messages.ReloadResult(difference, config.warnings, tuple(needs_restart))

    # -- shards

    def _on_assigned(self, message: Assigned) -> None:
        state = self._state
        if message.epoch < state.epoch:
            return
        state.epoch = message.epoch
        changed = message.shards - state.shards
        state.shards |= message.shards
        for shard in message.shards:
            state.emptying.pop(shard, None)
        self._mark(name for name in state.names() if state.shard_of(name) in changed)

    def _on_revoked(self, message: Revoked) -> None:
        state = self._state
        names = state.give_up(message.shards, may_drain=message.may_drain)
        if message.may_drain:
            rate = state.config.gateway.connect_rate
            self._handovers_per_second = rate * message.rate_part
            # Shard by shard, so that the first can be let go of soon.
            self._handovers.add(sorted(names, key=state.shard_of))
            self._hand_over_soon(0.0)
        else:
            self._mark(names)
        self._tell_vacated(state.take_empty())

    def _hand_over_soon(self, delay_seconds: float) -> None:
        if self._handovers and not self._hands_over:
            self._hands_over = True
            self.schedule(delay_seconds, _HandShardsOver())

    def _on_hand_over(self, _message: _HandShardsOver) -> None:
        """End no more tunnels than can connect elsewhere meanwhile: so each is away briefly."""
        self._hands_over = False
        rate = self._handovers_per_second
        count = max(1, int(rate * HANDOVER_SECONDS))
        self._mark(self._handovers.take(count))
        self._hand_over_soon(max(HANDOVER_SECONDS, count / rate))

    def _tell_vacated(self, shards: frozenset[int]) -> None:
        if shards:
            self._tell_placement(Vacated(shards))

    # -- commands

    def _on_drain_tunnels(self, message: messages.DrainTunnels) -> list[str] | None:
        names = self._known(message.names)
        if names is None:
            return None
        now = CLOCK.now()
        for name in names:
            self._state.held.setdefault(name, now)
        self._mark(names)
        return names

    def _on_retry_tunnels(self, message: messages.RetryTunnels) -> list[str] | None:
        names = self._known(message.names)
        if names is None:
            return None
        tried = [name for name in names if self._retry(name)]
        self._mark(tried)
        return tried

    def _retry(self, name: str) -> bool:
        state = self._state
        was_down = state.held.pop(name, None) is not None
        was_down |= state.failures.pop(name, None) is not None
        running = state.running.get(name)
        if running is None or running.phase is not RunPhase.RUNNING:
            return was_down
        try:
            tunnel = self._runtime.tunnel(name)
        except KeyError:
            return was_down
        found = tunnel.stats.state
        if found in AT_WORK:
            return was_down
        # Before its next attempt asks for a permit, so that a breaker does not hold it back.
        is_tried = self._runtime.try_now(name)
        if found in RETRIED_BY_TOKEN:
            # The same pair once more: it ends the wait, or the refusal.
            self._keeper.give_token(running.tunnel)
            return True
        if found is TunnelState.QUARANTINED:
            self._keeper.stop(name)
            return True
        return was_down or is_tried

    def _on_replace_token(self, message: messages.ReplaceTunnelToken) -> None:
        reply = self.defer_reply()
        if self._state.wish(message.name) is None:
            reply.fail(messages.UnknownTunnel(message.name))
            return
        try:
            validate_access_token(message.access_token)
            if message.client_token is not None:
                validate_client_token(message.client_token)
        except ConfigError as error:
            reply.fail(error)
            return
        self._state.replace_token(message.name, message.access_token, message.client_token)
        self._state.failures.pop(message.name, None)
        self._mark([message.name])
        reply.set(None)

    def _known(self, names: tuple[str, ...] | None) -> list[str] | None:
        """The names that are meant; None, and an answer that says so, if one is unknown."""
        if names is None:
            return list(self._state.wishes())
        for name in names:
            if self._state.wish(name) is None:
                self.defer_reply().fail(messages.UnknownTunnel(name))
                return None
        return list(names)

    def _on_take_snapshot(self, message: messages.TakeSnapshot) -> messages.Snapshot:
        return messages.Snapshot(self._state.entries(message.names), self._state.config)

    # -- marked names

    def _mark(self, names: Iterable[str]) -> None:
        self._marks.add(names)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._marks and not self._looks:
            self._looks = True
            # A timer, and no message to itself: those would all be handled in this turn.
            self.schedule(0.0, _LookAgain())

    def _on_look_again(self, _message: _LookAgain) -> None:
        self._looks = False
        state = self._state
        for name in self._marks.take(NAMES_A_TURN):
            action = decide(
                name,
                state.wanted(name),
                state.running.get(name),
                is_ours=state.is_ours(name),
                may_drain=state.may_drain(name),
            )
            if action is not None:
                self._keeper.carry_out(action)
        self._look_soon()
        self._leave_if_done()

    def _on_open_again(self, message: OpenAgain) -> None:
        self._mark([message.name])

    def _on_drain_timed_out(self, message: DrainTimedOut) -> None:
        if self._state.running.get(message.running.tunnel.name) is message.running:
            self._keeper.stop(message.running.tunnel.name)

    def _on_state_changed(self, event: TunnelStateChanged) -> None:
        running = self._state.running.get(event.tunnel)
        phase = None if running is None else running.phase
        log_state(event, phase)
        if phase is RunPhase.DRAINING and event.state is TunnelState.STOPPED:
            self._keeper.stop(event.tunnel)

    def _on_listener_opened(self, event: ListenerOpened) -> None:
        log_listener(event)

    def _on_listener_closed(self, event: ListenerClosed) -> None:
        running = self._state.running.get(event.tunnel)
        if running is not None and running.phase is RunPhase.RUNNING:
            log_listener_closed(event)

    def _on_ended(self, message: TunnelEnded) -> None:
        log_end(message.name)
        self._keeper.forget(message.name)
        self._mark([message.name])
        self._tell_vacated(self._state.take_empty(message.name))

    # -- the end

    def _on_leave(self, message: messages.Leave) -> None:
        self._leave = self.defer_reply()
        self._state.is_leaving = True
        self._tell_placement(FleetLeaves())
        self.schedule(message.drain_seconds, _LeaveTimedOut())
        if self._state.config.gateway.placement == STATIC:
            self._mark(list(self._state.running))
        # Otherwise the shards are about to be revoked: tunnels go a few at a time.
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._leave is not None and not self._state.running:
            self._leave.set(messages.Left(()))
            self._leave = None

    def _on_leave_timed_out(self, _message: _LeaveTimedOut) -> None:
        if self._leave is not None:
            self._leave.set(
                messages.Left(tuple(sorted(filter(self._is_busy, self._state.running))))
            )
            self._leave = None

    def _is_busy(self, name: str) -> bool:
        try:
            return self._runtime.tunnel(name).status().connections_active > 0
        except KeyError:
            return False

    HANDLERS: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        messages.SetWanted: _on_set_wanted,
        messages.SetWantedInShards: _on_set_wanted_in_shards,
        messages.PutWanted: _on_put_wanted,
        messages.RemoveWanted: _on_remove_wanted,
        messages.CompareWanted: _on_compare_wanted,
        messages.Reload: _on_reload,
        Loaded: _on_loaded,
        Assigned: _on_assigned,
        Revoked: _on_revoked,
        messages.DrainTunnels: _on_drain_tunnels,
        messages.RetryTunnels: _on_retry_tunnels,
        messages.ReplaceTunnelToken: _on_replace_token,
        messages.TakeSnapshot: _on_take_snapshot,
        TunnelStateChanged: _on_state_changed,
        ListenerOpened: _on_listener_opened,
        ListenerClosed: _on_listener_closed,
        _LookAgain: _on_look_again,
        _HandShardsOver: _on_hand_over,
        OpenAgain: _on_open_again,
        TunnelEnded: _on_ended,
        DrainTimedOut: _on_drain_timed_out,
        messages.Leave: _on_leave,
        _LeaveTimedOut: _on_leave_timed_out,
    }
