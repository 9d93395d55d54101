"""`tunnelfleet localproxy`: one tunnel, with the options of AWS's localproxy.

Owns the run of the command, and keeps tokens out of the list of processes. The options are the
table in `options`, and what they mean together is in `config`. Where it differs from localproxy, on
purpose, is in docs/localproxy.md.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import EXIT_OK
from tunnelfleet.runtime.cli.options import takes
from tunnelfleet.runtime.cli.output import outputs
from tunnelfleet.version import version_line

from .abbreviations import AbbreviatingCommand
from .config import PlanBuilder
from .mappings import DEFAULT_DIRECTORY, FoundMappings, parse_files, read_directory, read_text
from .options import LOCALPROXY_OPTIONS, TABLE, collect, parse_config
from .output import Reporter, configure_logging
from .run import Localproxy
from .settings import default_settings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import Plan
    from .options import Given


_STAT = Path("/proc/self/stat")
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
        start, end = _argument_area(_STAT.read_text())
    except (OSError, ValueError, IndexError):
        return False
    wanted = [secret.encode() for secret in secrets if secret]
    if not start < end:
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
    area = ctypes.string_at(start, end - start)
    at = area.find(secret)
    found = at >= 0
    while at >= 0:
        ctypes.memmove(start + at, _FILLER * len(secret), len(secret))
        at = area.find(secret, at + len(secret))
    return found


class LocalproxyCommand(AbbreviatingCommand):
    """The command line, which takes shortened options as localproxy does."""

    FIRST = LOCALPROXY_OPTIONS


@takes(TABLE)
def localproxy_command(**given: Any) -> int:
    """Run one tunnel, with the options of AWS's localproxy.

    The web proxy is taken from HTTPS_PROXY or ALL_PROXY, except for hosts in NO_PROXY. A signal
    (Ctrl-C, SIGTERM) sends what was read, closes and exits with status 0; a second one exits at
    once.
    """
    if given["version"]:
        typer.echo(version_line())
        return EXIT_OK
    export = given["export_default_settings"]
    if export is not None:
        Path(export).write_text(default_settings())
        return EXIT_OK
    flags = {each.name: given[each.parameter] for each in TABLE}
    hide_arguments(flags["access-token"] or "", flags["client-token"] or "")
    plan = make_plan(flags, flags["config"], os.environ)
    as_json = flags["json"]
    with outputs(as_json=as_json, goes_on="the tunnel") as (out, err):
        configure_logging(plan.verbosity, err.as_text())
        reporter = Reporter(
            out.as_text(), as_json=as_json, verbosity=plan.verbosity, err=err.as_text()
        )
        return Localproxy(plan, reporter).run()


def make_plan(
    flags: Mapping[str, str | bool | None], config: str | Path | None, environ: Mapping[str, str]
) -> Plan:
    """Read the files that the options name and return what to run.

    Raises:
        ConfigError: an option or a file is wrong.
    """
    file, notes = ({}, []) if config is None else parse_config(read_text(Path(config)), str(config))
    given = collect(flags, file, environ)
    settings_file = given.get("settings-json")
    settings = None
    if settings_file is not None:
        settings = parse_settings(read_text(Path(settings_file.text)), settings_file.text)
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
            return parse_files(read_directory(Path(directory.text)))
        except ConfigError as error:
            raise directory.error(str(error)) from error
    if "source-listen-port" in given or "destination-app" in given:
        # localproxy looks into no file then.
        return FoundMappings({})
    try:
        found = parse_files(read_directory(DEFAULT_DIRECTORY), sections=False)
    except ConfigError:
        return FoundMappings({})
    # Nobody asked for this directory. It may be there for another purpose, so what is no mapping in
    # it is nobody's mistake.
    if not found.addresses:
        return FoundMappings({})
    note = f"mappings of this tunnel's services are looked for in ./{DEFAULT_DIRECTORY}"
    return FoundMappings(found.addresses, notes=(note,))
