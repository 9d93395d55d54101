"""From what is wanted and what runs to what has to be done. Pure.

Owns the decision, one tunnel at a time: facts in, at most one action out. An action that takes a
while (a stop) leads to a phase in which nothing more is decided; when it is over, the same question
is asked again. So a restart is a stop, and then the start of what is still wanted by then.
Nothing here knows actors, time, or where a wish comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from .wanted import Change, WantedTunnel, change_between, changed_keys

SOURCES = ("files", "api", "notify")
"""Whose entry of a name counts, the first first; those that are not named come after them."""


class RunPhase(Enum):
    """Where a tunnel that was started stands."""

    RUNNING = "running"
    DRAINING = "draining"
    """It takes no new connections, and ends with the last one."""
    STOPPING = "stopping"
    """It ends now; nothing is decided until it has."""


@dataclass(frozen=True, slots=True)
class Running:
    """A tunnel that was started.

    Attributes:
        tunnel: what it was started with.
        phase: where it stands.
        source: who wanted it when it was started; it may drain long after nobody does.
    """

    tunnel: WantedTunnel
    phase: RunPhase = RunPhase.RUNNING
    source: str = ""


@dataclass(frozen=True, slots=True)
class StartTunnel:
    """Open the tunnel."""

    tunnel: WantedTunnel


@dataclass(frozen=True, slots=True)
class Apply:
    """Give a running tunnel labels and limits that it can take over; no connection notices."""

    tunnel: WantedTunnel


@dataclass(frozen=True, slots=True)
class RotateToken:
    """Give a running tunnel other tokens; its link is made again, its listeners stay."""

    tunnel: WantedTunnel


@dataclass(frozen=True, slots=True)
class DrainTunnel:
    """Let no new connections in; the tunnel ends with the last one."""

    name: str


@dataclass(frozen=True, slots=True)
class StopTunnel:
    """End the tunnel in good order, now."""

    name: str


Action = StartTunnel | Apply | RotateToken | DrainTunnel | StopTunnel

_ORDER = (StopTunnel, DrainTunnel, RotateToken, Apply, StartTunnel)
"""What frees ports comes before what takes them."""


def decide(
    name: str,
    wanted: WantedTunnel | None,
    running: Running | None,
    *,
    is_ours: bool = True,
    may_drain: bool = False,
) -> Action | None:
    """What to do about one tunnel now.

    Args:
        name: of the tunnel.
        wanted: what it should be; None if nobody wants it.
        running: what it is; None if it was not started or has ended.
        is_ours: whether its shard is assigned to this gateway. What is wanted elsewhere must end
            here at once: the other gateway connects with the same tokens.
        may_drain: whether the other gateway waits until it has ended here.

    Returns:
        The action, or None if all is well or it is not yet time.
    """
    if running is None:
        return StartTunnel(wanted) if wanted is not None and is_ours else None
    if running.phase is RunPhase.STOPPING:
        return None
    if wanted is None or (not is_ours and may_drain):
        return DrainTunnel(name) if running.phase is RunPhase.RUNNING else None
    if not is_ours or running.phase is RunPhase.DRAINING:
        # A drain cannot be taken back; what is wanted again starts anew.
        return StopTunnel(name)
    return _keep_up(running.tunnel, wanted)


def _keep_up(running: WantedTunnel, wanted: WantedTunnel) -> Action | None:
    """What to do about a running tunnel that goes on."""
    match change_between(running, wanted):
        case Change.NONE:
            return None
        case Change.IN_PLACE:
            return Apply(wanted)
        case Change.NEW_TOKEN:
            return RotateToken(wanted)
        case Change.RESTART:
            return StopTunnel(wanted.name)


def reconcile(
    wanted: Mapping[str, WantedTunnel],
    running: Mapping[str, Running],
    is_ours: Callable[[str], bool] = lambda _name: True,
) -> list[Action]:
    """What to do about all tunnels now, in an order in which it can be done.

    Args:
        wanted: by name.
        running: by name.
        is_ours: tells of a name whether it is assigned to this gateway.
    """
    names: Iterable[str] = dict.fromkeys([*wanted, *running])
    found = [decide(n, wanted.get(n), running.get(n), is_ours=is_ours(n)) for n in names]
    actions = [action for action in found if action is not None]
    return sorted(actions, key=lambda action: _ORDER.index(type(action)))


def prevailing(name: str, sources: Mapping[str, Mapping[str, WantedTunnel]]) -> WantedTunnel | None:
    """The wish that counts, of several sources that want a tunnel of this name.

    Args:
        name: of the tunnel.
        sources: what each source wants, by name.
    """
    for source in _by_precedence(sources):
        found = sources[source].get(name)
        if found is not None:
            return found
    return None


def merged(sources: Mapping[str, Mapping[str, WantedTunnel]]) -> dict[str, WantedTunnel]:
    """The wishes that count, of all names."""
    found: dict[str, WantedTunnel] = {}
    for source in reversed(_by_precedence(sources)):
        found |= sources[source]
    return found


def _by_precedence(sources: Iterable[str]) -> list[str]:
    names = list(sources)
    known = [source for source in SOURCES if source in names]
    return known + [source for source in names if source not in SOURCES]


class ChangedTunnel(NamedTuple):
    """What differs in the wish for a tunnel, and what that takes."""

    keys: tuple[str, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class Difference:
    """How one set of wishes differs from another: names, sorted.

    `changes` has what differs in each of `changed`.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    changes: Mapping[str, ChangedTunnel] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, list[str]]:
        """For programs."""
        return {
            "added": list(self.added),
            "changed": list(self.changed),
            "removed": list(self.removed),
            "unchanged": list(self.unchanged),
        }

    def __str__(self) -> str:
        return (
            f"{len(self.added)} added, {len(self.changed)} changed, "
            f"{len(self.removed)} removed, {len(self.unchanged)} unchanged"
        )


def compare(before: Mapping[str, WantedTunnel], after: Mapping[str, WantedTunnel]) -> Difference:
    """How `after` differs from `before`."""
    common = before.keys() & after.keys()
    changed = {name for name in common if before[name] != after[name]}
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(changed)),
        removed=tuple(sorted(before.keys() - after.keys())),
        unchanged=tuple(sorted(common - changed)),
        changes={
            name: ChangedTunnel(
                tuple(changed_keys(before[name], after[name])),
                change_between(before[name], after[name]),
            )
            for name in sorted(changed)
        },
    )
