"""`tunnelfleet ray up`, `ls`, `targets` and `down`: a fleet on a Ray cluster.

Owns their options and what is printed. What is done is in `tunnelfleet.runtime.ray_fleet`; the
fleet goes on when a command has ended.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tunnelfleet.proto import ConfigError, counted
from tunnelfleet.runtime.gateway.config import ConfigProblems, ensure_secret, load
from tunnelfleet.runtime.ray_fleet import cluster
from tunnelfleet.runtime.ray_fleet.fleet import Brought, RayFleet, next_to_move
from tunnelfleet.runtime.ray_fleet.plan import FleetPlan, not_on_ray

from .errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, cannot_write
from .gateway.check import print_problems
from .gateway.look import ordered
from .gateway.rows import STATE_STYLES, summary, tunnel_table
from .gateway.screen import (
    Cell,
    Column,
    Line,
    Styled,
    lay_out,
    note,
    say,
    terminal_size,
    write_json,
    write_lines,
)

MAX_GROUPS: Final = 256
"""A group without a shard would have nothing to do."""

AddressOption = Annotated[
    str,
    typer.Option(
        "--address", metavar="auto|HOST:PORT", help="Of the cluster's head; auto finds this one's."
    ),
]
NamespaceOption = Annotated[
    str,
    typer.Option("--namespace", metavar="NAME", help="Of the fleet; a cluster may have several."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def up_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER", help="TOML files; the *.toml of a folder merge."),
    ],
    address: AddressOption = "auto",
    namespace: NamespaceOption = cluster.NAMESPACE,
    groups: Annotated[
        int | None,
        typer.Option(
            "--groups",
            metavar="N",
            min=1,
            max=MAX_GROUPS,
            help="Actors that share the fleet; as before without it, at first one a node.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            help="For the directory, then for all groups, to be up.",
        ),
    ] = 60.0,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread", help="Then move groups, one at a time, until nodes have equally many."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Run the tunnels of these files on a Ray cluster, or have the fleet there follow the files.

    The fleet goes on when this has ended. Said again, it takes over what has changed in the files,
    and how many groups there are; nothing else notices. With --spread each tunnel of a group that
    is moved is away for two moments.
    """
    try:
        config = load(paths)
    except ConfigProblems as error:
        print_problems(error.problems)
        return EXIT_USAGE
    print_problems(config.warnings)
    for key in not_on_ray(config):
        note(f"warning: {key} does nothing on Ray; run a gateway beside the fleet for it")
    secret, warning = ensure_secret(
        config.gateway.client_token_secret_file, config.gateway.state_folder
    )
    if warning:
        note(f"warning: {warning}")
    with _fleet(address, namespace) as fleet:
        if warning := cluster.slow_checks():
            note(f"warning: {warning}")
        count = groups or fleet.groups_wanted() or len(cluster.nodes())
        if count > config.gateway.shards:
            shards = counted(config.gateway.shards, "shard")
            raise ConfigError(f"--groups {count}: the fleet has {shards} to share")
        progress = _Progress()
        brought = fleet.up(FleetPlan.of_config(config, secret, count), wait, progress)
        if spread:
            brought = fleet.spread(brought, wait, progress)
        elif name := next_to_move(brought.groups, [each.id for each in cluster.nodes()]):
            note(f"nodes have unequally many groups: --spread moves {name} and others")
    if as_json:
        write_json(_as_object(brought))
    else:
        _print_brought(brought)
    return EXIT_FAILURE if brought.late else EXIT_OK


class _Progress:
    """Says on a terminal what is waited for, each thing once."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, text: str) -> None:
        """Say it."""
        if text != self._said and sys.stderr.isatty():
            self._said = text
            note(text)


def _as_object(brought: Brought) -> dict[str, Any]:
    change = brought.change
    return {
        "added": change.added,
        "changed": change.changed,
        "removed": change.removed,
        "at_next_start": list(change.at_next_start),
        "plan_version": change.version,
        "late": list(brought.late),
        "moved": list(brought.moved),
        "groups": list(brought.groups),
    }


def _print_brought(brought: Brought) -> None:
    change = brought.change
    nodes = {each["node"] for each in brought.groups if each["node"]}
    say(
        f"{counted(len(brought.groups), 'group')} on {counted(len(nodes), 'node')}: "
        f"{counted(change.added, 'tunnel')} added, {change.changed} changed, "
        f"{change.removed} removed"
    )
    for name in brought.moved:
        say(f"{name} was moved")
    if change.at_next_start:
        note(f"{', '.join(change.at_next_start)}: groups take it over when they begin anew")
    for each in brought.groups:
        for problem in each["problems"]:
            note(f"warning: {each['group']} on {each['node_address']}: {problem}")
    for each in brought.groups:
        if each["group"] in brought.late:
            note(f"{each['group']} is not up yet: {each['trouble'] or each['state']}")


def ls_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names, * standing for anything; all without it."),
    ] = None,
    fleet_only: Annotated[
        bool, typer.Option("--fleet", help="Show its groups, and where they are.")
    ] = False,
    address: AddressOption = "auto",
    namespace: NamespaceOption = cluster.NAMESPACE,
    as_json: JsonOption = False,
) -> int:
    """Show the tunnels of a fleet on Ray, and which group has each; or the groups.

    With --json it is an array of objects.
    """
    with _fleet(address, namespace) as fleet:
        rows = fleet.groups() if fleet_only else fleet.tunnels()
    if names:
        rows = _matching(rows, "group" if fleet_only else "name", names)
    if as_json:
        write_json(rows if fleet_only else list(map(ordered, rows)))
    elif rows:
        _show(rows, fleet_only=fleet_only)
    else:
        note("none is like that" if names else "the fleet has none")
    return EXIT_OK


def _show(rows: list[dict[str, Any]], *, fleet_only: bool) -> None:
    width, _height = terminal_size()
    if fleet_only:
        write_lines(group_table(rows, width))
        return
    write_lines(tunnel_table([_with_group(row) for row in rows], width, time.time()))
    if width is not None:
        write_lines([(), summary(rows)])


def _matching(
    rows: Sequence[dict[str, Any]], key: str, patterns: Sequence[str]
) -> list[dict[str, Any]]:
    return [row for row in rows if _matches(row[key], patterns)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in patterns)


def _with_group(row: dict[str, Any]) -> dict[str, Any]:
    """Show where a tunnel is among its labels, which people look at to find things."""
    group = {"group": row["group"], "node": row["node"]} if row["group"] else {}
    return {**row, "labels": {**row["labels"], **group}}


_GROUP_COLUMNS: Final = (
    Column("GROUP", min_width=8, stretches=True),
    Column("STATE"),
    Column("NODE", rank=2, min_width=9, stretches=True),
    Column("SHARDS", rank=3, is_right=True),
    Column("TUNNELS", rank=4, is_right=True),
    Column("CONNECTED", is_right=True),
    Column("LEASE", rank=5, is_right=True),
    Column("RESTARTS", rank=6, is_right=True),
    Column("METRICS", rank=7, min_width=9, stretches=True),
    Column("TROUBLE", rank=1, min_width=16, stretches=True),
)
_GROUP_STYLES: Final = {
    "running": STATE_STYLES["connected"],
    "starting": STATE_STYLES["connecting"],
    "leaving": STATE_STYLES["draining"],
}


def group_table(groups: Sequence[dict[str, Any]], width: int | None) -> list[Line]:
    """Return the table of a fleet's groups, its head first."""
    rows: list[list[Cell]] = [
        [
            each["group"],
            Styled(each["state"], _GROUP_STYLES.get(each["state"], STATE_STYLES["backoff"])),
            each["node_address"],
            str(each["shards"]),
            str(each["tunnels"]),
            str(each["connected"]),
            f"{each['lease_seconds_left']:g}s",
            str(each["restarts"]),
            each["metrics"] or "",
            each["trouble"],
        ]
        for each in groups
    ]
    return lay_out(_GROUP_COLUMNS, rows, width)


def targets_command(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write it there at once whole, for file_sd_configs, in place of standard output.",
        ),
    ] = None,
    address: AddressOption = "auto",
    namespace: NamespaceOption = cluster.NAMESPACE,
) -> int:
    """Print where the metrics of a fleet on Ray are, as JSON that Prometheus reads.

    Ports change when a group moves: run it every minute, as a timer does.
    """
    with _fleet(address, namespace) as fleet:
        targets = fleet.targets()
    if output is None:
        write_json(targets)
        return EXIT_OK
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(targets, indent=2) + "\n", encoding="utf-8")
        draft.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise cannot_write("--output", output, error) from None
    return EXIT_OK


def down_command(
    address: AddressOption = "auto",
    namespace: NamespaceOption = cluster.NAMESPACE,
    drain: Annotated[
        float | None,
        typer.Option(
            "--drain",
            metavar="SECONDS",
            min=0,
            help="For open connections to end; drain_seconds of the files without it.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """End a fleet on Ray: no new connections, time for those that are open, then all of it.

    The status is 1 if connections were cut.
    """
    with _fleet(address, namespace) as fleet:
        cut = fleet.down(drain)
    for name in cut:
        note(f"{name}: its connections were cut: their time was over")
    say("the fleet has ended")
    return EXIT_FAILURE if cut else EXIT_OK


@contextlib.contextmanager
def _fleet(address: str, namespace: str) -> Iterator[RayFleet]:
    # Ray tells drivers of workers that have died, on standard output: that is for answers here.
    with contextlib.redirect_stdout(sys.stderr), cluster.joined(address, namespace):
        yield RayFleet(namespace)
