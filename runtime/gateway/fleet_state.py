"""What FleetActor knows, kept where a crash of the actor does not lose it, and its metrics.

Owns the wishes of all sources, the shards that are ours, what runs, and what operators have decided
about single tunnels. It decides and starts nothing; `wanted` and `is_ours` are the facts for
`reconcile`. Written on FleetActor's thread alone; other threads may read single values.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.kernel.moments import CLOCK, UnixTime
from tunnelfleet.runtime.metrics.catalogue import GATEWAY, metric
from tunnelfleet.runtime.metrics.families import numbers

from .config import FleetConfig
from .placement import shard_of
from .reconcile import Running, RunPhase, merged, prevailing
from .snapshot import Entry
from .wanted import WantedTunnel

HELD = "drained on command; `tunnelfleet retry` starts it again"
ELSEWHERE = "another gateway has it"
LEAVING = "the gateway is stopping"
REMOVED = "nobody wants it any more; it ends with its last connection"
WAITING = "about to start"


class Marks:
    """Names that are to be looked at, each once, in the order in which they were marked."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: Iterable[str]) -> None:
        """Mark names."""
        self._names.update(dict.fromkeys(names))

    def take(self, count: int) -> list[str]:
        """At most so many, the first ones; they are marked no more."""
        taken = list(itertools.islice(self._names, count))
        for name in taken:
            del self._names[name]
        return taken


@dataclass(slots=True)
class Emptying:
    """A shard that was revoked: whether its tunnels may drain, and which still run."""

    may_drain: bool
    names: set[str] = field(default_factory=set)


class FleetState:
    """The facts about a fleet.

    Args:
        config: what the files say at the start.
    """

    reloaded_at = UnixTime()

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        self.shard_count = config.gateway.shards
        self.sources: dict[str, dict[str, WantedTunnel]] = {}
        self.running: dict[str, Running] = {}
        self.shards: frozenset[int] = frozenset()
        self.emptying: dict[int, Emptying] = {}
        """Shards that were revoked, until nothing runs of them any more."""
        self.epoch = 0
        self.is_leaving = False
        self.held: dict[str, float] = {}
        """Tunnels that an operator has drained, and at which moment of `CLOCK`."""
        self.failures: dict[str, tuple[str, float]] = {}
        """Tunnels that could not be opened, why, and at which moment of `CLOCK`."""
        self.problems = config.warnings
        """What the last reading of the files has found."""
        self.reload_ok = True
        self.reloaded_at = time.time()
        """When the files were last taken over, in seconds of the Unix epoch."""
        self._tokens: dict[str, tuple[str, str, str | None]] = {}
        """Tokens given by a command: the access token that was replaced, and the new pair."""

    def wish(self, name: str) -> WantedTunnel | None:
        """What the sources want under a name, with the token of a command if there is one."""
        return self._with_token(name, prevailing(name, self.sources))

    def _with_token(self, name: str, found: WantedTunnel | None) -> WantedTunnel | None:
        replaced = self._tokens.get(name)
        if found is None or replaced is None:
            return found
        before, access_token, client_token = replaced
        return (
            found.with_token(access_token, client_token) if found.access_token == before else found
        )

    def wanted(self, name: str) -> WantedTunnel | None:
        """The same, unless the tunnel should be down for a reason of ours."""
        if self.is_leaving or name in self.held:
            return None
        return self.wish(name)

    def shard_of(self, name: str) -> int:
        """The shard that a tunnel is in."""
        return shard_of(name, self.shard_count)

    def is_ours(self, name: str) -> bool:
        """Whether the tunnel's shard is assigned to this gateway."""
        return self.shard_of(name) in self.shards

    def may_drain(self, name: str) -> bool:
        """Whether the gateway that gets the tunnel waits until it has ended here."""
        found = self.emptying.get(self.shard_of(name))
        return found is not None and found.may_drain

    def give_up(self, shards: frozenset[int], *, may_drain: bool) -> list[str]:
        """These shards are not ours any more; returns what runs of them."""
        self.shards -= shards
        for shard in shards:
            self.emptying[shard] = Emptying(may_drain)
        names = [name for name in self.running if self.shard_of(name) in shards]
        for name in names:
            self.emptying[self.shard_of(name)].names.add(name)
        return names

    def take_empty(self, ended: str | None = None) -> frozenset[int]:
        """The shards that were revoked and that nothing runs of any more, each once.

        Args:
            ended: a tunnel that runs no more; None looks at all.
        """
        shards = self.emptying if ended is None else (self.shard_of(ended),)
        if ended is not None and shards[0] in self.emptying:
            self.emptying[shards[0]].names.discard(ended)
        found = frozenset(
            shard for shard in shards if shard in self.emptying and not self.emptying[shard].names
        )
        for shard in found:
            del self.emptying[shard]
        return found

    def source_of(self, name: str) -> str:
        """Whose wish counts; empty if nobody wants it."""
        found = prevailing(name, self.sources)
        wanting = (s for s, tunnels in self.sources.items() if tunnels.get(name) is found)
        return "" if found is None else next(wanting, "")

    def names(self) -> list[str]:
        """The names of all that is wanted or runs."""
        names: dict[str, None] = dict.fromkeys(self.running)
        for tunnels in tuple(self.sources.values()):
            names |= dict.fromkeys(tunnels)
        return list(names)

    def wishes(
        self, sources: Mapping[str, Mapping[str, WantedTunnel]] | None = None
    ) -> dict[str, WantedTunnel]:
        """What is wanted in all, by name.

        Args:
            sources: what each source wants; None for what they do want.
        """
        found = merged(self.sources if sources is None else sources)
        for name in [name for name in list(self._tokens) if name in found]:
            wish = self._with_token(name, found[name])
            assert wish is not None
            found[name] = wish
        return found

    def replace_token(self, name: str, access_token: str, client_token: str | None) -> None:
        """Note a token that a command has given to a tunnel that is wanted."""
        found = prevailing(name, self.sources)
        assert found is not None
        self._tokens[name] = (found.access_token, access_token, client_token)

    def forget_what_is_gone(self) -> None:
        """Let go of what was noted about names that nobody wants any more."""
        for noted in (self.held, self.failures, self._tokens):
            for name in [name for name in noted if prevailing(name, self.sources) is None]:
                del noted[name]

    def entries(self, names: Iterable[str] | None = None) -> tuple[Entry, ...]:
        """All tunnels, sorted by name, or those of some names."""
        return tuple(
            entry
            for name in sorted(self.names() if names is None else names)
            if (entry := self._entry(name)) is not None
        )

    def _entry(self, name: str) -> Entry | None:
        running, wish = self.running.get(name), self.wish(name)
        tunnel = wish if running is None else running.tunnel
        if tunnel is None:
            return None
        note, since = self._note(name, running, wish)
        phase = None if running is None else running.phase
        return Entry(tunnel, phase, self.source_of(name), note, since)

    def _note(
        self, name: str, running: Running | None, wish: WantedTunnel | None
    ) -> tuple[str, float]:
        if running is not None and running.phase is RunPhase.RUNNING:
            return "", 0.0
        if self.is_leaving:
            return LEAVING, self.reloaded_at
        if name in self.held:
            return HELD, CLOCK.unix(self.held[name])
        if name in self.failures:
            reason, failed_at = self.failures[name]
            return reason, CLOCK.unix(failed_at)
        if wish is None:
            return REMOVED, self.reloaded_at
        return (WAITING if self.is_ours(name) else ELSEWHERE), self.reloaded_at


GATEWAY_METRICS: Final = frozenset(each.exposed for each in GATEWAY)
"""The names of all that a gateway adds, those of its parts too."""

logger = get_logger(__name__)


class Collects(Protocol):
    """A part of a gateway with metrics of its own."""

    def collect(self) -> Iterable[Metric]:
        """Its families, now."""


MAX_INFO_ROWS = 2_000
"""Tunnels that `tunnelfleet_tunnel_info` shows, the first by name."""
MAX_INFO_LABELS = 10
"""Labels that it shows, the most frequent ones."""
INFO = "tunnel_info"


class GatewayCollector(Collector):
    """Collects the metrics of one gateway.

    Args:
        state: of the fleet.
        others: parts of the gateway that count for themselves, such as the store.
    """

    def __init__(self, state: FleetState, others: Iterable[Collects] = ()) -> None:
        self._state = state
        self._parts: list[Callable[[], Iterable[Metric]]] = [each.collect for each in others]

    def add(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Take the metrics of a part of the gateway too."""
        self._parts.append(collect)

    def describe(self) -> Iterator[Metric]:
        """Nothing is registered by name, so that two gateways can share a registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        state = self._state
        wishes = state.wishes()
        values = {
            "config_last_reload_successful": float(state.reload_ok),
            "config_last_reload_success_timestamp_seconds": state.reloaded_at,
            "gateway_tunnels_wanted": float(sum(map(state.is_ours, wishes))),
            "gateway_tunnels_running": float(len(state.running)),
        }
        for name, value in values.items():
            yield numbers(name, [((), value)])
        yield self._info()
        for collect in tuple(self._parts):
            yield from self._of_part(collect)

    def _of_part(self, collect: Callable[[], Iterable[Metric]]) -> Iterable[Metric]:
        try:
            return list(collect())
        except Exception as error:  # noqa: BLE001 - one part must not take the others' metrics away
            logger.warning("metrics of a part of the gateway are left out: %s", error)
            return ()

    def _info(self) -> Metric:
        tunnels = sorted(dict(self._state.running).items())[:MAX_INFO_ROWS]
        counts: dict[str, int] = {}
        for _name, running in tunnels:
            for label in running.tunnel.labels:
                counts[label] = counts.get(label, 0) + 1
        labels = sorted(sorted(counts), key=lambda label: -counts[label])[:MAX_INFO_LABELS]
        family = GaugeMetricFamily(
            metric(INFO).exposed,
            metric(INFO).help,
            labels=["tunnel", "mode", *(f"label_{label}" for label in labels)],
        )
        for name, running in tunnels:
            values = [running.tunnel.labels.get(label, "") for label in labels]
            family.add_metric([name, running.tunnel.mode.value, *values], 1.0)
        return family
