"""The commands of ``--control``."""

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.service import console as service_control
from tunnelfleet.runtime.cli.service.console import HELP, ControlReader, run_command
from tunnelfleet.runtime.service import TunnelService, TunnelTokens

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def service() -> Iterator[TunnelService]:
    with TunnelService(tls=False) as running:
        running.open_tunnel("t", ["SSH"])
        yield running


@pytest.mark.parametrize(
    "line",
    [
        "drop t",
        "drop t source",
        "black-hole t destination",
        "session-reset t",
        "throttle t 100kB/s",
        "throttle t off",
        "delay t 0.5",
        "refuse t 503",
        "refuse any 429 3",
        "stall t source",
        "resume t source",
        "close t",
        "restart",
        "list",
        "ls",
    ],
)
def test_commands_answer(service: TunnelService, line: str) -> None:
    assert isinstance(run_command(service, line), str)


def test_list_shows_each_tunnel(service: TunnelService) -> None:
    assert "t: source off" in str(run_command(service, "list"))
    assert run_command(service, "ls") == run_command(service, "list")
    run_command(service, "close t")
    assert run_command(service, "ls") == "no tunnels"


def test_help_names_every_command(service: TunnelService) -> None:
    assert run_command(service, "help") == HELP
    assert {word for word in service_control._COMMANDS if word not in HELP} == set()


@pytest.mark.parametrize(
    ("line", "services"), [("open x", ()), ("open x=A,B", ("A", "B")), ("rotate t", ("SSH",))]
)
def test_commands_that_issue_tokens(
    service: TunnelService, line: str, services: tuple[str, ...]
) -> None:
    result = run_command(service, line)
    assert isinstance(result, TunnelTokens)
    assert result.services == services


@pytest.mark.parametrize(
    "line",
    [
        "fly",
        "drop",
        "drop nobody",
        "drop t sideways",
        "drop t source now",
        "delay t soon",
        "throttle t 0",
        "refuse t teapot",
        "refuse t 200",
        "stall t",
        "open t",
        "close nobody",
    ],
)
def test_wrong_commands_are_errors(service: TunnelService, line: str) -> None:
    with pytest.raises(ConfigError):
        run_command(service, line)


def test_the_reader_splits_lines_and_ends_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    monkeypatch.setattr(service_control, "_STDIN", read)
    lines: queue.Queue[str] = queue.Queue()
    reader = ControlReader(lines.put)
    for piece in (b"dr", b"op t\n\n  list \nlast"):
        os.write(write, piece)
    assert [lines.get(timeout=WAIT_SECONDS) for _ in range(2)] == ["drop t", "list"]
    reader.stop()
    assert lines.empty()
    os.close(read)
    os.close(write)
