"""``tunnelfleet service`` as a process: what it prints, what it is told, how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import websocket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_SECONDS = 20.0
COMMAND = [sys.executable, "-m", "tunnelfleet.runtime.cli.service"]
ANY_PORT = ["--listen", "127.0.0.1:0"]


class Process:
    """A running service command."""

    def __init__(self, *arguments: str) -> None:
        self.popen = subprocess.Popen(
            [*COMMAND, *ANY_PORT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._partial = b""

    def line(self) -> str:
        """Return the next line of stdout, waiting so long and no longer."""
        assert self.popen.stdout is not None
        descriptor, deadline = self.popen.stdout.fileno(), time.monotonic() + WAIT_SECONDS
        while b"\n" not in self._partial:
            ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no line in time; so far {self._partial!r}"
            chunk = os.read(descriptor, 65_536)
            assert chunk, f"it ended: {self.popen.communicate()[1].decode()}"
            self._partial += chunk
        line, _, self._partial = self._partial.partition(b"\n")
        return line.decode()

    def object(self, event: str) -> dict[str, Any]:
        """Return the next JSON line of this event, passing over others."""
        while True:
            found = json.loads(self.line())
            if found["event"] == event:
                return dict(found)

    def tell(self, command: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(command.encode() + b"\n")
        self.popen.stdin.flush()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit status and stderr."""
        self.popen.send_signal(number)
        _, errors = self.popen.communicate(timeout=WAIT_SECONDS)
        return self.popen.returncode, errors.decode()

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.close()


def start(processes: list[Process], *arguments: str) -> Process:
    processes.append(Process(*arguments))
    return processes[-1]


def connect(ready: dict[str, Any], mode: str) -> websocket.WebSocket:
    context = ssl.create_default_context(cafile=ready["ca"]) if ready["ca"] else None
    return websocket.create_connection(
        f"{ready['endpoint']}/tunnel?local-proxy-mode={mode}",
        header=[f"access-token: {ready['tunnels'][0][f'{mode}_token']}"],
        subprotocols=["aws.iot.securetunneling-3.0"],
        sslopt=None if context is None else {"context": context},
        timeout=WAIT_SECONDS,
    )


def test_json_begins_with_all_that_a_client_needs(processes: list[Process]) -> None:
    process = start(processes, "--json", "--tunnel", "a=SSH,HTTP", "--tunnel", "b")
    ready = json.loads(process.line())
    assert ready["event"] == "ready"
    assert [(each["name"], each["services"]) for each in ready["tunnels"]] == [
        ("a", ["SSH", "HTTP"]),
        ("b", []),
    ]
    client = connect(ready, "source")
    assert client.recv() == bytes.fromhex("000d08053203535348320448545450")
    assert process.object("client_connected")["mode"] == "source"
    client.sock.close()
    assert process.object("client_disconnected")["tunnel"] == "a"
    assert process.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly_with_clients_connected(
    processes: list[Process], number: int
) -> None:
    process = start(processes, "--json", "--plain")
    ready = process.object("ready")
    assert (ready["ca"], ready["tunnels"][0]["services"]) == (None, ["SSH"])
    client = connect(ready, "destination")
    client.recv()
    assert process.end(number) == (0, "")
    assert client.sock.recv(1) == b""
    client.sock.close()


def test_people_get_endpoint_ca_and_tokens(processes: list[Process]) -> None:
    process = start(processes, "--tunnel", "press-4=SSH")
    lines = []
    while not lines or "Ctrl-C" not in lines[-1]:
        lines.append(process.line())
    text = "\n".join(lines)
    for wanted in ("wss://127.0.0.1:", "ca.pem", "press-4", "SSH", "source", "destination"):
        assert wanted in text
    assert process.end()[0] == 0


def test_the_made_certificate_is_gone_afterwards_and_kept_where_told(
    processes: list[Process], tmp_path: Path
) -> None:
    kept = tmp_path / "kept.pem"
    process = start(processes, "--json", "--ca-out", str(kept))
    ready = process.object("ready")
    assert ready["ca"] == str(kept)
    connect(ready, "source").sock.close()
    process.end()
    assert kept.is_file()


def test_tells_of_a_refused_client_without_its_token(processes: list[Process]) -> None:
    process = start(processes, "--json", "--plain")
    ready = process.object("ready")
    token = ready["tunnels"][0]["source_token"]
    connect(ready, "source").sock.close()
    with pytest.raises(websocket.WebSocketBadStatusException):
        connect(ready, "source")
    refused = process.object("client_refused")
    assert "previously used" in refused["detail"]
    assert token not in json.dumps(refused)


def test_control_takes_commands_from_stdin(processes: list[Process]) -> None:
    process = start(processes, "--json", "--plain", "--control")
    ready = process.object("ready")
    client = connect(ready, "source")
    client.recv()
    process.tell("drop tunnel-1 source")
    assert process.object("control")["ok"] is True
    with pytest.raises(ConnectionResetError):
        client.sock.recv(1)
    client.sock.close()
    process.tell("open more=A,B")
    assert process.object("tokens")["services"] == ["A", "B"]
    process.tell("rotate tunnel-1 source")
    rotated = process.object("tokens")
    assert rotated["source_token"] != ready["tunnels"][0]["source_token"]
    process.tell("destroy everything")
    answer = process.object("control")
    assert (answer["ok"], "help" in answer["detail"]) == (False, True)
    assert process.end() == (0, "")


def test_the_end_of_stdin_is_not_the_end_of_the_service(processes: list[Process]) -> None:
    process = start(processes, "--json", "--plain", "--control")
    ready = process.object("ready")
    process.tell("list")
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    process.popen.stdin = None
    assert process.object("control")["ok"] is True
    connect(ready, "source").sock.close()
    assert process.end() == (0, "")


def test_bandwidth_is_taken(processes: list[Process]) -> None:
    process = start(processes, "--json", "--plain", "--bandwidth", "800kbit/s")
    process.object("ready")
    assert process.object("throttled")["detail"] == "100000 bytes/s"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--bogus"], "bogus"),
        (["--listen", "8443"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--plain", "--listen", "0.0.0.0:0"], "loopback"),
        (["--bandwidth", "fast"], "rate"),
        (["--tunnel", "=SSH"], "name"),
        (["--tunnel", "a", "--tunnel", "a"], "open already"),
        (["--cert", "/nowhere.pem"], "key"),
        (["--plain", "--ca-out", "x"], "--ca-out"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], hint: str) -> None:
    given = arguments if "--listen" in arguments else [*ANY_PORT, *arguments]
    done = subprocess.run(
        [*COMMAND, *given], capture_output=True, timeout=WAIT_SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert hint in done.stderr.decode()


def test_a_taken_port_is_one_line_and_status_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--listen", f"127.0.0.1:{port}"],
            capture_output=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert str(port) in done.stderr.decode()
