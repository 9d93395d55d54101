"""The reconciler against a world: wishes of several sources, shards that come and go, tunnels.

Whatever is wished, assigned and over in whatever order: no tunnel runs twice, what is not in a
difference is not touched, what is another gateway's ends at once, a drain is never cut short for
nothing; and once all that ends has ended, what runs is what is wanted and ours, as it is wanted.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.examples import stateful_settings
from tests.support.fleet import wanted
from tunnelfleet.runtime.gateway.reconcile import (
    SOURCES,
    Action,
    Apply,
    DrainTunnel,
    RotateToken,
    Running,
    RunPhase,
    StartTunnel,
    StopTunnel,
    merged,
    prevailing,
    reconcile,
)
from tunnelfleet.runtime.gateway.wanted import Change, WantedTunnel, change_between

NAMES = ("a", "b", "c")
A = wanted()
KINDS = (
    A,
    replace(A, labels={"site": "lyon"}),
    replace(A, access_token="u" * 40),
    replace(A, bind="10.0.0.1"),
)
names = st.sampled_from(NAMES)
sources = st.sampled_from((*SOURCES, "on demand"))
SETTLES_IN = 8
"""Rounds of decisions and ends: a stop and a start, whatever came before."""


class ReconcilerModel(RuleBasedStateMachine):
    """Facts in any order; the actions are carried out on what runs."""

    @initialize(ours=st.sets(names))
    def begin(self, ours: set[str]) -> None:
        self.wishes: dict[str, dict[str, WantedTunnel]] = {}
        self.ours = ours
        self.running: dict[str, Running] = {}
        self.lives = dict.fromkeys(NAMES, 0)
        """How often each was started."""

    @rule(source=sources, name=names, kind=st.sampled_from(KINDS))
    def one_is_wanted(self, source: str, name: str, kind: WantedTunnel) -> None:
        self.wishes.setdefault(source, {})[name] = replace(kind, name=name)

    @rule(source=sources, name=names)
    def one_is_wanted_no_more(self, source: str, name: str) -> None:
        self.wishes.get(source, {}).pop(name, None)

    @rule(name=names)
    def a_shard_comes(self, name: str) -> None:
        self.ours.add(name)

    @rule(name=names)
    def a_shard_goes(self, name: str) -> None:
        self.ours.discard(name)

    @rule(name=names)
    def one_ends_by_itself(self, name: str) -> None:
        """Drained, stopped, or given up by its runtime."""
        self.running.pop(name, None)

    @rule(name=names)
    def what_was_told_to_end_has_ended(self, name: str) -> None:
        running = self.running.get(name)
        if running is not None and running.phase is not RunPhase.RUNNING:
            del self.running[name]

    @rule()
    def it_is_decided(self) -> None:
        self._decide()

    def _decide(self) -> list[Action]:
        wanted_now = merged(self.wishes)
        actions = reconcile(wanted_now, self.running, self.ours.__contains__)
        touched = [self._name_of(each) for each in actions]
        assert len(touched) == len(set(touched)), "two actions for one tunnel"
        kinds = [type(each) for each in actions]
        last_stop = max((i for i, kind in enumerate(kinds) if kind is StopTunnel), default=-1)
        assert StartTunnel not in kinds[: last_stop + 1], "a port is taken before it is free"
        self._check_untouched(wanted_now, set(touched))
        for action in actions:
            self._do(action, wanted_now)
        return actions

    @staticmethod
    def _name_of(action: Action) -> str:
        return action.name if isinstance(action, DrainTunnel | StopTunnel) else action.tunnel.name

    def _check_untouched(self, wanted_now: dict[str, WantedTunnel], touched: set[str]) -> None:
        for name, running in self.running.items():
            is_right = running.phase is RunPhase.RUNNING and running.tunnel == wanted_now.get(name)
            assert not (is_right and name in self.ours and name in touched), f"{name} notices"

    def _do(self, action: Action, wanted_now: dict[str, WantedTunnel]) -> None:
        name = self._name_of(action)
        running = self.running.get(name)
        match action:
            case StartTunnel(tunnel):
                assert running is None, "it runs twice"
                assert name in self.ours
                assert tunnel == wanted_now[name]
                self.running[name] = Running(tunnel)
                self.lives[name] += 1
            case Apply(tunnel) | RotateToken(tunnel):
                assert running is not None
                assert name in self.ours
                in_place = isinstance(action, Apply)
                change = Change.IN_PLACE if in_place else Change.NEW_TOKEN
                assert change_between(running.tunnel, tunnel) is change
                self.running[name] = Running(tunnel)
            case DrainTunnel():
                assert running is not None
                assert name not in wanted_now, "a wanted tunnel takes no new connections"
                self.running[name] = replace(running, phase=RunPhase.DRAINING)
            case StopTunnel():
                assert running is not None
                has_cause = name not in self.ours or name in wanted_now
                assert has_cause, "a drain is cut short"
                self.running[name] = replace(running, phase=RunPhase.STOPPING)

    @invariant()
    def the_first_source_counts(self) -> None:
        if not hasattr(self, "wishes"):
            return
        found = merged(self.wishes)
        for name in NAMES:
            of = [each for each in (*SOURCES, "on demand") if name in self.wishes.get(each, {})]
            expected = self.wishes[of[0]][name] if of else None
            assert found.get(name) == prevailing(name, self.wishes) == expected

    def teardown(self) -> None:
        """Nothing changes any more, and what was told to end does."""
        if not hasattr(self, "wishes"):
            return
        for _ in range(SETTLES_IN):
            self._decide()
            for name in NAMES:
                self.what_was_told_to_end_has_ended(name)
        wanted_now = merged(self.wishes)
        expected = {name: Running(each) for name, each in wanted_now.items() if name in self.ours}
        assert self.running == expected
        lives = dict(self.lives)
        assert self._decide() == []
        assert self.lives == lives


ReconcilerModel.TestCase.settings = stateful_settings()
TestReconciler = ReconcilerModel.TestCase
