"""`tunnelfleet migrate`: the tables of a gateway's state, by a role that may make them.

Owns the options and what is printed. A gateway whose role may make tables needs no such command: it
migrates when it starts. The exit status is 0 when the state has the version of this program.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import EXIT_OK, EXIT_USAGE
from tunnelfleet.runtime.gateway.config import ConfigProblems, load
from tunnelfleet.runtime.gateway.store.database import Database
from tunnelfleet.runtime.gateway.store.migrations import MIGRATIONS, grant, migrate

from .check import print_problems


def migrate_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE|FOLDER", help="The files of the gateway.", show_default=False),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The state, instead of the one that the files name."),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            "--grant", metavar="ROLE", help="Let this role of PostgreSQL read and write the tables."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was done as one JSON object.")
    ] = False,
) -> int:
    """Bring the state of a gateway to the version of this program; safe to run at any time.

    A password comes from ~/.pgpass or PGPASSWORD. Run it as the owner of the tables where the
    gateway's own role may only read and write them.
    """
    if (state is None) == (not paths):
        raise ConfigError("name the files of the gateway, or give --state URL")
    if state is None:
        assert paths is not None
        try:
            state = load(paths).gateway.state
        except ConfigProblems as error:
            print_problems(error.problems)
            return EXIT_USAGE
    database = Database(state)
    if role is not None and database.is_sqlite:
        raise ConfigError("--grant is for PostgreSQL: a file of SQLite has no roles")
    try:
        database.prepare()
        applied = migrate(database)
        if role is not None:
            grant(database, role)
    finally:
        database.close()
    newest = MIGRATIONS[-1].number
    if as_json:
        found = {
            "state": database.where,
            "version": newest,
            "applied": [each.number for each in applied],
            "granted": role,
        }
        sys.stdout.write(json.dumps(found) + "\n")
        return EXIT_OK
    for each in applied:
        sys.stdout.write(f"{each.number}: {each.title}\n")
    what = "is now" if applied else "was already"
    sys.stdout.write(f"the state at {database.where} {what} at version {newest}\n")
    if role is not None:
        sys.stdout.write(f"the role {role} may read and write its tables\n")
    return EXIT_OK
