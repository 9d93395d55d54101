"""What ``tunnelfleet service`` prints; the processes that print it are in ``test_service``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tunnelfleet.proto import Mode
from tunnelfleet.runtime.cli.output import LineOutput
from tunnelfleet.runtime.cli.service.console import ConnectCommands, Console
from tunnelfleet.runtime.service import ServiceEvent, ServiceEventKind, TunnelTokens

TOKENS = TunnelTokens("press-4", ("SSH", "CAMERA"), "source-token", "destination-token")


def test_commands_can_be_pasted_whatever_the_path_is() -> None:
    commands = ConnectCommands("wss://[::1]:8443", Path("/srv/a folder/ca's.pem"))
    words = shlex.split(commands.both(TOKENS)[Mode.DESTINATION])
    assert words == [
        "AWSIOT_TUNNEL_ACCESS_TOKEN=destination-token",
        *("tunnelfleet", "localproxy", "-e", "[::1]:8443", "-c", "/srv/a folder/ca's.pem"),
        *("-d", "SSH=127.0.0.1:22,CAMERA=127.0.0.1:8080"),
    ]


def test_each_service_listens_on_a_port_of_its_own() -> None:
    commands = ConnectCommands("ws://127.0.0.1:1", None)
    assert commands.both(TOKENS)[Mode.SOURCE].endswith(
        "-e ws://127.0.0.1:1 -s SSH=5555,CAMERA=5556"
    )
    assert commands.both(TunnelTokens("b", (), "s", "d"))[Mode.SOURCE].endswith("-s 5557")


@pytest.mark.parametrize("as_json", [False, True])
def test_an_event_is_one_line(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    event = ServiceEvent(ServiceEventKind.CLIENT_REFUSED, "t", Mode.SOURCE, "a\n\x1b[2Jb")
    with LineOutput(sys.stdout) as out:
        Console(out, as_json=as_json).event(event)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert "\x1b" not in line
    if as_json:
        assert json.loads(line)["event"] == "client_refused"
    else:
        assert line.endswith(" t source client refused a [2Jb\n")
