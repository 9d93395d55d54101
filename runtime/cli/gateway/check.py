"""`tunnelfleet check`: what is wrong with a gateway's files, without starting anything.

Owns what is printed where, and the exit status: 0 when the files can be used, warnings or not, and
2 when they cannot.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import EXIT_OK, EXIT_USAGE, one_line
from tunnelfleet.runtime.gateway.config import ConfigProblems, Problem, json_schema, load

__all__ = ["check_command", "print_problems"]


def check_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE|FOLDER...", help="The files of the gateway.", show_default=False
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a file, for editors.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is found as one JSON object.")
    ] = False,
) -> int:
    """Say what is wrong with a gateway's files, all mistakes at once. Nothing is started.

    The exit status is 2 if there are mistakes; warnings do not change it.
    """
    if schema:
        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
        return EXIT_OK
    if not paths:
        raise ConfigError("name a file or a folder to check, or give --schema")
    try:
        config = load(paths)
    except ConfigProblems as error:
        problems, names = error.problems, None
    else:
        problems, names = config.warnings, sorted(config.tunnels)
    if as_json:
        found = {"ok": names is not None, "tunnels": names or [], "problems": _objects(problems)}
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        print_problems(problems)
        if names is not None:
            sys.stdout.write(f"good: {len(names)} {'tunnel' if len(names) == 1 else 'tunnels'}\n")
    return EXIT_USAGE if names is None else EXIT_OK


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
