"""`tunnelfleet localproxy`: one tunnel, with the options of AWS's localproxy.

Owns the run of the command, the short forms of long options, which localproxy takes as well
(`--proxy` for `--proxy-endpoint`), and that no token shows in the list of processes. The options
are in `options`, and what they mean together is in `config`. docs/localproxy.md says where the
command differs from localproxy on purpose.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import EXIT_OK
from tunnelfleet.runtime.cli.options import take_as_given, takes
from tunnelfleet.runtime.cli.output import outputs
from tunnelfleet.version import version_line

from .config import Plan, PlanBuilder
from .mappings import DEFAULT_DIRECTORY, FoundMappings, parse_files, read_directory, read_text
from .options import LOCALPROXY_OPTIONS, TABLE, Given, collect, parse_config
from .output import Reporter, configure_logging
from .run import Localproxy
from .settings import default_settings, parse_settings


class AbbreviatingCommand(TyperCommand):
    """A command whose long options may be shortened."""

    FIRST: ClassVar[frozenset[str]] = frozenset()
    """See `expand`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Make shortened options whole, and parse them."""
        take_as_given(self.get_params(ctx))
        takes_value = {
            name: not getattr(parameter, "is_flag", False)
            for parameter in self.get_params(ctx)
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        return super().parse_args(ctx, expand(args, takes_value, self.FIRST))


def expand(
    arguments: Sequence[str], takes_value: Mapping[str, bool], first: Collection[str]
) -> list[str]:
    """Return the arguments with every long option written out.

    Args:
        arguments: what follows the command.
        takes_value: each option, `--long` and `-s`, and whether a value follows it.
        first: the long options that a short form means before any other: what has always worked
            goes on to work when an option is added.

    Raises:
        ConfigError: a short form may mean several options.
    """
    return list(_expanded(iter(arguments), takes_value, first))


def _expanded(
    words: Iterator[str], takes_value: Mapping[str, bool], first: Collection[str]
) -> Iterator[str]:
    for word in words:
        if word == "--":
            yield word
            yield from words
            return
        if word.startswith("--"):
            name, separator, value = word.partition("=")
            name = _whole(name, takes_value, first)
            yield f"{name}{separator}{value}"
            value_follows = takes_value.get(name, False) and not separator
        else:
            yield word
            value_follows = word.startswith("-") and _wants_next(word[1:], takes_value)
        if value_follows:
            # A value may look like an option.
            yield from _next(words)


def _next(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        yield word
        return


def _wants_next(letters: str, takes_value: Mapping[str, bool]) -> bool:
    """Whether the value of an option in `-kt` is the next word, and not the rest of this one."""
    for index, letter in enumerate(letters):
        if takes_value.get(f"-{letter}", False):
            return index == len(letters) - 1
    return False


def _whole(name: str, known: Mapping[str, bool], first: Collection[str]) -> str:
    if name in known:
        return name
    for names in (first, known):
        found = sorted(each for each in names if each.startswith(name))
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f"option {name} may be {', '.join(found[:-1])} or {found[-1]}; write it out"
            )
    return name


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
