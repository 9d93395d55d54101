"""`tunnelfleet localproxy`: one tunnel, with the options of AWS's localproxy.

Owns the run of the command, and that no token shows in the list of processes. The options are in
`options`, how they are read in `arguments`, and what they mean together is in `config`.
docs/localproxy.md says where the command differs from localproxy on purpose.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import EXIT_OK, run_guarded
from tunnelfleet.runtime.cli.output import log_lines, outputs
from tunnelfleet.version import version_line

from .arguments import read_plain
from .config import Plan, PlanBuilder
from .mappings import DEFAULT_DIRECTORY, FoundMappings, parse_files, read_directory, read_text
from .options import LOCALPROXY_OPTIONS, TABLE, Given, collect, parse_config
from .output import Reporter, configure_logging
from .run import Localproxy
from .settings import default_settings, parse_settings


def main(arguments: Sequence[str]) -> int | None:
    """Run the command, if it was asked for in its plain form.

    Args:
        arguments: what follows `localproxy` on the command line.

    Returns:
        The exit status; None if the whole command line has to look at the arguments.
    """
    flags = read_plain(arguments, TABLE, LOCALPROXY_OPTIONS)
    if flags is None:
        return None
    with log_lines():
        return run_guarded(lambda: run(flags))


def run(flags: Mapping[str, str | bool | None]) -> int:
    """Run the tunnel until a signal.

    Args:
        flags: long option name -> its value on the command line, None or False when it was not
            given.

    Returns:
        The exit status.

    Raises:
        CommandFailed: the tunnel was refused, or given up.
        ConfigError: an option or a file is wrong.
        OSError: a file cannot be written.
    """
    if flags["version"]:
        sys.stdout.write(f"{version_line()}\n")
        return EXIT_OK
    export = flags["export-default-settings"]
    if export is not None:
        with open(str(export), "w") as file:
            file.write(default_settings())
        return EXIT_OK
    hide_arguments(*(str(flags[name] or "") for name in ("access-token", "client-token")))
    config = flags["config"]
    plan = make_plan(flags, None if config is None else str(config), os.environ)
    as_json = bool(flags["json"])
    with outputs(as_json=as_json, goes_on="the tunnel") as (out, err):
        configure_logging(plan.verbosity, err.as_text())
        reporter = Reporter(
            out.as_text(), as_json=as_json, verbosity=plan.verbosity, err=err.as_text()
        )
        return Localproxy(plan, reporter).run()


_STAT = "/proc/self/stat"
_ARG_START, _ARG_END = 47, 48  # proc(5) numbers them 48 and 49, from 1
_FILLER = b"x"


def hide_arguments(*secrets: str) -> bool:
    """Overwrite `secrets` wherever they stand in this process's command line.

    Args:
        secrets: texts as they were given on the command line; empty ones are skipped.

    Returns:
        True when every one of them was found and overwritten.
    """
    try:
        with open(_STAT) as file:
            start, end = _argument_area(file.read())
    except (OSError, ValueError, IndexError):
        return False
    wanted = [secret.encode() for secret in secrets if secret]
    if not wanted or not start < end:
        return not wanted
    found = [_overwrite(start, end, secret) for secret in wanted]
    return all(found)


def _argument_area(stat: str) -> tuple[int, int]:
    # The second field is the program's name in parentheses and may hold anything, even spaces and
    # parentheses.
    name, _, rest = stat.rpartition(")")
    fields = [name, "", *rest.split()]
    return int(fields[_ARG_START]), int(fields[_ARG_END])


def _overwrite(start: int, end: int, secret: bytes) -> bool:
    import ctypes  # noqa: PLC0415 - whoever has the token in the environment does without

    area = ctypes.string_at(start, end - start)
    at = area.find(secret)
    found = at >= 0
    while at >= 0:
        ctypes.memmove(start + at, _FILLER * len(secret), len(secret))
        at = area.find(secret, at + len(secret))
    return found


def make_plan(
    flags: Mapping[str, str | bool | None],
    config: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
) -> Plan:
    """Read the files that the options name and return what to run.

    Raises:
        ConfigError: an option or a file is wrong.
    """
    file, notes = ({}, []) if config is None else parse_config(read_text(config), str(config))
    given = collect(flags, file, environ)
    settings_file = given.get("settings-json")
    settings = None
    if settings_file is not None:
        settings = parse_settings(read_text(settings_file.text), settings_file.text)
    found = _read_mappings(given)
    plan = PlanBuilder(given, found.addresses, settings, environ).plan()
    return replace(
        plan,
        warnings=(*found.warnings, *plan.warnings),
        notes=(*notes, *found.notes, *plan.notes),
    )


def _read_mappings(given: Mapping[str, Given]) -> FoundMappings:
    directory = given.get("config-dir")
    if directory is not None:
        try:
            return parse_files(read_directory(directory.text))
        except ConfigError as error:
            raise directory.error(str(error)) from error
    if "source-listen-port" in given or "destination-app" in given:
        # In that case localproxy does not look into any file.
        return FoundMappings({})
    try:
        found = parse_files(read_directory(DEFAULT_DIRECTORY), sections=False)
    except ConfigError:
        return FoundMappings({})
    # Nobody asked for this directory. It may be there for another purpose, so a line that is no
    # mapping is not reported as a mistake.
    if not found.addresses:
        return FoundMappings({})
    note = f"mappings of this tunnel's services are looked for in ./{DEFAULT_DIRECTORY}"
    return FoundMappings(found.addresses, notes=(note,))
