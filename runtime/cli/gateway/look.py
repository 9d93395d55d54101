"""`tunnelfleet ls`, `show`, `connections` and `audit`: what a running gateway has.

Owns their options and what is printed: tables for people, exact values with `--json`.
"""

from __future__ import annotations

import datetime
import functools
import http
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from tunnelfleet.proto import ConfigError, counted, listed, printable
from tunnelfleet.runtime.cli.errors import EXIT_OK, CommandFailed
from tunnelfleet.runtime.figures import age, human_bytes
from tunnelfleet.runtime.gateway.api.address import GatewayRefused
from tunnelfleet.runtime.gateway.api.client import FleetPage, GatewayClient
from tunnelfleet.runtime.gateway.listing import MAX_PAGE_ROWS, SOURCES

from . import screen
from .reach import (
    GatewayOption,
    JsonOption,
    TokenFileOption,
    find_tunnel,
    gateway_at,
    known_name,
    unknown_names,
)
from .rows import (
    FIELDS,
    STILL_SORTS,
    fleet_table,
    gateway_table,
    number,
    page,
    sorted_rows,
    summary,
    text,
    tunnel_table,
)

_AGO: Final = re.compile(r"(\d+)\s*([smhdw])(?:\s+ago)?", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def read_time(text: str, now: float, option: str) -> float:
    """Read a time, in seconds of the Unix epoch.

    Args:
        text: `90s`, `15m`, `2h`, `7d` or `1w` before now; an ISO date, of the local time zone
            unless it names one; or seconds of the Unix epoch.
        now: in seconds of the Unix epoch.
        option: for the message.

    Raises:
        ConfigError: it is none of them.
    """
    if found := _AGO.fullmatch(text.strip()):
        return now - int(found[1]) * _UNITS[found[2]]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option} {text}: write 90s, 15m, 2h, 7d, or a date as 2026-01-31T12:00"
        ) from None


LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="Only those with it; may be repeated."),
]
StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", metavar="STATE", help="Only those in it; may be repeated."),
]

RECORD_KINDS: Final = ("connection", "stream", "denied", "demand")
DEFAULT_RECORDS: Final = 50
MAX_RECORDS: Final = 1_000


def ls_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names, * standing for anything; all without it."),
    ] = None,
    state: StateOption = None,
    mode: Annotated[
        str | None, typer.Option("--mode", metavar="MODE", help="source or destination.")
    ] = None,
    label: LabelOption = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="SOURCE", help=f"{listed(SOURCES, 'or')}.")
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="BY", help=f"{', '.join(STILL_SORTS)}.")
    ] = "name",
    fleet: Annotated[
        bool, typer.Option("--fleet", help="All gateways that share the fleet, and their tunnels.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            help=f"With --fleet: at most so many tunnels; {MAX_PAGE_ROWS} without it.",
            show_default=False,
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="NAME",
            help="With --fleet: the tunnels behind this one, by name.",
            show_default=False,
        ),
    ] = None,
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show the tunnels of a running gateway, and how they are.

    Columns that have no room are left out; a pipe and --json have all of them. With --json it is
    an array of objects; with --fleet an object with two of them, gateways and tunnels, and `next`,
    which is null, or the name for --after if there are more tunnels than --limit.
    A name without * that no tunnel has is an error, beside what is there.
    """
    check_sort(sort, STILL_SORTS)
    check_labels(label)
    if not fleet and (limit or after):
        raise ConfigError("--limit and --after go with --fleet: a gateway tells all of its own")
    chosen = {"state": state, "mode": mode, "label": label, "name": names, "source": source}
    with gateway_at(gateway, gateway_token_file) as client:
        if fleet:
            found = client.fleet(limit=limit or MAX_PAGE_ROWS, after=after or "", **chosen)
            rows, show = found.tunnels, functools.partial(_show_fleet, found, sort)
        else:
            rows = client.tunnels(**chosen)
            is_chosen = any(chosen.values())
            show = functools.partial(_show_tunnels, sorted_rows(rows, sort), is_chosen=is_chosen)
        shown = {str(row.get("name")) for row in rows}
        others = [name for name in names or () if "*" not in name and name not in shown]
        # What is there is shown first; an error alone needs no answer beside it.
        if rows:
            show(as_json=as_json)
        _check_names(others, client, is_fleet=fleet)
        if not rows:
            show(as_json=as_json)
    return EXIT_OK


def _check_names(names: Sequence[str], client: GatewayClient, *, is_fleet: bool) -> None:
    """See that names which are not shown are there: filtered out, or on another page.

    Raises:
        CommandFailed: some are not; it names all of them.
    """
    found = {name: find_tunnel(client, name) for name in dict.fromkeys(names)}
    problems = []
    if missing := [name for name, row in found.items() if row is None]:
        problems.append(unknown_names(missing, client))
    away = [repr(printable(name)) for name, row in found.items() if row and row.get("gateway")]
    if away and not is_fleet:
        problems.append(f"{listed(away, 'and')}: at another gateway, see tunnelfleet ls --fleet")
    if problems:
        raise CommandFailed("; ".join(problems))


def _show_tunnels(rows: list[dict[str, Any]], *, is_chosen: bool, as_json: bool) -> None:
    if as_json:
        screen.write_json([ordered(row) for row in rows])
    elif rows:
        _write_tunnels(rows)
    else:
        screen.note("no tunnel is like that" if is_chosen else "this gateway has no tunnels")


def _write_tunnels(rows: list[dict[str, Any]]) -> None:
    width, _height = screen.terminal_size()
    screen.write_lines(tunnel_table(rows, width, time.time()))
    if width is not None:
        screen.write_lines([(), summary(rows)])


def _show_fleet(found: FleetPage, sort: str, *, as_json: bool) -> None:
    rows = sorted_rows(found.tunnels, sort)
    if found.next is not None:
        screen.note(
            f"{counted(len(rows), 'tunnel', 'is', 'are')} shown, and there are more: choose some "
            "by name, state or label, write a higher --limit, or go on with --after "
            f"{printable(found.next)}"
        )
    if as_json:
        tunnels = [ordered(row) for row in rows]
        screen.write_json({"gateways": found.gateways, "tunnels": tunnels, "next": found.next})
        return
    width, _height = screen.terminal_size()
    screen.write_lines(gateway_table(found.gateways, width))
    if rows:
        screen.write_lines([(), *fleet_table(rows, width, time.time())])
        if width is not None:
            screen.write_lines([(), summary(rows)])
    else:
        screen.note("no tunnel is like that")


def check_sort(sort: str, known: Sequence[str]) -> None:
    """Raises ConfigError if there is no such order."""
    if sort not in known:
        raise ConfigError(f"--sort {sort}: write one of {', '.join(known)}")


def check_labels(labels: Sequence[str] | None) -> None:
    """Raises ConfigError if one of them is no KEY=VALUE."""
    for each in labels or ():
        if not each.partition("=")[1] or each.startswith("="):
            raise ConfigError(f"--label {each}: write KEY=VALUE, such as site=lyon")


def ordered(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are promised first, in their order."""
    return {**{key: row.get(key) for key in FIELDS}, **row}


def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the tunnel.")],
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show all that a running gateway knows of a tunnel, and who is connected through it."""
    with gateway_at(gateway, gateway_token_file) as client:
        with known_name(client, name):
            row = client.tunnel(name)
        try:
            connections = client.connections(name)
        except GatewayRefused:
            # An older gateway keeps no list; that is no reason to show nothing.
            connections = []
    if as_json:
        screen.write_json(ordered(row))
        return EXIT_OK
    width, _height = screen.terminal_size()
    screen.write_lines(page(row, width, time.time()))
    if connections:
        screen.write_lines([(), *connection_table(connections, width, time.time())])
    return EXIT_OK


_CONNECTION_COLUMNS: Final = (
    screen.Column("TUNNEL", min_width=10, stretches=True),
    screen.Column("SERVICE"),
    screen.Column("FROM", rank=1, min_width=12, stretches=True),
    screen.Column("USER", rank=2, min_width=6, stretches=True),
    screen.Column("AGE", is_right=True),
    screen.Column("SENT", rank=3, is_right=True),
    screen.Column("RECEIVED", rank=3, is_right=True),
    screen.Column("STREAM", rank=5, is_right=True),
    screen.Column("ID", rank=4, is_right=True),
)


def connection_table(
    connections: Sequence[dict[str, Any]], width: int | None, now: float
) -> list[screen.Line]:
    """Return the open connections, the oldest first."""
    rows: list[list[screen.Cell]] = []
    for each in sorted(connections, key=lambda each: number(each, "since")):
        row: list[screen.Cell] = [
            text(each, key) for key in ("tunnel", "service_id", "peer", "user")
        ]
        row.append(age(now - number(each, "since")))
        row += [human_bytes(number(each, key)) for key in ("sent_bytes", "received_bytes")]
        row += [text(each, key) for key in ("stream_id", "connection_id")]
        rows.append(row)
    return screen.lay_out(_CONNECTION_COLUMNS, rows, width)


def connections_command(
    tunnel: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of a tunnel; all without it.")
    ] = None,
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show who is connected through the tunnels of a running gateway now."""
    with gateway_at(gateway, gateway_token_file) as client:
        if tunnel is not None:
            with known_name(client, tunnel):
                client.tunnel(tunnel)
        connections = client.connections(tunnel)
    if as_json:
        screen.write_json(connections)
    elif connections:
        width, _height = screen.terminal_size()
        screen.write_lines(connection_table(connections, width, time.time()))
    else:
        screen.note("nobody is connected")
    return EXIT_OK


def audit_command(
    tunnel: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of a tunnel; all without it.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Only what this user did.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="connection, stream, denied or demand."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Such as 2h, 7d, 2026-01-31T12:00."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="As --since.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="N", min=1, max=MAX_RECORDS, help="At most so many, the newest."
        ),
    ] = DEFAULT_RECORDS,
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show what a gateway has recorded: who was connected, when, to what, and why it ended."""
    if kind is not None and kind not in RECORD_KINDS:
        raise ConfigError(f"--kind {kind}: write one of {', '.join(RECORD_KINDS)}")
    now = time.time()
    query = {"tunnel": tunnel, "user": user, "kind": kind, "limit": str(limit)}
    for key, given in (("since", since), ("until", until)):
        if given is not None:
            query[key] = f"{read_time(given, now, f'--{key}'):.3f}"
    with gateway_at(gateway, gateway_token_file) as client:
        try:
            records = client.audit(**query)
        except GatewayRefused as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                raise CommandFailed(f"there is no audit: {error.detail}") from None
            raise
    if as_json:
        screen.write_json(records)
    elif records:
        width, _height = screen.terminal_size()
        screen.write_lines(audit_table(records, width, now))
    else:
        screen.note("nothing is recorded")
    return EXIT_OK


_AUDIT_COLUMNS: Final = (
    screen.Column("WHEN", is_right=True),
    screen.Column("WHAT", rank=2),
    screen.Column("TUNNEL", min_width=10, stretches=True),
    screen.Column("SERVICE", rank=3),
    screen.Column("FROM", rank=4, min_width=10, stretches=True),
    screen.Column("USER", rank=5, min_width=6, stretches=True),
    screen.Column("LASTED", rank=7, is_right=True),
    screen.Column("SENT", rank=6, is_right=True),
    screen.Column("RECEIVED", rank=6, is_right=True),
    screen.Column("WHY", rank=1, min_width=12, stretches=True),
)


def audit_table(
    records: Sequence[dict[str, Any]], width: int | None, now: float
) -> list[screen.Line]:
    """Return the records, in the order in which the gateway sends them: the newest first."""
    rows: list[list[screen.Cell]] = []
    for each in records:
        opened, ended = number(each, "opened_at"), number(each, "ended_at")
        # One whose end nobody saw, for the gateway was killed, is not open.
        lasted = age(ended - opened) if ended else "" if text(each, "ended_by") else "open"
        rows.append(
            [
                f"{age(now - opened)} ago" if opened else "",
                text(each, "kind"),
                screen.Styled(text(each, "tunnel")),
                text(each, "service_id"),
                text(each, "peer"),
                text(each, "user"),
                lasted if opened else "",
                # Bytes are counted at the end: before it, and where nobody saw it, none are known.
                *(
                    human_bytes(number(each, key)) if ended else ""
                    for key in ("sent_bytes", "received_bytes")
                ),
                text(each, "reason") or text(each, "ended_by"),
            ]
        )
    return screen.lay_out(_AUDIT_COLUMNS, rows, width)
