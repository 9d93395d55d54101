"""Write docs/man/ from the commands and from the schema of a gateway's files.

One page for the program, one for each command, and tunnelfleet.toml(5) for the files. The wheel
installs them below share/man.

    python tools/generate_man_pages.py [--check]
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import typer

from tunnelfleet.runtime.cli.app import COMMANDS, make_app
from tunnelfleet.runtime.gateway.config import json_schema

FOLDER = Path(__file__).parent.parent / "docs" / "man"
SUMMARY = "many AWS IoT Secure Tunneling tunnels in one process"
MANY = -1
"""The `nargs` of a parameter that takes any number of values."""
EXIT_STATUS = (
    ("0", "Done, or stopped by a signal."),
    ("1", "It failed; or connections were cut at the end."),
    ("2", "Asked for wrongly: an option, a variable or a file has to be changed."),
    ("130", "Interrupted from the keyboard."),
)
TABLES = (
    ("[gateway]", "GatewayKeys"),
    ("[[tunnel]] and [defaults]", "TunnelKeys"),
    ("limits", "limits"),
    ("restart", "restart"),
    ("[[door_rule]]", "DoorRuleKeys"),
)


def pages() -> dict[str, str]:
    """The text of each page by the name of its file."""
    found = {"tunnelfleet.1": program(), "tunnelfleet.toml.5": files()}
    for name in COMMANDS:
        found[f"tunnelfleet-{dashed(name)}.1"] = command(name)
    return found


# -- pages


def program() -> str:
    """The page of the program."""
    lines = [
        *head("tunnelfleet", 1, SUMMARY),
        ".SH SYNOPSIS",
        ".B tunnelfleet",
        ".I COMMAND",
        r"[\fIOPTIONS\fR]",
        ".SH DESCRIPTION",
        text(
            "AWS IoT Secure Tunneling gives operators a way to devices behind firewalls. This "
            "program holds many such tunnels, each supervised and measured: as a gateway for a "
            "fleet, in place of AWS's localproxy, or as a tunneling service of one's own."
        ),
        ".SH COMMANDS",
    ]
    for name, each in COMMANDS.items():
        lines += [".TP", rf"\fBtunnelfleet\-{escape(dashed(name))}\fR(1)", text(each.help)]
    return finish([*lines, *exit_status(), *see_also("tunnelfleet.toml(5)")])


def command(name: str) -> str:
    """The page of one command."""
    group: Any = typer.main.get_command(make_app([name]))
    found = group.commands[name]
    options = [each for each in found.params if each.param_type_name == "option" and each.opts]
    arguments = [each for each in found.params if each.param_type_name == "argument"]
    lines = [
        *head(f"tunnelfleet-{dashed(name)}", 1, COMMANDS[name].help.rstrip(".")),
        ".SH SYNOPSIS",
        rf".B tunnelfleet {escape(name)}",
        *([r"[\fIOPTIONS\fR]"] if options else []),
        *(rf"\fI{escape(metavar(each))}\fR" for each in arguments),
        ".SH DESCRIPTION",
        *paragraphs(inspect.getdoc(found.callback) or COMMANDS[name].help),
    ]
    if arguments:
        lines.append(".SH ARGUMENTS")
        for each in arguments:
            lines += [".TP", rf"\fI{escape(metavar(each))}\fR", text(each.help or "")]
    if options:
        lines.append(".SH OPTIONS")
        for each in options:
            lines += [".TP", spellings(each), text(meaning(each))]
    variables = {each.envvar: each for each in found.params if isinstance(each.envvar, str)}
    if variables:
        lines.append(".SH ENVIRONMENT")
        for variable, each in variables.items():
            lines += [".TP", rf"\fB{escape(variable)}\fR", text(f"Stands for {each.opts[0]}.")]
    return finish([*lines, *exit_status(), *see_also("tunnelfleet(1)", "tunnelfleet.toml(5)")])


def files() -> str:
    """The page of a gateway's files."""
    lines = [
        *head("tunnelfleet.toml", 5, "the files of a tunnelfleet gateway"),
        ".SH DESCRIPTION",
        text(
            "Files of tunnelfleet-up(1), in TOML. A folder's *.toml merge in the order of their "
            "names. Unknown keys are mistakes; tunnelfleet-check(1) says them all. Paths are "
            "relative to the file in which they stand."
        ),
        ".SH EXAMPLE",
        ".EX",
        *(escape(line) or " " for line in EXAMPLE.splitlines()),
        ".EE",
    ]
    schema = json_schema()["$defs"]
    for title, name in TABLES:
        lines.append(f".SH {escape(title)}")
        for key, entry in schema[name]["properties"].items():
            default = entry.get("default")
            shown = f" The default is {default}." if default not in (None, {}, []) else ""
            lines += [
                ".TP",
                rf"\fB{escape(key)}\fR",
                text(f"{entry.get('description', '')}{shown}"),
            ]
    return finish([*lines, *see_also("tunnelfleet-up(1)", "tunnelfleet-check(1)")])


EXAMPLE = """\
[gateway]
name = "gw-1"

[defaults]
region = "eu-west-1"

[[tunnel]]
name = "press-4"
mode = "source"
access_token_file = "tokens/press-4"
services = { SSH = "127.0.0.1:2204" }
"""


# -- parts


def dashed(name: str) -> str:
    """The name of a command in the name of its page, which has no blanks."""
    return name.replace(" ", "-")


def head(name: str, section: int, summary: str) -> list[str]:
    """The head of a page, without a date: the same sources give the same page."""
    short = summary[0].lower() + summary[1:]
    return [
        r".\" Written by tools/generate_man_pages.py.",
        f'.TH "{name.upper()}" "{section}" "" "tunnelfleet"',
        ".SH NAME",
        rf"{escape(name)} \- {plain(short)}",
    ]


def exit_status() -> list[str]:
    """The section of the exit status."""
    lines = [".SH EXIT STATUS"]
    for status, what in EXIT_STATUS:
        lines += [".TP", rf"\fB{status}\fR", text(what)]
    return lines


def see_also(*names: str) -> list[str]:
    """The section with other pages."""
    found = [rf"\fB{escape(name.partition('(')[0])}\fR({name.partition('(')[2]}" for name in names]
    return [".SH SEE ALSO", ", ".join(found)]


def metavar(parameter: Any) -> str:
    """What stands for the value of a parameter."""
    value = str(parameter.metavar or parameter.name.upper())
    return f"{value}..." if parameter.nargs == MANY else value


def spellings(option: Any) -> str:
    """The ways to write an option."""
    value = (
        ""
        if getattr(option, "is_flag", False)
        else rf" \fI{escape(option.metavar or option.type.name.upper())}\fR"
    )
    return ", ".join(
        rf"\fB{escape(each)}\fR{value}" for each in (*option.opts, *option.secondary_opts)
    )


def meaning(option: Any) -> str:
    """The help of an option, and its default."""
    is_flag = getattr(option, "is_flag", False)
    default = option.default
    shown = (
        "" if is_flag or default in (None, [], ()) or callable(default) else f" Default: {default}."
    )
    return f"{option.help or ''}{shown}"


def paragraphs(given: str) -> list[str]:
    """A docstring as paragraphs."""
    parts = [
        " ".join(part.split()) for part in textwrap.dedent(given).split("\n\n") if part.strip()
    ]
    return [line for part in parts for line in (".PP", text(part))]


def escape(given: str) -> str:
    """A text that groff shows as it is."""
    found = (
        given.replace("\\", r"\e").replace("-", r"\-").replace("^", r"\(ha").replace("~", r"\(ti")
    )
    found = found.replace('"', r"\(dq").replace("\u2026", "...")
    return rf"\&{found}" if found[:1] in {".", "'"} else found


def plain(given: str) -> str:
    """A sentence on one line; what stands between backticks is bold."""
    pieces = re.split(r"`+", " ".join(given.split()))
    return "".join(
        rf"\fB{escape(each)}\fR" if index % 2 else escape(each) for index, each in enumerate(pieces)
    )


def text(given: str) -> str:
    """A sentence or two, as the body of an item."""
    return plain(given) or r"\&"


def finish(lines: list[str]) -> str:
    """The lines as a file."""
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write the manual pages.")
    parser.add_argument("--check", action="store_true", help="fail when one is out of date")
    is_check = parser.parse_args().check
    wanted = pages()
    present = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.[15]")}
    if wanted == present:
        return 0
    if is_check:
        names = sorted(
            name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
        )
        sys.stderr.write(f"stale: {', '.join(names)}: run python tools/generate_man_pages.py\n")
        return 1
    FOLDER.mkdir(exist_ok=True)
    for name in present.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, found in wanted.items():
        (FOLDER / name).write_text(found, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
