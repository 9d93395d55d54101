"""`tunnelfleet localproxy`: one tunnel, with the options of AWS's localproxy.

Owns the reading of its command line without typer, which takes a tenth of a second and 4 MB of
every localproxy, and has the words for `--help` and for what is wrong. No token shows in the list
of processes. docs/localproxy.md says where the command differs from localproxy on purpose.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import EXIT_OK, cannot_write, run_guarded
from tunnelfleet.runtime.cli.options import Option
from tunnelfleet.runtime.cli.output import log_lines, outputs
from tunnelfleet.version import version_line

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
        CommandFailed: the tunnel was refused, or given up; a file cannot be written.
        ConfigError: an option or a file is wrong.
    """
    if flags["version"]:
        sys.stdout.write(f"{version_line()}\n")
        return EXIT_OK
    export = flags["export-default-settings"]
    if export is not None:
        try:
            with open(str(export), "w") as file:
                file.write(default_settings())
        except OSError as error:
            raise cannot_write("--export-default-settings", str(export), error) from error
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
            # A long path is shown whole, which an error of the value would not do.
            raise ConfigError(f"{directory.origin}: {error}") from None
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


class _NotPlainError(Exception):
    """Typer has to look at this command line."""


def read_plain(
    arguments: Sequence[str], options: Iterable[Option], first: Collection[str]
) -> dict[str, str | bool | None] | None:
    """Read a command line, if every word of it is an option of the table or the value of one.

    Args:
        arguments: what follows the command.
        options: the table.
        first: see `expand`.

    Returns:
        Each option's long name, and what it was given: a text, or True; else None, or False for a
        flag. None if typer has to look at the command line.
    """
    options = list(options)
    by_flag = {f"--{each.name}": each for each in options}
    by_flag |= {each.short: each for each in options if each.short}
    found: dict[str, str | bool | None] = {
        each.name: None if each.metavar else False for each in options
    }
    takes_value = {flag: bool(each.metavar) for flag, each in by_flag.items()}
    takes_value |= {"--help": False, "-h": False}
    try:
        words = iter(expand(arguments, takes_value, first))
        for word in words:
            for flag, value in _given_in(word, words, by_flag):
                found[by_flag[flag].name] = value
    except (ConfigError, _NotPlainError):
        return None
    return found


def _given_in(
    word: str, words: Iterator[str], by_flag: Mapping[str, Option]
) -> Iterator[tuple[str, str | bool]]:
    """Yield the flags that a word has, `--long`, `--long=value`, `-kt`, each with its value."""
    if word.startswith("--"):
        name, separator, value = word.partition("=")
        yield name, _value_of(name, value if separator else None, words, by_flag)
        return
    if not word.startswith("-") or word == "-":
        raise _NotPlainError
    letters = word[1:]
    for index, letter in enumerate(letters):
        flag = f"-{letter}"
        if _is_flag(flag, by_flag):
            yield flag, True
            continue
        yield flag, _value_of(flag, letters[index + 1 :] or None, words, by_flag)
        return


def _is_flag(flag: str, by_flag: Mapping[str, Option]) -> bool:
    """Whether an option is a flag. Raises _NotPlainError if there is no such option."""
    if flag not in by_flag:
        raise _NotPlainError
    return not by_flag[flag].metavar


def _value_of(
    flag: str, inside: str | None, words: Iterator[str], by_flag: Mapping[str, Option]
) -> str | bool:
    """Return what an option was given: inside its own word, in the next one, or nothing."""
    if _is_flag(flag, by_flag):
        if inside is not None:
            raise _NotPlainError
        return True
    value = inside if inside is not None else next(words, None)
    if value is None:
        raise _NotPlainError
    return value


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
