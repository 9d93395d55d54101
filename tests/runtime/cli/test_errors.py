from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import pytest
import typer

from tunnelfleet.proto import CannotListen, ConfigError, HandshakeError, TunnelClosed
from tunnelfleet.runtime.cli.app import main
from tunnelfleet.runtime.cli.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    MAX_LINE_LENGTH,
    CommandFailed,
    describe,
    one_line,
    run_guarded,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def raising(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("option -r: no such region"), EXIT_USAGE, "option -r: no such region"),
        (typer.BadParameter("no such option: -z"), EXIT_USAGE, "Invalid value: no such option: -z"),
        (
            CannotListen("", "127.0.0.1:22", OSError(errno.EADDRINUSE, "Address already in use")),
            EXIT_FAILURE,
            "cannot listen on 127.0.0.1:22: Address already in use; choose another address",
        ),
        (
            CannotListen("the API", "[::2]:22", OSError(errno.EADDRNOTAVAIL, "No such address")),
            EXIT_FAILURE,
            "the API cannot listen on [::2]:22: No such address; give an address of this machine",
        ),
        (CommandFailed("the tunnel was refused"), EXIT_FAILURE, "the tunnel was refused"),
        (TunnelClosed("gone"), EXIT_FAILURE, "gone"),
        (
            HandshakeError("HTTP 403", status=403, channel_id=None, retryable=False),
            EXIT_FAILURE,
            "HTTP 403",
        ),
        (
            OSError(errno.EADDRINUSE, "Address already in use"),
            EXIT_FAILURE,
            "Address already in use",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            EXIT_FAILURE,
            "cannot write the output: No space left on device",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"),
            EXIT_FAILURE,
            "/etc/shadow: Permission denied",
        ),
    ],
)
def test_an_error_is_one_line_and_a_status(
    error: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_guarded(raising(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tunnelfleet: {line}")
    assert err.count("\n") == 1


def test_a_usage_mistake_points_to_the_help() -> None:
    assert describe(typer.BadParameter("no such option")).endswith("(see tunnelfleet --help)")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupt_is_quiet(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(raising(error)) == EXIT_INTERRUPTED
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("result", "status"), [(None, EXIT_OK), (0, 0), (3, 3), (True, EXIT_OK), ("text", EXIT_OK)]
)
def test_only_an_integer_is_a_status(result: object, status: int) -> None:
    assert run_guarded(lambda: result) == status


def test_typer_exit_keeps_its_status() -> None:
    assert run_guarded(raising(typer.Exit(7))) == 7


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_guarded(lambda: 1 // 0)


def test_a_closed_pipe_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        os.close(reader)
        assert run_guarded(raising(BrokenPipeError())) == EXIT_FAILURE
        stdout.write("goes nowhere, and raises nothing at the end")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one two"),
        ("  much \t space ", "much space"),
        ("\x1b[31mred\x07", "[31mred"),
        ("x" * (MAX_LINE_LENGTH + 1), "x" * (MAX_LINE_LENGTH - 3) + "..."),
        ("\u202eright to left", "right to left"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize("command", ["localproxy", "demo"])
def test_a_command_opens_its_metrics_to_everyone_only_on_purpose(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWSIOT_TUNNEL_ACCESS_TOKEN", "t")
    options = {
        "localproxy": ["-e", "ws://127.0.0.1:1", "-s", "0"],
        "demo": ["--tunnels", "0"],
    }[command]
    assert main([command, "--admin", "0.0.0.0:0", *options]) == EXIT_USAGE
    assert "--admin-open" in capsys.readouterr().err
    # With it the next mistake is what ends the command.
    options = {"localproxy": ["-e", "ws://127.0.0.1:1", "-m", "neither"], "demo": options}[command]
    assert main([command, "--admin", "0.0.0.0:0", "--admin-open", *options]) == EXIT_USAGE
    assert "--admin-open" not in capsys.readouterr().err
