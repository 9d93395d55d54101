"""The `tunnelfleet` program: its commands by name, and what happens before one of them runs.

Owns the list of commands. A command's module is imported only when that command is asked for:
`tunnelfleet version` must not pay for an HTTP server, and a part that is not installed must not
take the others away.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from tunnelfleet.version import PROGRAM, version_line

from .errors import CommandFailed, run_guarded
from .output import log_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Command(NamedTuple):
    """A command: where its function is, and its line of help."""

    module: str
    function: str
    help: str
    kind: str | None = None
    """The name in `module` of the class of the command, if it is not typer's."""


COMMANDS = {
    "up": Command(
        "tunnelfleet.runtime.cli.gateway.up",
        "up_command",
        "Run a fleet gateway: the tunnels of files, which may change while it runs.",
    ),
    "check": Command(
        "tunnelfleet.runtime.cli.gateway.check",
        "check_command",
        "Say what is wrong with a gateway's files.",
    ),
    "service": Command(
        "tunnelfleet.runtime.cli.service.command",
        "service_command",
        "Run a tunneling service of your own.",
    ),
    "quickstart": Command(
        "tunnelfleet.runtime.cli.quickstart",
        "quickstart_command",
        "Start a small fleet on this machine, and say what to try.",
    ),
    "demo": Command(
        "tunnelfleet.runtime.cli.demo",
        "demo_command",
        "Run service, tunnels and traffic on this machine and watch them.",
    ),
    "localproxy": Command(
        "tunnelfleet.runtime.cli.localproxy.command",
        "localproxy_command",
        "Run one tunnel, with the options of AWS's localproxy.",
        "LocalproxyCommand",
    ),
    "version": Command(
        "tunnelfleet.runtime.cli.app", "version_command", "Print the version and exit."
    ),
}

_SETTINGS = {"help_option_names": ["-h", "--help"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; None takes the process's own.

    Returns:
        The exit status, see `errors`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with log_lines():
        return run_guarded(
            lambda: make_app(given)(args=given, prog_name=PROGRAM, standalone_mode=False)
        )


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the application, with the function of the command that `arguments` ask for.

    Raises:
        CommandFailed: that command is not part of this installation.
    """
    app = typer.Typer(
        help="Run AWS IoT Secure Tunneling tunnels: many in one process, each supervised.",
        add_completion=False,
        no_args_is_help=True,
        context_settings=_SETTINGS,
        # Its tracebacks show local variables, and those hold tokens.
        pretty_exceptions_enable=False,
    )
    app.callback()(_program)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        kind = None
        if name == asked:
            function = load(name)
            if command.kind is not None:
                kind = getattr(importlib.import_module(command.module), command.kind)
        elif importlib.util.find_spec(command.module) is not None:
            function = _unloaded
        else:
            continue
        app.command(name, cls=kind, help=command.help, context_settings=_SETTINGS)(function)
    return app


def load(name: str) -> Callable[..., object]:
    """Import the command called `name` and return its function.

    Raises:
        CommandFailed: its module is not installed.
    """
    command = COMMANDS[name]
    if importlib.util.find_spec(command.module) is None:
        raise CommandFailed(
            f"the command {name!r} is not part of this installation; install {PROGRAM} again"
        )
    function: Callable[..., object] = getattr(
        importlib.import_module(command.module), command.function
    )
    return function


def version_command() -> None:
    """Print the version of the program and of Python."""
    typer.echo(version_line())


def _print_version(is_asked: bool) -> None:
    if is_asked:
        version_command()
        raise typer.Exit


def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    # typer makes a program of several commands out of an application that has a callback.
    pass


def _unloaded() -> None:
    # Stands in for a command that was not asked for: only its name and help are shown.
    pass
