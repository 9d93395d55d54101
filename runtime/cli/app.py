"""The `tunnelfleet` program: its commands by name, and what happens before one of them runs.

Owns the list of commands. A command's module is imported only when that command is asked for:
`tunnelfleet version` must not pay for an HTTP server, and a part that is not installed must not
take the others away.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from tunnelfleet.version import PROGRAM, version_line

from .completion import CommandLine, complete
from .errors import CommandFailed, run_guarded
from .options import COMPLETE_VARIABLE, take_as_given
from .output import log_lines


class Command(NamedTuple):
    """A command: where its function is, its line of help, and what it stands under."""

    module: str
    function: str
    help: str
    kind: str | None = None
    """The name in `module` of the class of the command, if it is not typer's."""
    panel: str = "More"


_GATEWAY = "tunnelfleet.runtime.cli.gateway"
_RAY = "tunnelfleet.runtime.cli.ray_fleet"
RUN = "Run a gateway"
LOOK = "Look at a gateway that runs"
CHANGE = "Change a gateway that runs"
RAY = "A fleet on Ray"
ALONE = "Without a gateway"
MORE = "More"

COMMANDS = {
    "up": Command(
        f"{_GATEWAY}.up",
        "up_command",
        "Run a fleet gateway: the tunnels of files, which may change while it runs.",
        panel=RUN,
    ),
    "check": Command(
        f"{_GATEWAY}.check",
        "check_command",
        "Say what is wrong with a gateway's files, and what a reload would change.",
        panel=RUN,
    ),
    "migrate": Command(
        f"{_GATEWAY}.check",
        "migrate_command",
        "Make or change the tables of a gateway's state.",
        panel=RUN,
    ),
    "connect": Command(
        f"{_GATEWAY}.reach",
        "connect_command",
        "Join standard input and output to a tunnel, as for ssh.",
        panel=LOOK,
    ),
    "door-user": Command(
        f"{_GATEWAY}.check",
        "door_user_command",
        "Write the line of a user of a gateway's front door, with a password.",
        panel=RUN,
    ),
    "ls": Command(
        f"{_GATEWAY}.look", "ls_command", "Show its tunnels, and how they are.", panel=LOOK
    ),
    "show": Command(
        f"{_GATEWAY}.look", "show_command", "Show all that is known of a tunnel.", panel=LOOK
    ),
    "top": Command(f"{_GATEWAY}.top", "top_command", "Watch its tunnels, live.", panel=LOOK),
    "ready": Command(
        f"{_GATEWAY}.ask",
        "ready_command",
        "Say whether it is ready: status 0, or 1 and why not.",
        panel=LOOK,
    ),
    "logs": Command(
        f"{_GATEWAY}.logs", "logs_command", "Show what has happened; -f goes on.", panel=LOOK
    ),
    "connections": Command(
        f"{_GATEWAY}.look", "connections_command", "Show who is connected now.", panel=LOOK
    ),
    "audit": Command(
        f"{_GATEWAY}.look", "audit_command", "Show who was connected, and why it ended.", panel=LOOK
    ),
    "diag": Command(
        f"{_GATEWAY}.diag", "diag_command", "Write a zip for a report of a bug.", panel=LOOK
    ),
    "reload": Command(
        f"{_GATEWAY}.ask", "reload_command", "Have it read its files again.", panel=CHANGE
    ),
    "add": Command(
        f"{_GATEWAY}.change", "add_command", "Add tunnels beside those of its files.", panel=CHANGE
    ),
    "rm": Command(
        f"{_GATEWAY}.change", "rm_command", "Remove tunnels that were added.", panel=CHANGE
    ),
    "retry": Command(
        f"{_GATEWAY}.change", "retry_command", "Try tunnels that are down now.", panel=CHANGE
    ),
    "drain": Command(
        f"{_GATEWAY}.change",
        "drain_command",
        "Let tunnels end with their last connection.",
        panel=CHANGE,
    ),
    "replace-token": Command(
        f"{_GATEWAY}.change",
        "replace_token_command",
        "Give a tunnel another access token.",
        "ReplaceTokenCommand",
        panel=CHANGE,
    ),
    "ray up": Command(
        _RAY,
        "up_command",
        "Run the tunnels of files on a Ray cluster, or have them follow the files.",
        panel=RAY,
    ),
    "ray ls": Command(
        _RAY, "ls_command", "Show its tunnels, or with --fleet its groups.", panel=RAY
    ),
    "ray targets": Command(
        _RAY, "targets_command", "Print where its metrics are, for Prometheus.", panel=RAY
    ),
    "ray down": Command(_RAY, "down_command", "End it.", panel=RAY),
    "localproxy": Command(
        "tunnelfleet.runtime.cli.localproxy.typer_command",
        "localproxy_command",
        "Run one tunnel, with the options of AWS's localproxy.",
        "LocalproxyCommand",
        panel=ALONE,
    ),
    "service": Command(
        "tunnelfleet.runtime.cli.service.command",
        "service_command",
        "Run a tunneling service of your own.",
        panel=ALONE,
    ),
    "quickstart": Command(
        "tunnelfleet.runtime.cli.demo",
        "quickstart_command",
        "Start a small fleet on this machine, and say what to try.",
        panel=RUN,
    ),
    "demo": Command(
        "tunnelfleet.runtime.cli.demo",
        "demo_command",
        "Run service, tunnels and traffic on this machine and watch them.",
        panel=ALONE,
    ),
    "bench": Command(
        "tunnelfleet.runtime.cli.demo",
        "bench_command",
        "Measure a tunnel: throughput, round trips, connections.",
        panel=ALONE,
    ),
    "completion": Command(
        "tunnelfleet.runtime.cli.completion",
        "completion_command",
        "Print what makes bash, zsh or fish complete commands and names.",
        panel=MORE,
    ),
    "version": Command(
        "tunnelfleet.runtime.cli.app",
        "version_command",
        "Print the version and exit.",
        panel=MORE,
    ),
}

_SETTINGS = {"help_option_names": ["-h", "--help"]}


class _Program(TyperGroup):
    """The program itself, whose own options are flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        take_as_given(self.get_params(ctx))
        return super().parse_args(ctx, args)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; None takes the process's own.

    Returns:
        The exit status, see `errors`.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if sys.stdin is None:
        # It was closed by whoever started this. A socket must not take its place.
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    if COMPLETE_VARIABLE in os.environ:
        return run_guarded(lambda: complete(words, command_line()))
    given = joined(words)
    with log_lines():
        return run_guarded(
            lambda: make_app(given)(args=given, prog_name=PROGRAM, standalone_mode=False)
        )


def joined(words: Sequence[str]) -> list[str]:
    """Return the arguments with a command of two words, such as `ray up`, as one.

    Anything else is left as it is.
    """
    two = " ".join(words[:2])
    return [two, *words[2:]] if two in COMMANDS else list(words)


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the application, with the function of the command that `arguments` ask for.

    Raises:
        CommandFailed: that command is not part of this installation.
    """
    app = typer.Typer(
        cls=_Program,
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
        app.command(
            name,
            cls=kind,
            help=command.help if function is _unloaded else _paragraphs(function),
            short_help=command.help,
            context_settings=_SETTINGS,
            rich_help_panel=command.panel,
        )(function)
    return app


def command_line() -> CommandLine:
    """Return what the program can be asked for, for a shell that completes it."""

    def parameters(name: str) -> list[Any]:
        group: Any = typer.main.get_command(make_app([name]))
        found: list[Any] = group.commands[name].params
        return found

    return CommandLine({name: each.help for name, each in COMMANDS.items()}, parameters)


def _paragraphs(function: Callable[..., object]) -> str:
    """Return what a function says of itself, without the breaks of its lines."""
    text = inspect.cleandoc(function.__doc__ or "")
    return "\n\n".join(" ".join(each.split()) for each in text.split("\n\n"))


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
