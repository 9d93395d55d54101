"""The whole fleet at one moment: all gateways, and a page of tunnels, within a bounded time.

Owns what one gateway tells another of its tunnels, and what is told of those whose gateway does not
answer: that they are there, from the files and the state, and that nobody knows how they are. A
fleet may have a million tunnels: no answer, and nothing that is kept for it, grows with them. Each
gateway is asked for its part of a page; up to the name where the first of them stops all is known.
"""

from __future__ import annotations

import heapq
import json
import operator
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from tunnelfleet.proto import TunnelError, printable
from tunnelfleet.runtime.gateway.listing import Listing, Page
from tunnelfleet.runtime.gateway.snapshot import Choice, Filters, Row
from tunnelfleet.runtime.metrics.families import Breather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tunnelfleet.runtime.gateway.gateway import Gateway
    from tunnelfleet.runtime.gateway.listing import AsksTunnels
    from tunnelfleet.runtime.gateway.placement import Member
    from tunnelfleet.runtime.gateway.snapshot import Entry

__all__ = ["UNKNOWN", "FleetSurvey", "look_at_fleet", "look_elsewhere", "own_rows"]

SURVEY_SECONDS = 5.0
"""For the answers of all gateways together."""
UNKNOWN = "unknown"
"""The state of a tunnel whose gateway does not answer."""
NOBODY = ""
"""Whose tunnels those are that no gateway has."""
MAX_KNOWN = 100_000
"""Tunnels of gateways that do not answer that are looked at in the state for one page."""
KNOWN_AT_ONCE = 20_000
"""That are read at once."""
MIN_SHARE = 100
"""Rows of a page that each gateway is asked for at least."""
SHARE_FACTOR = 2
"""So much more than its part of a page each is asked for: names are spread unevenly."""


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
        next: the name to ask for the next page with; None if this was the last.
    """

    gateways: list[Row] = field(default_factory=list)
    tunnels: list[Row] = field(default_factory=list)
    next: str | None = None

    def to_json(self) -> Row:
        """For programs."""
        return {"gateways": self.gateways, "tunnels": self.tunnels, "next": self.next}


def own_rows(
    gateway: Gateway, filters: Mapping[str, Sequence[str]], page: Page | None = None
) -> Listing:
    """The tunnels that this gateway has, sorted by name; not those that it only knows of.

    Args:
        gateway: to look at.
        filters: which tunnels are wanted.
        page: which of these; None for all.
    """
    counts = page is None or not page.after
    states: Counter[str] = Counter()
    rows: list[Row] = []
    has_more = False
    choice, runtime = Choice(filters), gateway.runtime
    for entry in _own_entries(gateway, choice, filters.get("name", [])):
        if page is not None and entry.tunnel.name <= page.after:
            continue
        if has_more and not counts:
            break
        is_full = page is not None and len(rows) >= page.limit
        row = None if is_full else entry.row(runtime)
        state = entry.state(runtime) if row is None else row.state
        if not choice.has_state(state):
            continue
        states[state] += 1
        if row is None:
            has_more = True
        else:
            rows.append(row.to_json())
    return Listing(rows, has_more, dict(states) if counts else None)


def _own_entries(gateway: Gateway, choice: Choice, names: Sequence[str]) -> Iterator[Entry]:
    """Those that are wanted, but for their states."""
    is_plain = bool(names) and not any("*" in each for each in names)
    breather = Breather()
    for entry in gateway.snapshot(sorted(set(names)) if is_plain else None).entries:
        tunnel = entry.tunnel
        is_here = entry.phase is not None or gateway.state.is_ours(tunnel.name)
        if is_here and choice.has(tunnel.name, tunnel.mode.value, entry.source, tunnel.labels):
            yield entry
        breather.breathe()


def look_at_fleet(
    gateway: Gateway,
    others: AsksTunnels | None,
    filters: Filters | None = None,
    page: Page | None = None,
    seconds: float = SURVEY_SECONDS,
) -> FleetSurvey:
    """Look at all gateways of the fleet; at this one alone where it is not shared.

    Args:
        gateway: who looks.
        others: the way to the others; None if there is none.
        filters: which tunnels are wanted, as in the admin API.
        page: which of these; the first ones without it.
        seconds: for the answers of all.
    """
    filters, page = filters or {}, page or Page()
    until = time.monotonic() + seconds
    me = gateway.state.config.gateway.name
    members = {each.name: each for each in gateway.placement.members()}
    part = Page(_share(page.limit, len(members)), page.after)
    asked = {
        name: _begin(others, member, {**filters, **part.to_filters()})
        for name, member in members.items()
        if name != me
    }
    found: dict[str, Listing] = {me: own_rows(gateway, filters, part)}
    troubles: dict[str, str] = {}
    for name, wait in asked.items():
        try:
            if isinstance(wait, TunnelError):
                raise wait
            found[name] = wait(max(0.0, until - time.monotonic()))
        except TunnelError as error:
            troubles[name] = printable(str(error))
    owners = _owners_of(gateway)
    known = _known(gateway, owners, troubles, filters, page) if owners else _Known()
    survey = FleetSurvey()
    for name in sorted({*members, me}):
        member, trouble = members.get(name), troubles.get(name, "")
        listing = found.get(name) or Listing(known.rows.get(name, []))
        states = _states_of(listing, page)
        survey.gateways.append(_gateway_row(name, member, states, trouble, me))
    ends = [each.last for each in found.values() if each.has_more]
    ends += [] if known.end is None else [known.end]
    rows = {name: each.rows for name, each in found.items()}
    for name, unknown in known.rows.items():
        rows[name] = [*rows.get(name, []), *unknown]
    merged = _merged(rows, owners, gateway)
    survey.tunnels, survey.next = _cut(merged, page, min(ends, default=None))
    return survey


def _share(limit: int, members: int) -> int:
    """How many rows each of so many gateways is asked for, for a page of so many."""
    if members <= 1:
        return limit
    return min(limit, max(MIN_SHARE, SHARE_FACTOR * limit // members))


def _states_of(listing: Listing, page: Page) -> dict[str, int]:
    """How many tunnels are in each state, as the first page tells."""
    if page.after:
        return {}
    if listing.states is not None:
        return dict(listing.states)
    return dict(Counter(str(each.get("state")) for each in listing.rows))


def _cut(rows: list[Row], page: Page, end: str | None) -> tuple[list[Row], str | None]:
    """What belongs to a page, and the name to ask for the next one with.

    Args:
        rows: sorted by name.
        page: which part is wanted.
        end: the name up to which all is known; None if there is nothing behind.
    """
    # An older gateway answers with all that it has, whatever the page.
    rows = [row for row in rows if str(row["name"]) > page.after]
    if end is not None:
        rows = [row for row in rows if str(row["name"]) <= end]
    if len(rows) > page.limit:
        rows = rows[: page.limit]
        return rows, str(rows[-1]["name"]) if rows else None
    return rows, end


def _begin(
    others: AsksTunnels | None, member: Member, filters: Filters
) -> Callable[[float], Listing] | TunnelError:
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


def _gateway_row(
    name: str, member: Member | None, states: dict[str, int], trouble: str, me: str
) -> Row:
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
        rows = [row for row in wait(SURVEY_SECONDS).rows if row.get("name") == name]
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


@dataclass(slots=True)
class _Known:
    """What files and state tell of the tunnels whose gateway does not answer.

    Attributes:
        rows: by the name of the gateway; empty for nobody.
        end: the name up to which all was looked at; None if there is nothing behind.
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    end: str | None = None


class _KnownTunnel(NamedTuple):
    """A tunnel of the files or of the state."""

    name: str
    mode: str
    source: str
    labels: Mapping[str, Any]


_UNOWNED = "no gateway has it now"


def _known(
    gateway: Gateway,
    owners: tuple[str | None, ...],
    troubles: dict[str, str],
    filters: Filters,
    page: Page,
) -> _Known:
    """What files and state say of the tunnels whose gateways did not answer: one page of them.

    Args:
        gateway: that was asked.
        owners: of each shard; None for one that nobody has.
        troubles: why they did not answer, by the name of the gateway.
        filters: of the request.
        page: where it begins, and how many rows it may have.
    """
    away = frozenset(
        shard for shard, owner in enumerate(owners) if owner is None or owner in troubles
    )
    choice, known = Choice(filters), _Known()
    if not away or not choice.has_state(UNKNOWN):
        return known
    count, last = 0, ""
    found = heapq.merge(
        _of_files(gateway, away, page),
        _of_state(gateway, away, page, known),
        key=operator.attrgetter("name"),
    )
    for each in found:
        # The entry of the files comes first, and counts.
        if each.name == last or not choice.has(*each):
            continue
        if count >= page.limit:
            known.end = last if known.end is None else min(last, known.end)
            break
        count, last = count + 1, each.name
        owner = owners[gateway.state.shard_of(each.name)] or NOBODY
        reason = f"gateway {owner} did not answer: {troubles[owner]}" if owner else _UNOWNED
        known.rows.setdefault(owner, []).append(_unknown_row(*each, reason))
    return known


def _of_files(gateway: Gateway, away: frozenset[int], page: Page) -> Iterator[_KnownTunnel]:
    state = gateway.state
    for name, wish in sorted(state.wishes().items(), key=operator.itemgetter(0)):
        is_away = state.shard_of(name) in away and name not in state.running
        if is_away and name > page.after:
            yield _KnownTunnel(name, wish.mode.value, state.source_of(name), wish.labels)


def _of_state(
    gateway: Gateway, away: frozenset[int], page: Page, known: _Known
) -> Iterator[_KnownTunnel]:
    """Those that were added at run time; when enough were looked at, `known` is told where."""
    if gateway.store is None:
        return
    after = page.after
    for _ in range(MAX_KNOWN // KNOWN_AT_ONCE):
        try:
            entries = gateway.store.list_shards(
                away, gateway.state.shard_count, KNOWN_AT_ONCE, after
            )
        except TunnelError:
            # The state is away, too; what the files say is told.
            return
        for after, text in entries:
            yield _found_in_state(after, text)
        if len(entries) < KNOWN_AT_ONCE:
            return
    known.end = after


def _found_in_state(name: str, text: str) -> _KnownTunnel:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = {}
    labels = entry.get("labels")
    mode = str(entry.get("mode", ""))
    return _KnownTunnel(name, mode, "api", labels if isinstance(labels, dict) else {})


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
