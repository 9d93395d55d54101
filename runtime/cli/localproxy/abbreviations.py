"""Long options that are not written out, as boost::program_options takes them.

Owns how a short form is made whole before the options are read. localproxy's scripts use it:
`--proxy` for `--proxy-endpoint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from typer.core import TyperCommand

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.options import take_as_given

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


class AbbreviatingCommand(TyperCommand):
    """A command whose long options may be shortened."""

    FIRST: ClassVar[frozenset[str]] = frozenset()
    """See `expand`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the options out, and read them."""
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
