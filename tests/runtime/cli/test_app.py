from __future__ import annotations

import subprocess
import sys

import pytest

from tunnelfleet.runtime.cli import app, main
from tunnelfleet.runtime.cli.app import COMMANDS, Command, load
from tunnelfleet.runtime.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, CommandFailed
from tunnelfleet.version import version_line


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == EXIT_OK
    assert capsys.readouterr().out == version_line() + "\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_the_commands(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == EXIT_OK
    out = capsys.readouterr().out
    for name in ("localproxy", "version"):
        assert name in out


def test_without_a_command_it_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert "localproxy" in out
    assert err == "tunnelfleet: name a command (see tunnelfleet --help)\n"


@pytest.mark.parametrize("arguments", [["no-such"], ["--no-such"], ["version", "extra"]])
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tunnelfleet: ")
    assert err.count("\n") == 1


def test_a_part_that_is_missing_takes_no_other_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = Command("tunnelfleet.runtime.cli.no_such_module", "command", "It is not there.")
    monkeypatch.setattr(app, "COMMANDS", {**COMMANDS, "gone": gone})
    assert main(["--help"]) == EXIT_OK
    assert "gone" not in capsys.readouterr().out
    assert main(["version"]) == EXIT_OK
    assert main(["gone"]) == EXIT_FAILURE
    assert "not part of this installation" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["localproxy", "version"])
def test_each_command_has_its_function(name: str) -> None:
    assert callable(load(name))


def test_loading_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "COMMANDS", {"gone": Command("tunnelfleet.gone", "f", "")})
    with pytest.raises(CommandFailed):
        load("gone")


def test_the_program_is_there_to_be_run() -> None:
    program = "import sys; from tunnelfleet.runtime.cli import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", program, "version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (run.returncode, run.stdout, run.stderr) == (EXIT_OK, version_line() + "\n", "")


def test_a_command_that_asks_a_gateway_does_not_load_one() -> None:
    """Whoever presses a key for a name waits for all that is loaded."""
    program = (
        "import sys\n"
        "from tunnelfleet.runtime.cli.app import load\n"
        "for name in ('ls', 'top', 'ready', 'logs', 'diag', 'retry'): load(name)\n"
        "print(*sorted({'aiohttp', 'pydantic', 'sqlalchemy', 'pykka'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=200
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "\n", "")
