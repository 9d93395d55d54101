"""`tunnelfleet quickstart` as somebody new runs it: a real process, and each command named."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.commands import PROGRAM
from tests.support.programs import run_program
from tests.support.waiting import eventually
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.cli.app import main
from tunnelfleet.runtime.quickstart import processes as devices
from tunnelfleet.runtime.quickstart.processes import GatewayProcess, Sshd, WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_SECONDS = 120.0


class Running:
    """A quickstart, and what it said."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "quickstart", *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        return dict(json.loads(line))

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, errors

    def close(self) -> None:
        if self.process.poll() is None:
            # It ends what it has started.
            self.process.terminate()
        self.process.communicate(timeout=WAIT_SECONDS)


@pytest.fixture
def running() -> Iterator[Running]:
    found = Running("--json")
    yield found
    found.close()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
        return str(answer.read().decode())


def not_connected(ready: dict[str, Any]) -> int:
    return int(json.loads(read(f"{ready['page']}readyz"))["not_connected_count"])


@pytest.mark.programs("curl", "ssh", "sshd", "ssh-keygen")
def test_every_command_that_it_names_works(running: Running) -> None:
    ready = running.ready()
    assert ready["event"] == "ready"
    assert "<title>tunnelfleet</title>" in read(ready["page"])
    assert not_connected(ready) == 0
    commands = {shlex.split(each["command"])[0]: each["command"] for each in ready["try"]}
    curl = run_program([*shlex.split(commands["curl"]), "-s"])
    assert b"Hello from press-1" in curl.stdout
    ssh = run_program([*shlex.split(commands["ssh"]), "echo through the tunnel"])
    assert ssh.stdout == b"through the tunnel\n"
    (ls,) = [each["command"] for each in ready["try"] if " ls " in each["command"]]
    found = json.loads(run_program([*shlex.split(ls), "--json"]).stdout)
    assert {each["name"]: each["state"] for each in found} == dict.fromkeys(
        ("press-1", "press-2", "press-3"), "connected"
    )
    # ssh has come by the name of the tunnel, and by no port.
    audit = [*shlex.split(ls.replace(" ls ", " audit ")), "--json"]

    def connections_of_ssh() -> list[dict[str, Any]]:
        return [
            each
            for each in json.loads(run_program(audit).stdout)
            if (each["kind"], each["service_id"]) == ("connection", "SSH")
        ]

    eventually(lambda: bool(connections_of_ssh()))
    (by_ssh,) = connections_of_ssh()
    assert by_ssh["peer"].startswith("pid=")
    assert by_ssh["tunnel"] == "press-1"

    # The fleet can be changed while it runs.
    fleet = Path(ready["fleet"])
    text = fleet.read_text()
    fleet.write_text(text[: text.rindex("[[tunnel]]")])
    eventually(lambda: '"removed": ["press-3"]' in Path(ready["log"]).read_text())

    assert running.end() == (0, "")
    assert not fleet.parent.exists()


def test_it_is_private(running: Running) -> None:
    folder = Path(running.ready()["fleet"]).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("press-1", "press-2", "press-3"):
        assert (folder / "tokens" / name).stat().st_mode & 0o777 == 0o600
    log = (folder / "gateway.log").read_text()
    assert (folder / "tokens" / "press-1").read_text() not in log


def test_people_get_lines_that_fit_a_terminal() -> None:
    # As somebody has it who has installed it: its name is enough.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = run_program(
        [*PROGRAM, "quickstart", "--no-ssh", "--seconds", "0"],
        env={**os.environ, "PATH": path},
        timeout_seconds=WAIT_SECONDS,
    )
    lines = found.stdout.decode().splitlines()
    assert "a gateway are up" in lines[0]
    assert not [line for line in lines if len(line) > 80]
    assert "Ctrl-C ends all of it." in lines
    assert not [line for line in lines if line.startswith("  ssh")]


def test_a_taken_address_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*PROGRAM, "quickstart", "--no-ssh", "--metrics", address],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    # Nothing else that the gateway has said, such as of a state that it has made.
    assert done.stderr == (
        "tunnelfleet: the gateway does not come up: the administration server cannot listen on "
        f"http://{address}: Address already in use; choose another address\n"
    )


def test_its_page_is_for_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--metrics", "0.0.0.0:8080"]) == 2
    assert "this machine alone, without a token; write 127.0.0.1:8080" in capsys.readouterr().err


@pytest.mark.programs("ssh", "sshd", "ssh-keygen")
def test_a_folder_with_blanks_in_its_name() -> None:
    # A short one: a Unix socket has to fit.
    with tempfile.TemporaryDirectory(prefix="a b ") as folder:
        running = Running("--json", env={**os.environ, "TMPDIR": folder})
        try:
            commands = [each["command"] for each in running.ready()["try"]]
            (ssh,) = [each for each in commands if each.startswith("ssh ")]
            found = run_program([*shlex.split(ssh), "echo through the tunnel"])
            assert found.stdout == b"through the tunnel\n"
            assert running.end() == (0, "")
        finally:
            running.close()


def test_a_gateway_that_ends_ends_it(running: Running) -> None:
    ready = running.ready()
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    for child in children.read_text().split():
        if b"up" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            os.kill(int(child), signal.SIGKILL)
    _, errors = running.process.communicate(timeout=WAIT_SECONDS)
    assert running.process.returncode == 1
    assert "the gateway has ended" in errors
    assert not Path(ready["fleet"]).exists()


def test_a_device_says_who_it_is_and_repeats_nothing() -> None:
    with WebServer("press<1>") as server:
        assert "Hello from press&lt;1&gt;" in read(f"http://{server.address}/?<script>")


@pytest.mark.programs("ssh-keygen")
def test_an_sshd_that_does_not_start_says_why(tmp_path: Path) -> None:
    keygen = run_program(["sh", "-c", "command -v ssh-keygen"]).stdout.decode().strip()
    sshd = tmp_path / "sshd"
    sshd.write_text('#!/bin/sh\necho "no room" > "$3"\nexit 1\n')
    sshd.chmod(0o755)
    with pytest.raises(TunnelError, match="sshd does not start: no room"):
        Sshd(tmp_path, (str(sshd), keygen)).__enter__()


def test_without_openssh_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(devices, "EXTRA_PATH", "")
    assert devices.find_sshd() is None


def test_a_fleet_with_mistakes_does_not_come_up(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text("[gateway]\nnam = 1\n")
    with (
        GatewayProcess(fleet, tmp_path) as gateway,
        pytest.raises(TunnelError, match="name"),
    ):
        gateway.wait_ready({("press-1", "SSH")}, WAIT_SECONDS)
