"""`tunnelfleet check` and `tunnelfleet door-user`: the files of a gateway.

`door-user` makes a line for the file of a front door's users. `check` says what is wrong with the
files, and starts nothing. Its exit status is 0 when the files can be used, with warnings or
without, and 2 when they cannot. If a gateway runs with these files, `check` also asks it what a
reload would change; neither the answer nor a missing gateway changes the status.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import TcpAddress, parse_address
from tunnelfleet.runtime.cli.errors import EXIT_OK, EXIT_USAGE, one_line
from tunnelfleet.runtime.figures import counted
from tunnelfleet.runtime.gateway.api.address import (
    GatewayAddress,
    GatewayNotReached,
    GatewayRefused,
)
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

from .ask import CHECK_SECONDS, difference_lines, would_change
from .reach import (
    GATEWAY_VARIABLE,
    GatewayOption,
    GatewayPlace,
    TokenFileOption,
    find,
    given_token,
    refused,
)
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
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
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
        problems, names, reload = error.problems, None, None
        things, demanded = 0, []
    else:
        problems, names = config.warnings, sorted(config.tunnels)
        things = sum(len(section.things) for section in config.notify)
        demanded = [] if config.on_demand is None else list(config.on_demand.things)
        reload = _reload(config, gateway, gateway_token_file)
    if as_json:
        found = {"ok": names is not None, "tunnels": names or [], "problems": _objects(problems)}
        if things:
            found["things"] = things
        if demanded:
            found["on_demand"] = demanded
        if reload is not None:
            found["reload"] = reload.answer
        write_json(found)
    else:
        print_problems(problems)
        if names is not None:
            more = f", {counted(things, 'thing')}" if things else ""
            more += f", {counted(len(demanded), 'name')} on demand" if demanded else ""
            say(f"good: {counted(len(names), 'tunnel')}{more}")
        if reload is not None:
            _print_reload(reload)
    return EXIT_USAGE if names is None else EXIT_OK


class _ReloadReport(NamedTuple):
    """What a gateway that runs says of a reload; `answer` is None if `why` says why."""

    gateway: str
    answer: dict[str, Any] | None
    why: str


def _reload(
    config: FleetConfig, gateway: str | None, token_file: Path | None
) -> _ReloadReport | None:
    """Ask the gateway of these files, if it runs; None if no gateway answers."""
    token = None
    if gateway or GATEWAY_VARIABLE in os.environ:
        place = find(gateway)
    else:
        # What the files say is where it is, and what it asks for.
        settings = config.gateway
        if settings.admin == OFF:
            return None
        at = parse_address(settings.admin)
        where = f"http://{at}" if isinstance(at, TcpAddress) else settings.admin
        place, token = GatewayPlace(GatewayAddress.parse(where), ""), settings.admin_token
    token = given_token(token_file) or token
    try:
        with GatewayClient(place.address, token, answer_seconds=CHECK_SECONDS) as client:
            files, answer, why = would_change(client)
    except GatewayNotReached:
        return None
    except GatewayRefused as error:
        return _ReloadReport(str(place.address), None, refused(error))
    mine = {path.resolve() for path in config.files}
    if mine.isdisjoint(Path(each).resolve() for each in files):
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
