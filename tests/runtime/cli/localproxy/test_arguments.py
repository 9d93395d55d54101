"""What is read without typer is what typer reads."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.app import make_app
from tunnelfleet.runtime.cli.localproxy import typer_command
from tunnelfleet.runtime.cli.localproxy.command import read_plain
from tunnelfleet.runtime.cli.localproxy.options import LOCALPROXY_OPTIONS, TABLE

NOTHING: dict[str, Any] = {each.name: None if each.metavar else False for each in TABLE}


def read(*arguments: str) -> dict[str, Any] | None:
    return read_plain(arguments, TABLE, LOCALPROXY_OPTIONS)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("", {}),
        ("-e h -t x", {"proxy-endpoint": "h", "access-token": "x"}),
        ("-eh", {"proxy-endpoint": "h"}),
        ("-ke h", {"no-ssl-host-verify": True, "proxy-endpoint": "h"}),
        ("-keh", {"no-ssl-host-verify": True, "proxy-endpoint": "h"}),
        ("--proxy h", {"proxy-endpoint": "h"}),
        ("--proxy-endpoint=h=1", {"proxy-endpoint": "h=1"}),
        ("-t -k -k", {"access-token": "-k", "no-ssl-host-verify": True}),
        ("-t --", {"access-token": "--"}),
        ("--json -V", {"json": True, "version": True}),
        ("-e a -e b", {"proxy-endpoint": "b"}),
        ("--verbose= -e=h", {"verbose": "", "proxy-endpoint": "=h"}),
    ],
)
def test_options_and_their_values(arguments: str, found: dict[str, Any]) -> None:
    assert read(*arguments.split()) == NOTHING | found


@pytest.mark.parametrize(
    "arguments",
    ["-h", "--help", "-kh", "--no-such", "-z", "-e", "--json=1", "word", "-", "--", "--s x"],
)
def test_everything_else_is_left_to_typer(arguments: str) -> None:
    assert read(*arguments.split()) is None


WORDS = st.sampled_from(
    [
        *(f"--{each.name}" for each in TABLE if each.name != "export-default-settings"),
        *(each.short for each in TABLE if each.short),
        *("--proxy", "--no-", "--json=1", "--mode=src", "-kv4", "-ve", "-h", "--", "-", "-z"),
        *("a", "22", "", "=", "-k=1", "--verbose=", "--config-"),
    ]
)


@given(st.lists(WORDS, max_size=6))
def test_it_reads_what_typer_reads(words: list[str]) -> None:
    found = read(*words)
    if found is None:
        return
    group: Any = typer.main.get_command(make_app(["localproxy"]))
    command = group.commands["localproxy"]
    assert isinstance(command, typer_command.LocalproxyCommand)
    # The shell hands texts over; typer makes an empty one None for an option that is not required.
    context = command.make_context("localproxy", list(words))
    by_typer = {each.name: context.params[each.parameter] for each in TABLE}
    assert found == by_typer


def test_a_plain_run_loads_no_typer_and_another_one_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tunnelfleet", "localproxy", "-V"])
    assert main() == 0
    plain = capsys.readouterr()
    assert main(["localproxy", "-V", "--no-such"]) == 2
    assert "--no-such" in capsys.readouterr().err
    assert main(["localproxy", "--help"]) == 0
    assert "--access-token" in capsys.readouterr().out
    assert (plain.out.split()[0], plain.err) == ("tunnelfleet", "")
