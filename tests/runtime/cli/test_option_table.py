"""An option is declared once: parameter, help, key, variables and documents follow from it."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tools.generate_commands_docs import document, option_row, with_options
from tunnelfleet.runtime.cli.app import make_app
from tunnelfleet.runtime.cli.localproxy.options import (
    LOCALPROXY_OPTIONS,
    NOT_FOR_FILES,
    OPTIONS,
    TABLE,
    collect,
    parse_config,
)
from tunnelfleet.runtime.cli.localproxy.typer_command import AbbreviatingCommand
from tunnelfleet.runtime.cli.options import ADMIN, ADMIN_OPEN, Option, takes

ADDED = Option(
    name="pigeon-post",
    short="-p",
    metavar="BIRD",
    variables=("PIGEON", "OLD_PIGEON"),
    default="Bert",
    help="Who carries it",
    is_ours=True,
)
FLAG = Option(name="fly", help="Do not walk ({default} unless given)", default="walk")


def command_of(name: str) -> Any:
    group: Any = typer.main.get_command(make_app([name]))
    return group.commands[name]


@pytest.mark.parametrize("option", TABLE, ids=lambda option: option.name)
def test_an_entry_is_everywhere(option: Option) -> None:
    by_name = {each.name: each for each in command_of("localproxy").params}
    found = by_name[option.parameter]
    assert found.opts == [f"--{option.name}", *([option.short] if option.short else [])]
    assert found.help == option.summary
    assert found.is_flag is not bool(option.metavar)
    assert f"`--{option.name}`" in document()
    assert (option.name in OPTIONS) is option.is_for_files
    assert (f"--{option.name}" in LOCALPROXY_OPTIONS) is not option.is_ours
    if option.is_for_files:
        values, notes = parse_config(f"{option.name} = x", "f.ini")
        assert (values[option.name].text, notes) == ("x", [])
        flag = "x" if option.metavar else True
        assert collect({option.name: flag}, {}, {})[option.name].origin == f"option {option.flag}"
    for variable in option.variables:
        assert collect({}, {}, {variable: "x"})[option.name].text == "x"


def test_what_files_may_not_set_is_refused_or_told() -> None:
    others = {each.name for each in TABLE if not each.is_for_files}
    assert others == {*NOT_FOR_FILES, "json"} - {"help"}


def test_no_name_and_no_letter_stands_twice() -> None:
    for names in [each.name for each in TABLE], [each.short for each in TABLE if each.short]:
        assert len(names) == len(set(names))


def test_the_options_of_several_commands_are_the_same() -> None:
    for name in ("demo", "localproxy"):
        by_name = {each.name: each for each in command_of(name).params}
        for option in (ADMIN, ADMIN_OPEN):
            assert by_name[option.parameter].help == option.summary


class TestAnEntryThatIsAdded:
    def run(self, *arguments: str) -> tuple[int, str, dict[str, Any]]:
        seen: dict[str, Any] = {}

        @takes([*TABLE, ADDED, FLAG])
        def command(**given: Any) -> int:
            seen.update(given)
            return 0

        app = typer.Typer(add_completion=False)
        app.command(cls=AbbreviatingCommand)(command)
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, done.output, seen

    def test_it_is_taken(self) -> None:
        status, _, seen = self.run("-p", "Ernie", "--fly")
        assert (status, seen["pigeon_post"], seen["fly"]) == (0, "Ernie", True)
        _, _, seen = self.run()
        assert (seen["pigeon_post"], seen["fly"]) == (None, False)

    def test_it_is_in_the_help(self) -> None:
        assert ADDED.summary == "Who carries it (Bert). [PIGEON]"
        assert FLAG.summary == "Do not walk (walk unless given)."
        assert "--pigeon-post" in self.run("--help")[1]

    def test_it_is_in_the_document(self) -> None:
        text = "Before.\n<!-- options: begin -->\nold\n<!-- options: end -->\nAfter.\n"
        row = "| `-p`, `--pigeon-post`, `PIGEON`, `OLD_PIGEON` BIRD | Ours. "
        row += "Who carries it (Bert). |"
        assert option_row(ADDED) == row
        made = with_options(text, [ADDED, FLAG])
        assert row in made
        assert "old" not in made
        assert made.startswith("Before.\n")
        assert made.endswith("After.\n")
        assert with_options(made, [ADDED, FLAG]) == made
