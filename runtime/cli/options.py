"""How an option of a command line is declared: once, as an entry of a table.

Owns what follows from an entry: the parameter that the command takes, its help, and for
`localproxy` the key of a configuration file, the environment variables and the row of
docs/localproxy.md. Owns the options that several commands have. It does not know what an option
means.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final

COMPLETE_VARIABLE: Final = "_TUNNELFLEET_COMPLETE"
"""A shell that wants to know what may stand on the command line sets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a command.

    Attributes:
        name: long name without dashes; also the key in a configuration file.
        help: what it does, for `--help` and the documents.
        short: one letter with a dash, or an empty text.
        metavar: what its value is called; an option without one is a flag.
        variables: environment variables that set it, the first of them before the others.
        default: what holds when it is not given. The help says it at `{default}`, or at its end.
        is_ours: that AWS's localproxy does not have it.
        is_for_files: that a configuration file may set it.
        details: what the document says in addition.
    """

    name: str
    help: str
    short: str = ""
    metavar: str = ""
    variables: tuple[str, ...] = ()
    default: str = ""
    is_ours: bool = False
    is_for_files: bool = True
    details: str = ""

    @property
    def parameter(self) -> str:
        """The name of the argument of a command's function."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """How errors name it: the short flag if it has one."""
        return self.short or f"--{self.name}"

    @property
    def summary(self) -> str:
        """What `--help` says: the meaning, the default and the variable."""
        text = self.help.replace("{default}", self.default)
        if self.default and text == self.help:
            text += f" ({self.default})"
        variable = f" [{self.variables[0]}]" if self.variables else ""
        return f"{text}.{variable}"

    def annotation(self) -> Any:
        """Return the type of the parameter, as typer wants it."""
        import typer  # noqa: PLC0415 - who only reads the table does not need it

        flags = [f"--{self.name}", *([self.short] if self.short else [])]
        if not self.metavar:
            return Annotated[bool, typer.Option(*flags, help=self.summary)]
        found = typer.Option(*flags, metavar=self.metavar, help=self.summary)
        return Annotated[str | None, found]


def takes(options: Iterable[Option]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command's function, which takes keywords, the parameters of a table for typer to see.

    Its own keyword parameters stay and come first.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own = [
            each
            for each in inspect.signature(command, eval_str=True).parameters.values()
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        made = [
            inspect.Parameter(
                each.parameter,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if each.metavar else False,
                annotation=each.annotation(),
            )
            for each in options
        ]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + made
        command.__signature__ = inspect.Signature(every, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in every} | {"return": int}
        return command

    return decorate


class _AsGiven:
    """In the place of typer's validation, for values that are texts or flags."""

    @staticmethod
    def coerce(value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG004 - as typer calls it
        return value


def take_as_given(parameters: Iterable[Any]) -> None:
    """Have typer hand on the values of options as they are: texts and flags.

    Its validation loads a library that takes 100 ms and 10 MB, for nothing: what a text means is
    judged by whoever takes it. Typer 0.29 asks each parameter for it; earlier ones load none.
    """
    for each in parameters:
        if hasattr(each, "get_runtime_param"):
            each.get_runtime_param = _AsGiven


ADMIN = Option(
    name="admin",
    metavar="HOST:PORT",
    help="Serve /metrics, /healthz and /readyz there",
    is_ours=True,
)
ADMIN_OPEN = Option(name="admin-open", help="Let --admin listen beyond this machine", is_ours=True)
