"""Which gateway of a shared fleet has a tunnel, and all gateways with theirs at one moment.

`FleetDirectory` owns one thread for look-ups in the state, and what it found before: names that are
known are found while the store is away, too. `look_at_fleet` tells within a bounded time what the
gateways answer, and of those that do not, that their tunnels are there.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tunnelfleet.proto import NotConnected, TunnelError, printable
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.door.resolver import NobodyYet, Refused, SendTo, Way
from tunnelfleet.runtime.gateway.snapshot import Choice, Filters, Row
from tunnelfleet.runtime.metrics.families import Breather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.placement import Member, Placement
    from tunnelfleet.runtime.gateway.snapshot import AsksTunnels
    from tunnelfleet.runtime.gateway.store import Store

MAX_LOOKUPS = 64
"""Questions that may wait for the state; a further one is refused."""
MAX_REMEMBERED = 10_000
"""Names that were found, the last ones."""


class FleetDirectory:
    """Knows who has what.

    Args:
        name: of this gateway.
        placement: says who owns which shards.
        store: has the tunnels that were added at run time.
    """

    def __init__(self, name: str, placement: Placement, store: Store | None) -> None:
        self._name = name
        self._placement = placement
        self._store = store
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-directory")
        self._guard = threading.Lock()
        self._waiting = 0
        self._found: OrderedDict[str, None] = OrderedDict()

    def way_to(self, name: str, *, can_ask: bool) -> Way:
        """Who has a tunnel of this name.

        Args:
            name: of the tunnel.
            can_ask: whether this gateway can ask others at all.
        """
        member, shown = self._placement.owner(name), printable(name)
        if member is None:
            return NobodyYet("is about to be taken over: no gateway has it now")
        if member.name == self._name:
            return NobodyYet("is about to start")
        other = f"gateway {printable(member.name)}"
        if not member.fresh:
            return NobodyYet(f"is with {other}, which was not heard of; another takes over")
        if member.address is not None and can_ask:
            return SendTo(member)
        why = "this one has" if not can_ask else "that one has"
        text = f"tunnel {shown} is with {other}: ask there"
        return Refused(Denial.ELSEWHERE, f"{text}, or forward ({why} no fleet_listen)")

    def find(self, names: Sequence[str]) -> Future[str | None]:
        """Begin to look for the first of some names in the state; see `OtherGateways`."""
        answer: Future[str | None] = Future()
        with self._guard:
            if self._waiting >= MAX_LOOKUPS:
                answer.set_exception(NotConnected("too many look-ups wait; try again"))
                return answer
            self._waiting += 1
        try:
            answer = self._threads.submit(self._look_up, list(names))
        except RuntimeError:
            self._is_done()
            answer.set_exception(NotConnected("the gateway is stopping"))
            return answer
        answer.add_done_callback(self._is_done)
        return answer

    def _is_done(self, _done: object = None) -> None:
        with self._guard:
            self._waiting -= 1

    def _look_up(self, names: list[str]) -> str | None:
        if self._store is None:
            return None
        try:
            there = self._store.names_among(names)
        except TunnelError:
            known = next((name for name in names if name in self._found), None)
            if known is None:
                raise
            return known
        for name in names:
            self._found.pop(name, None)
            if name in there:
                self._found[name] = None
        while len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)
        return next((name for name in names if name in there), None)

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        self._threads.shutdown(wait=True, cancel_futures=True)


SURVEY_SECONDS = 5.0
"""For the answers of all gateways together."""
UNKNOWN = "unknown"
"""The state of a tunnel whose gateway does not answer."""
NOBODY = ""
"""Whose tunnels those are that no gateway has."""
MAX_KNOWN = 100_000
"""Tunnels of gateways that do not answer that are listed from the state."""


@runtime_checkable
class KnowsOwners(Protocol):
    """An engine of placement that can tell the owners of all shards."""

    def owner_names(self) -> tuple[str | None, ...]:
        """The gateway that has each shard; None for nobody."""


@dataclass(slots=True)
class FleetSurvey:
    """What was found.

    Attributes:
        gateways: each with its name, whether it answered, and how many tunnels it has.
        tunnels: each with the name of its gateway, empty for nobody.
    """

    gateways: list[Row] = field(default_factory=list)
    tunnels: list[Row] = field(default_factory=list)

    def to_json(self) -> Row:
        """For programs."""
        return {"gateways": self.gateways, "tunnels": self.tunnels}


def own_rows(gateway: Gateway, filters: Mapping[str, Sequence[str]]) -> list[Row]:
    """The tunnels that this gateway has, sorted by name; not those that it only knows of."""
    choice, state, runtime = Choice(filters), gateway.state, gateway.runtime
    names = filters.get("name", [])
    is_plain = bool(names) and not any("*" in each for each in names)
    rows = []
    breather = Breather()
    for entry in gateway.snapshot(sorted(set(names)) if is_plain else None).entries:
        tunnel = entry.tunnel
        is_here = entry.phase is not None or state.is_ours(tunnel.name)
        if is_here and choice.has(tunnel.name, tunnel.mode.value, entry.source, tunnel.labels):
            row = entry.row(runtime)
            if choice.has_state(row.state):
                rows.append(row.to_json())
        breather.breathe()
    return rows


def look_at_fleet(
    gateway: Gateway,
    others: AsksTunnels | None,
    filters: Filters | None = None,
    seconds: float = SURVEY_SECONDS,
) -> FleetSurvey:
    """Look at all gateways of the fleet; at this one alone where it is not shared.

    Args:
        gateway: who looks.
        others: the way to the others; None if there is none.
        filters: which tunnels are wanted, as in the admin API.
        seconds: for the answers of all.
    """
    filters = filters or {}
    until = time.monotonic() + seconds
    me = gateway.state.config.gateway.name
    members = {each.name: each for each in gateway.placement.members()}
    asked = {
        name: _begin(others, member, filters) for name, member in members.items() if name != me
    }
    found: dict[str, list[Row]] = {me: own_rows(gateway, filters)}
    troubles: dict[str, str] = {}
    for name, wait in asked.items():
        try:
            if isinstance(wait, TunnelError):
                raise wait
            found[name] = wait(max(0.0, until - time.monotonic()))
        except TunnelError as error:
            troubles[name] = printable(str(error))
    owners = _owners_of(gateway)
    if owners:
        for name, rows in _known(gateway, owners, troubles, filters).items():
            found.setdefault(name, []).extend(rows)
    survey = FleetSurvey()
    for name in sorted({*members, me}):
        survey.gateways.append(
            _gateway_row(name, members.get(name), found.get(name, []), troubles.get(name, ""), me)
        )
    survey.tunnels = _merged(found, owners, gateway)
    return survey


def _begin(
    others: AsksTunnels | None, member: Member, filters: Filters
) -> Callable[[float], list[Row]] | TunnelError:
    if not member.fresh:
        return TunnelError("it was not heard of for longer than its lease")
    if member.address is None:
        return TunnelError("it has no fleet_listen: ask there")
    if others is None:
        return TunnelError("this gateway cannot ask others")
    try:
        return others.ask_tunnels(member, filters)
    except TunnelError as error:
        return error


def _gateway_row(name: str, member: Member | None, rows: list[Row], trouble: str, me: str) -> Row:
    states = Counter(str(each.get("state")) for each in rows)
    return {
        "name": name,
        "address": None if member is None else member.address,
        "is_asked": name == me,
        "fresh": member is None or member.fresh,
        "reached": not trouble,
        "trouble": trouble,
        "shards": None if member is None else member.shards,
        "version": "" if member is None else member.version,
        "tunnels": dict(sorted(states.items())),
    }


def _owners_of(gateway: Gateway) -> tuple[str | None, ...]:
    placement = gateway.placement
    return placement.owner_names() if isinstance(placement, KnowsOwners) else ()


def _merged(
    found: dict[str, list[Row]], owners: tuple[str | None, ...], gateway: Gateway
) -> list[Row]:
    """All rows, sorted by name, each tunnel once: what its owner says counts while it moves."""
    merged: dict[str, Row] = {}
    for name, rows in found.items():
        for row in rows:
            tunnel = str(row.get("name"))
            if tunnel in merged:
                owner = owners[gateway.state.shard_of(tunnel)] if owners else None
                if name != owner:
                    continue
            merged[tunnel] = {**row, "gateway": name}
    return [merged[name] for name in sorted(merged)]


def look_elsewhere(gateway: Gateway, others: AsksTunnels | None, name: str) -> Row | None:
    """A tunnel that another gateway has; None for one of this gateway, or that nobody knows.

    Raises:
        TunnelError: its gateway does not answer; the text names it.
    """
    state = gateway.state
    owner = gateway.placement.owner(name)
    if owner is None or state.is_ours(name) or name in state.running:
        return None
    try:
        wait = _begin(others, owner, {"name": [name]})
        if isinstance(wait, TunnelError):
            raise wait
        rows = [row for row in wait(SURVEY_SECONDS) if row.get("name") == name]
        return {**rows[0], "gateway": owner.name} if rows else None
    except TunnelError as error:
        if not _is_known(gateway, name):
            return None
        shown = printable(owner.name)
        text = f"tunnel {printable(name)} is with gateway {shown}, which did not answer: {error}"
        raise TunnelError(text) from None


def _is_known(gateway: Gateway, name: str) -> bool:
    """Whether there is such a tunnel, in the files or in the state, as far as one can tell."""
    if gateway.state.wish(name) is not None:
        return True
    store = gateway.store
    try:
        return store is not None and name in store.names_among([name])
    except TunnelError:
        return True


# -- those whose gateway does not answer


def _known(
    gateway: Gateway, owners: tuple[str | None, ...], troubles: dict[str, str], filters: Filters
) -> dict[str, list[Row]]:
    """What files and state tell of the tunnels whose gateway does not answer, by its name."""
    away = {shard for shard, owner in enumerate(owners) if owner is None or owner in troubles}
    choice = Choice(filters)
    found: dict[str, list[Row]] = {}
    if not away or not choice.has_state(UNKNOWN):
        return found
    names = set()
    for name, mode, source, labels in _listed(gateway, away):
        if name not in names and choice.has(name, mode, source, labels):
            names.add(name)
            owner = owners[gateway.state.shard_of(name)] or NOBODY
            reason = f"gateway {owner} did not answer: {troubles[owner]}" if owner else _UNOWNED
            row = _unknown_row(name, mode, source, labels, reason)
            found.setdefault(owner, []).append(row)
    return found


_UNOWNED = "no gateway has it now"


def _listed(gateway: Gateway, away: set[int]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    state = gateway.state
    for name, wish in state.wishes().items():
        if state.shard_of(name) in away and name not in state.running:
            yield name, wish.mode.value, state.source_of(name), wish.labels
    if gateway.store is None:
        return
    try:
        entries = gateway.store.list_shards(frozenset(away), state.shard_count, MAX_KNOWN)
    except TunnelError:
        # The state is away, too; what the files say is told.
        return
    for name, text in entries:
        try:
            entry = json.loads(text)
        except ValueError:
            entry = {}
        labels = entry.get("labels")
        yield name, str(entry.get("mode", "")), "api", labels if isinstance(labels, dict) else {}


def _unknown_row(name: str, mode: str, source: str, labels: Mapping[str, Any], reason: str) -> Row:
    return {
        "name": name,
        "mode": mode,
        "state": UNKNOWN,
        "reason": reason,
        "services": {},
        "labels": dict(labels),
        "streams": 0,
        "connections": 0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "reconnects": 0,
        "since": 0.0,
        "source": source,
        "endpoint": "",
        "place": "",
        "channel_id": "",
    }
