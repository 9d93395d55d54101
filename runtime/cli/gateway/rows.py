"""Tunnels as a table and as a page: what `ls`, `show` and `top` have in common. Pure.

Owns the columns, in which order they give way when there is no room, the styles of states, and the
forms of a tunnel's fields. Fields that a gateway does not send are shown empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from tunnelfleet.proto import counted, printable
from tunnelfleet.runtime.figures import age, human_bytes, human_rate

from .screen import Cell, Column, Line, Styled, lay_out, wrap

Row = dict[str, Any]


STATE_STYLES: Final = {
    "connected": "green",
    "connecting": "cyan",
    "draining": "blue",
    "backoff": "yellow",
    "stopped": "bright_black",
    "quarantined": "magenta",
    "refused": "bold red",
    "unknown": "bold red",
}
SEVERITY: Final = (
    "refused",
    "unknown",
    "quarantined",
    "backoff",
    "stopped",
    "draining",
    "connecting",
    "connected",
)
"""The states in the order of their severity, the worst first."""
REASON_CHARACTERS: Final = 16
"""The narrowest column of a reason; a shorter one says nothing."""

_LIST_COLUMNS: Final = (
    Column("NAME", min_width=12, stretches=True),
    Column("STATE"),
    Column("AGE", rank=2, is_right=True),
    Column("MODE", rank=8),
    Column("SERVICES", rank=5, min_width=22, stretches=True),
    Column("LABELS", rank=7, min_width=16, stretches=True),
    Column("CONN", rank=3, is_right=True),
    Column("SENT", rank=6, is_right=True),
    Column("RECEIVED", rank=6, is_right=True),
    Column("RECONN", rank=9, is_right=True),
    Column("REASON", rank=1, min_width=REASON_CHARACTERS, stretches=True),
)
_FLEET_COLUMNS: Final = (
    *_LIST_COLUMNS[:2],
    Column("GATEWAY", min_width=8, stretches=True),
    *_LIST_COLUMNS[2:],
)
_TOP_COLUMNS: Final = (
    Column("NAME", min_width=12, stretches=True),
    Column("STATE"),
    Column("AGE", rank=4, is_right=True),
    Column("CONN", rank=2, is_right=True),
    Column("SENT/S", rank=3, is_right=True),
    Column("RECV/S", rank=3, is_right=True),
    Column("SENT", rank=6, is_right=True),
    Column("RECEIVED", rank=6, is_right=True),
    Column("RECONN", rank=7, is_right=True),
    Column("LABELS", rank=8, min_width=16, stretches=True),
    Column("REASON", rank=1, min_width=REASON_CHARACTERS, stretches=True),
)


SORTS: Final = ("trouble", "name", "rate", "connections", "bytes", "reconnects", "age")
"""What `top` can sort by."""
STILL_SORTS: Final = tuple(each for each in SORTS if each != "rate")
"""What `ls` can, which looks once."""


def tunnel_table(
    rows: Sequence[Row],
    width: int | None,
    now: float,
    rates: Mapping[str, tuple[float, float]] | None = None,
) -> list[Line]:
    """Return the table of tunnels, its head first.

    Args:
        rows: as the gateway sends them.
        width: of the terminal, None for a pipe.
        now: the time, in seconds of the Unix epoch.
        rates: bytes a second, sent and received, by name; None for a table without rates.
    """
    if rates is None:
        cells = [_list_cells(row, now) for row in rows]
        return lay_out(_LIST_COLUMNS, cells, width)
    shown = [_top_cells(row, now, rates.get(str(row.get("name")), (0.0, 0.0))) for row in rows]
    return lay_out(_TOP_COLUMNS, shown, width)


def fleet_table(rows: Sequence[Row], width: int | None, now: float) -> list[Line]:
    """Return the table of the tunnels of all gateways, its head first; see `tunnel_table`."""
    shown = []
    for row in rows:
        cells = _list_cells(row, now)
        shown.append([*cells[:2], text(row, "gateway") or "-", *cells[2:]])
    return lay_out(_FLEET_COLUMNS, shown, width)


_GATEWAY_COLUMNS: Final = (
    Column("GATEWAY", min_width=8, stretches=True),
    Column("STATE"),
    Column("TUNNELS", is_right=True),
    Column("CONNECTED", is_right=True),
    Column("SHARDS", rank=2, is_right=True),
    Column("ADDRESS", rank=3, min_width=12, stretches=True),
    Column("VERSION", rank=4),
    Column("REASON", rank=1, min_width=REASON_CHARACTERS, stretches=True),
)


def gateway_table(rows: Sequence[Row], width: int | None) -> list[Line]:
    """Return the table of the gateways of a fleet, its head first."""
    return lay_out(_GATEWAY_COLUMNS, [_gateway_cells(row) for row in rows], width)


def _gateway_cells(row: Row) -> list[Cell]:
    is_reached, is_fresh = bool(row.get("reached")), bool(row.get("fresh"))
    state = "up" if is_reached else "unreached" if is_fresh else "away"
    states = row.get("tunnels")
    states = states if isinstance(states, dict) else {}
    counts = [each for each in states.values() if isinstance(each, int)]
    return [
        text(row, "name"),
        Styled(state, "green" if is_reached else "bold red"),
        str(sum(counts)),
        str(number(states, "connected")) if is_reached else "?",
        text(row, "shards"),
        text(row, "address"),
        text(row, "version"),
        text(row, "trouble"),
    ]


def _list_cells(row: Row, now: float) -> list[Cell]:
    return [
        text(row, "name"),
        state_piece(row),
        _age(row, now),
        text(row, "mode"),
        pairs(row.get("services")),
        pairs(row.get("labels")),
        str(number(row, "connections")),
        human_bytes(number(row, "sent_bytes")),
        human_bytes(number(row, "received_bytes")),
        str(number(row, "reconnects")),
        text(row, "reason"),
    ]


def _top_cells(row: Row, now: float, rate: tuple[float, float]) -> list[Cell]:
    sent, received = rate
    return [
        text(row, "name"),
        state_piece(row),
        _age(row, now),
        str(number(row, "connections")),
        Styled(human_rate(sent), "" if sent else "bright_black"),
        Styled(human_rate(received), "" if received else "bright_black"),
        human_bytes(number(row, "sent_bytes")),
        human_bytes(number(row, "received_bytes")),
        str(number(row, "reconnects")),
        pairs(row.get("labels")),
        text(row, "reason"),
    ]


def state_piece(row: Row) -> Styled:
    """Return the state, in its color."""
    state = text(row, "state")
    return Styled(state, STATE_STYLES.get(state, ""))


MAX_TEXT_CHARACTERS: Final = 2_000
"""The longest text of a field."""
MAX_NUMBER: Final = 10.0**18
"""No gateway counts so far; what is larger, or no number at all, counts as 0."""


def text(row: Mapping[str, Any], key: str) -> str:
    """Return a field as a printable text."""
    value = row.get(key)
    return "" if value is None else printable(str(value), MAX_TEXT_CHARACTERS)


def number(row: Mapping[str, Any], key: str) -> float:
    """Return a field as a finite number."""
    value = row.get(key)
    # Whatever answers may send 1e999 and NaN, of which nothing can be counted.
    if isinstance(value, int | float) and abs(value) <= MAX_NUMBER:
        return value
    return 0


def pairs(value: object) -> str:
    """Return a table of texts on one line."""
    if not isinstance(value, dict):
        return ""
    return " ".join(f"{key}={each}" for key, each in value.items())


def _age(row: Row, now: float) -> str:
    since = number(row, "since")
    return age(now - since) if since else ""


def sorted_rows(
    rows: Sequence[Row],
    by: str,
    rates: Mapping[str, tuple[float, float]] | None = None,
    *,
    is_reversed: bool = False,
) -> list[Row]:
    """Return the rows in the order of one of `SORTS`: what matters most first, then by name."""
    if by == "rate":
        known = rates or {}
        matter = {id(row): sum(known.get(text(row, "name"), (0.0, 0.0))) for row in rows}
    else:
        weigh = _WEIGHTS.get(by)
        matter = {id(row): weigh(row) if weigh else 0.0 for row in rows}
    ordered = sorted(rows, key=lambda row: (-matter[id(row)], natural(text(row, "name"))))
    return ordered[::-1] if is_reversed else ordered


ELSEWHERE: Final = "another gateway has it"
"""The reason of a tunnel that is stopped here and runs elsewhere, as a gateway words it."""
_WORST = {state: -rank for rank, state in enumerate(SEVERITY)}


def _trouble(row: Row) -> float:
    """How bad it is; a tunnel that another gateway has is no trouble of this one."""
    if text(row, "reason") == ELSEWHERE:
        return -len(SEVERITY)
    return _WORST.get(text(row, "state"), 1)


_WEIGHTS: Mapping[str, Callable[[Row], float]] = {
    "trouble": _trouble,
    "bytes": lambda row: number(row, "sent_bytes") + number(row, "received_bytes"),
    "age": lambda row: number(row, "since"),
    "connections": lambda row: number(row, "connections"),
    "reconnects": lambda row: number(row, "reconnects"),
}
"""How much a row matters in each order."""


_DIGITS: Final = re.compile(r"(\d{1,18})", re.ASCII)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a key by which `press-9` comes before `press-10`."""
    parts = _DIGITS.split(name)
    return [(each.isdecimal(), int(each) if each.isdecimal() else 0, each) for each in parts]


def summary(rows: Sequence[Row]) -> Line:
    """Return how many tunnels there are, and in which states, worst first."""
    states = [text(row, "state") for row in rows]
    pieces = [Styled(counted(len(rows), "tunnel"), "bold")]
    for state in (*SEVERITY, *sorted(set(states) - set(SEVERITY))):
        if count := states.count(state):
            pieces += [Styled(", "), Styled(f"{count:,} {state}", STATE_STYLES.get(state, ""))]
    return tuple(pieces)


MAX_EXACT_BYTES: Final = 999
"""Larger numbers are rounded, and shown exactly beside that."""
ADDED: Final = "api"
"""The source of tunnels that were added at run time."""
_KEYS: Final = {
    "sent_bytes": "sent",
    "received_bytes": "received",
    "channel_id": "channel id",
    "place": "from",
}


FIELDS: Final = (
    "name",
    "mode",
    "state",
    "reason",
    "services",
    "labels",
    "streams",
    "connections",
    "sent_bytes",
    "received_bytes",
    "reconnects",
    "since",
)
"""What `ls --json` prints first, in this order; more may follow."""


def page(row: Row, width: int | None, now: float) -> list[Line]:
    """One tunnel, a field a line, long ones in as many as they need.

    Args:
        row: as the gateway sends it.
        width: of the terminal, None for a pipe.
        now: the time, in seconds of the Unix epoch.
    """
    keys = [*(key for key in FIELDS if key in row), *(key for key in row if key not in FIELDS)]
    if text(row, "source") == ADDED:
        # It stands in no file.
        keys = [key for key in keys if key != "place"]
    # A newer gateway may send more keys than are known here.
    names = {key: _KEYS.get(key, printable(key.replace("_", " "))) for key in keys}
    room = max((len(name) for name in names.values()), default=0) + 2
    lines: list[Line] = []
    for key in keys:
        value = _field(row, key, now)
        if value != [""]:
            lines += _field_lines(key, names[key], value, width, room)
    return lines


def _field_lines(
    key: str, name: str, value: Sequence[str], width: int | None, room: int
) -> Iterator[Line]:
    for count, part in enumerate(value):
        head = f"{name:<{room}}" if count == 0 else " " * room
        first, *more = wrap(printable(part, 2_000), width, room) or [""]
        style = STATE_STYLES.get(part, "") if key == "state" else ""
        yield Styled(head, "bold"), Styled(first, style)
        for each in more:
            yield (Styled(each),)


def _field(row: Row, key: str, now: float) -> list[str]:
    value = row[key]
    if key == "since":
        return [f"{_age(row, now)} ago"] if value else [""]
    if key.endswith("_bytes"):
        count = int(number(row, key))
        exact = f" ({count:,} bytes)" if count > MAX_EXACT_BYTES else ""
        return [f"{human_bytes(count)}{exact}"]
    if isinstance(value, dict):
        return [f"{each} = {one}" for each, one in value.items()] or [""]
    if isinstance(value, list):
        return [", ".join(str(each) for each in value)]
    return ["" if value is None else str(value)]
