"""Nothing that the command line has is missing in the documents, and what is generated is fresh."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.generate_commands_docs import command_of
from tunnelfleet.runtime.cli.app import COMMANDS
from tunnelfleet.runtime.cli.localproxy.options import OPTIONS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
THREATS = DOCS / "security.md"
SHOWN_IN = (".toml", ".py", ".yaml", ".service", ".md")


def test_the_list_of_commands_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "tools/generate_commands_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_listed(name: str) -> None:
    _, _, text = (DOCS / "commands.md").read_text().partition(f"## tunnelfleet {name}\n")
    section = text.partition("\n## ")[0]
    assert section
    for parameter in command_of(name).params:
        for spelling in (*parameter.opts, *parameter.secondary_opts):
            assert f"`{spelling}`" in section
        assert parameter.help, f"{parameter.opts} has no help"


SHOWN_COMMAND = re.compile(r"(?<![\w./-])tunnelfleet ([a-z][a-z-]*)((?: [^`|#\n]*)?)")


def test_commands_that_are_shown_have_the_options_that_they_are_shown_with() -> None:
    files = [
        ROOT / "README.md",
        *DOCS.glob("*.md"),
        *(path for path in (ROOT / "examples").rglob("*") if path.suffix in SHOWN_IN),
    ]
    shown = [
        (path, name, option)
        for path in files
        for name, rest in SHOWN_COMMAND.findall(path.read_text().replace("\\\n", " "))
        # Those of localproxy are AWS's, and have a table of their own.
        if name in COMMANDS and name != "localproxy"
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)
    ]
    assert {path.parent.name for path, _, _ in shown} >= {"docs", "gateway"}
    known = {
        name: {spelling for each in command_of(name).params for spelling in each.opts}
        for name in {name for _, name, _ in shown}
    }
    assert [
        f"{path.name}: tunnelfleet {name} {option}"
        for path, name, option in shown
        if option not in known[name] | {"--help"}
    ] == []


def test_the_options_of_localproxy_are_explained() -> None:
    text = (DOCS / "localproxy.md").read_text()
    for option in OPTIONS.values():
        names = {f"--{option.name}", option.flag, *option.variables[:1]}
        missing = {name for name in names if not re.search(rf"`{re.escape(name)}\b", text)}
        assert not missing
    for variable in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        assert f"`{variable}`" in text


def test_every_command_is_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "docs/commands.md" in readme
    for name in COMMANDS:
        assert f"tunnelfleet {name}" in readme


def test_every_document_is_linked_and_links_to_what_is_there() -> None:
    linked = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for path in DOCS.glob("*.md"):
        assert f"docs/{path.name}" in linked
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (DOCS / link).exists(), f"{path.name}: {link}"


NAMED_TEST = re.compile(r"`(tests/[\w/.]+\.py)((?:::\w+)*)`")


def test_each_test_that_the_threat_model_names_is_there() -> None:
    text = THREATS.read_text()
    named = NAMED_TEST.findall(text)
    assert len(named) > 20
    for path, names in named:
        assert (ROOT / path).exists(), path
        for name in filter(None, names.split("::")):
            found = re.search(
                rf"^ *(?:async )?(?:def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE
            )
            assert found, f"{path}::{name}"


def test_each_attack_of_the_threat_model_has_its_test() -> None:
    rows = [
        line
        for table in re.findall(
            r"^\|.* test \|\n\|[-|]+\n((?:\|.*\n)+)", THREATS.read_text(), re.MULTILINE
        )
        for line in table.splitlines()
    ]
    assert len(rows) > 60
    assert [row for row in rows if not NAMED_TEST.search(row.rsplit("|", 2)[1])] == []
