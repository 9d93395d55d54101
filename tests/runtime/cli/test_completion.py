from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet import __main__
from tunnelfleet.runtime.cli import completion, errors, main
from tunnelfleet.runtime.cli.app import COMMANDS, command_line
from tunnelfleet.runtime.cli.completion import SCRIPTS, candidates
from tunnelfleet.runtime.cli.options import COMPLETE_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

ROWS: list[dict[str, Any]] = [
    {
        "name": "press-1",
        "state": "connected",
        "labels": {"site": "lyon"},
        "services": {"SSH": "door", "HTTP": "door"},
    },
    {"name": "press-2", "state": "refused", "labels": {"site": "nice"}},
    {"name": "lathe", "state": "connected", "labels": {}},
]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the gateway was asked with; it has the tunnels of `ROWS`."""
    seen: list[dict[str, str]] = []

    def rows(given: dict[str, str]) -> list[dict[str, Any]]:
        seen.append(given)
        return ROWS

    monkeypatch.setattr(completion, "_rows", rows)
    return seen


def words(*typed: str) -> list[str]:
    return [word for word, _meaning in candidates(typed, command_line())]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ([""], list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))),
        (["ra"], ["ray"]),
        (["ray", ""], ["up", "ls", "targets", "down"]),
        (["ray", "u"], ["up"]),
        (["ray", "up", "--addr"], ["--address"]),
        (["connect", "pre"], ["press-1", "press-2"]),
        (["connect", "press-1:"], ["press-1:SSH", "press-1:HTTP"]),
        (["connect", "press-1:S"], ["press-1:SSH"]),
        (["connect", "press-3:"], []),
        (["audit", "--kind", "d"], ["denied", "demand"]),
        (["localproxy", "-y", ""], ["V1", "V2", "V3"]),
        (["localproxy", "--mode", "s"], ["source"]),
        (["re"], ["ready", "reload", "retry", "replace-token"]),
        (["--v"], ["--version"]),
        (["show", ""], ["press-1", "press-2", "lathe"]),
        (["show", "pre"], ["press-1", "press-2"]),
        (["drain", "press-1", "l"], ["lathe"]),
        (["ls", "--la"], ["--label"]),
        (["ls", "--label", "site=l"], ["site=lyon"]),
        (["ls", "--label=site=l"], ["--label=site=lyon"]),
        (["ls", "--state", "re"], ["refused"]),
        (["ls", "--source", ""], ["files", "api", "notify", "on demand"]),
        (["ls", "--source", "on d"], ["on demand"]),
        (["ls", "--source=on"], ["--source=on demand"]),
        (["ls", "--sort", "r"], ["reconnects"]),
        (["top", "--sort", "r"], ["rate", "reconnects"]),
        (["top", "--name", "la"], ["lathe"]),
        (["logs", "--level", "e"], ["error"]),
        (["up", "fl"], ["@files"]),
        (["add", ""], ["@files"]),
        (["ls", "--gateway-token-file", ""], ["@files"]),
        (["completion", "z"], ["zsh"]),
        (["ready", ""], []),
        (["no-such", ""], []),
    ],
)
def test_what_can_stand_there(typed: list[str], found: list[str]) -> None:
    assert sorted(words(*typed)) == sorted(found)


def test_the_gateway_that_is_meant_is_asked(asked: list[dict[str, str]]) -> None:
    words("show", "--gateway", "unix:/a", "")
    words("show", "--gateway=unix:/b", "")
    assert [each["--gateway"] for each in asked] == ["unix:/a", "unix:/b"]


def test_every_option_of_every_command_can_be_completed() -> None:
    for name in COMMANDS:
        assert "--help" in words(name, "--")


def test_a_program_answers_a_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TUNNELFLEET_COMPLETE", "zsh")
    assert main(["show", "press"]) == 0
    assert capsys.readouterr().out == "press-1\tconnected\npress-2\trefused\n"


@pytest.mark.parametrize(
    ("typed", "found"),
    [(["--version"], "--version\tPrint the version.\n"), (["connect", "press-4"], "")],
    ids=["version", "connect"],
)
def test_the_program_does_nothing_of_what_it_is_asked_about(typed: list[str], found: str) -> None:
    environment = {
        **os.environ,
        __main__.COMPLETE_VARIABLE: "fish",
        "TUNNELFLEET_GATEWAY": "unix:/nowhere/admin.sock",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tunnelfleet", *typed],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, found, "")
    assert __main__.COMPLETE_VARIABLE == COMPLETE_VARIABLE
    assert __main__.EXIT_INTERRUPTED == errors.EXIT_INTERRUPTED


def test_bash_parts_words_at_colons_and_equal_signs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[dict[str, str]],
) -> None:
    monkeypatch.setenv("_TUNNELFLEET_COMPLETE", "bash")
    assert main(["ls", "--gateway", "unix", ":", "/a", "--label", "site", "=", "l"]) == 0
    assert capsys.readouterr().out == "lyon\t\n"
    assert asked == [{"--gateway": "unix:/a"}]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_say_where_to_put_them(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert f"tunnelfleet completion {shell}" in out
    assert "_TUNNELFLEET_COMPLETE" in out


def test_another_shell_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "ksh"]) == 2
    assert "write one of bash, zsh, fish" in capsys.readouterr().err


def test_the_script_for_bash_is_good(tmp_path: Path) -> None:
    """With a program that says what it is asked."""
    program = tmp_path / "tunnelfleet"
    program.write_text("#!/bin/sh\nprintf '%s\\t\\n' alpha 'be ta' \"asked:$#\"\n")
    program.chmod(0o755)
    (tmp_path / "script").write_text(SCRIPTS["bash"])
    test = (
        f"source {tmp_path}/script; COMP_WORDS=({program} show al); COMP_CWORD=2; "
        "_tunnelfleet; printf '%s|' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", test], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout == r"alpha|be\ ta|asked:2|"
