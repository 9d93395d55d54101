"""The command line of `tunnelfleet localproxy`, read without a library.

Owns the short forms of long options, which localproxy takes as well (`--proxy` for
`--proxy-endpoint`), and the reading of a command line that is as it should be: typer takes a tenth
of a second and 4 MB, of every localproxy. What is asked for otherwise, `--help` above all, and
what is wrong is left to typer, which has the words for it. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.options import Option


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
