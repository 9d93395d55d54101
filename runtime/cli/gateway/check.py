"""`tunnelfleet check`, `door-user` and `migrate`: a gateway's files and state, before it runs.

`check` says what is wrong with the files, and starts nothing. Its exit status is 0 when they can be
used and 2 when they cannot; if a gateway runs with them it is asked what a reload would change,
which does not change the status. `door-user` makes a line for the file of a front door's users.
`migrate` brings the tables of a state to this version, by a role that may make them.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import typer

from tunnelfleet.proto import ConfigError, counted
from tunnelfleet.runtime import TcpAddress, parse_address
from tunnelfleet.runtime.cli.errors import EXIT_OK, EXIT_USAGE, one_line
from tunnelfleet.runtime.gateway.api import address
from tunnelfleet.runtime.gateway.api.client import GatewayClient
from tunnelfleet.runtime.gateway.config import (
    ConfigProblems,
    FleetConfig,
    Problem,
    json_schema,
    load,
)
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash, check_user_name
from tunnelfleet.runtime.gateway.config.schema import OFF
from tunnelfleet.runtime.gateway.store.database import Database
from tunnelfleet.runtime.gateway.store.migrations import MIGRATIONS, Migration, grant, migrate

from . import reach
from .ask import CHECK_SECONDS, difference_lines, would_change
from .screen import say, terminal_size, write_json


def door_user_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the user is called.")],
) -> None:
    """Ask for a password, and print the line of the user for door_users_file.

    Without a terminal the password is the first line of standard input. The password itself is
    nowhere in the line.
    """
    check_user_name(name)
    typer.echo(f"{name}:{PasswordHash.make(_password(name)).text()}")


def _password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("The same again: ") != password:
        raise ConfigError("the two passwords differ; run it again")
    return password


def check_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE|FOLDER", help="The files of the gateway.", show_default=False),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a file, for editors.")
    ] = False,
    gateway: reach.GatewayOption = None,
    gateway_token_file: reach.TokenFileOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is found as one JSON object.")
    ] = False,
) -> int:
    """Say what is wrong with a gateway's files, all mistakes at once. Nothing is started.

    If a gateway runs with these files, also what a reload would change. The exit status is 2 if
    there are mistakes; warnings do not change it.
    """
    if schema:
        say(json.dumps(json_schema(), indent=2))
        return EXIT_OK
    if not paths:
        raise ConfigError("name a file or a folder to check, or give --schema")
    try:
        config = load(paths)
    except ConfigProblems as error:
        if as_json:
            write_json({"ok": False, "tunnels": [], "problems": _objects(error.problems)})
        else:
            print_problems(error.problems)
        return EXIT_USAGE
    reload = _reload(config, gateway, gateway_token_file)
    if as_json:
        write_json(_as_object(config, reload))
        return EXIT_OK
    print_problems(config.warnings)
    say(_good(config))
    if reload is not None:
        _print_reload(reload)
    return EXIT_OK


def _as_object(config: FleetConfig, reload: _ReloadReport | None) -> dict[str, Any]:
    """What `--json` prints of files that can be used."""
    found: dict[str, Any] = {
        "ok": True,
        "tunnels": sorted(config.tunnels),
        "problems": _objects(config.warnings),
    }
    if config.things:
        found["things"] = config.things
    if config.demanded:
        found["on_demand"] = list(config.demanded)
    if reload is not None:
        found["reload"] = reload.answer
    return found


def _good(config: FleetConfig) -> str:
    """Say what files that can be used have."""
    parts = [counted(len(config.tunnels), "tunnel")]
    if config.things:
        parts.append(counted(config.things, "thing"))
    if config.demanded:
        parts.append(f"{counted(len(config.demanded), 'name')} on demand")
    return f"good: {', '.join(parts)}"


_Place: TypeAlias = "tuple[reach.GatewayPlace, str | None]"


class _ReloadReport(NamedTuple):
    """What a gateway that runs says of a reload; `answer` is None if `why` says why."""

    gateway: str
    answer: dict[str, Any] | None
    why: str


def _place_of(config: FleetConfig, gateway: str | None) -> _Place | None:
    """Where the gateway of these files is asked, with its token; None if it has no admin API."""
    if gateway or reach.GATEWAY_VARIABLE in os.environ:
        return reach.find(gateway), None
    # What the files say is where it is, and what it asks for.
    settings = config.gateway
    if settings.admin == OFF:
        return None
    at = parse_address(settings.admin)
    where = f"http://{at}" if isinstance(at, TcpAddress) else settings.admin
    place = reach.GatewayPlace(address.GatewayAddress.parse(where), "")
    return place, settings.admin_token


def _reload(
    config: FleetConfig, gateway: str | None, token_file: Path | None
) -> _ReloadReport | None:
    """Ask the gateway of these files, if it runs; None if no gateway answers."""
    found = _place_of(config, gateway)
    if found is None:
        return None
    place, token = found
    token = reach.given_token(token_file) or token
    try:
        with GatewayClient(place.address, token, answer_seconds=CHECK_SECONDS) as client:
            files, answer, why = would_change(client)
    except address.GatewayNotReached:
        return None
    except address.GatewayRefused as error:
        return _ReloadReport(str(place.address), None, reach.refused(error))
    mine = {os.path.realpath(path) for path in config.files}
    if mine.isdisjoint(os.path.realpath(each) for each in files):
        return _ReloadReport(str(place.address), None, "it runs with other files")
    return _ReloadReport(str(place.address), answer, why)


def _print_reload(reload: _ReloadReport) -> None:
    if reload.answer is None:
        say(f"the gateway at {reload.gateway}: {one_line(reload.why)}")
        return
    width, _height = terminal_size()
    say(f"a reload of the gateway at {reload.gateway} would change:")
    say("\n".join(difference_lines(reload.answer, width)) + "")


def print_problems(problems: tuple[Problem, ...]) -> None:
    """Print problems on stderr, one a line."""
    for problem in problems:
        sys.stderr.write(one_line(str(problem)) + "\n")
    sys.stderr.flush()


def _objects(problems: tuple[Problem, ...]) -> list[dict[str, object]]:
    return [
        {
            "file": each.file,
            "line": each.line,
            "key": each.key,
            "text": each.text,
            "severity": "error" if each.is_error else "warning",
        }
        for each in problems
    ]


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
    try:
        database = Database(load(paths or ()).gateway.state if state is None else state)
    except ConfigProblems as error:
        print_problems(error.problems)
        return EXIT_USAGE
    if role is not None and database.is_sqlite:
        raise ConfigError("--grant is for PostgreSQL: a file of SQLite has no roles")
    try:
        database.prepare()
        applied = migrate(database)
        if role is not None:
            grant(database, role)
    finally:
        database.close()
    if as_json:
        found = {
            "state": database.where,
            "version": MIGRATIONS[-1].number,
            "applied": [each.number for each in applied],
            "granted": role,
        }
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in _migrated(database.where, applied, role))
    return EXIT_OK


def _migrated(where: str, applied: Sequence[Migration], role: str | None) -> Iterator[str]:
    """Say what was done to the state."""
    yield from (f"{each.number}: {each.title}" for each in applied)
    what = "is now" if applied else "was already"
    yield f"the state at {where} {what} at version {MIGRATIONS[-1].number}"
    if role is not None:
        yield f"the role {role} may read and write its tables"
