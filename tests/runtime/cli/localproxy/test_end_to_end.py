"""`tunnelfleet localproxy` as a user runs it: two processes and the embedded service."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

PROGRAM = "import sys; from tunnelfleet.runtime.cli import main; sys.exit(main())"
DEADLINE_SECONDS = 120.0
PAYLOAD = bytes(range(256)) * 1024


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65_536):
            self.request.sendall(data)


@contextmanager
def echo_server() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Program:
    """A running `tunnelfleet localproxy`, with its output so far."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        inherited = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("AWSIOT_") and not name.lower().endswith("_proxy")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "localproxy", *arguments],
            cwd=folder,
            env={**inherited, **environ},
            bufsize=0,  # select() does not see what a buffer holds
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.lines: list[str] = []

    def wait_for_line(self, part: str) -> str:
        """The first line of stdout with `part` in it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            left_seconds = max(0.0, deadline - time.monotonic())
            ready = select.select([self.process.stdout], [], [], left_seconds)[0]
            line = os.fsdecode(self.process.stdout.readline()) if ready else ""
            if not line:
                pytest.fail(f"no line with {part!r} in {self.lines}; {self.finish()}")
            self.lines.append(line.rstrip("\n"))
            if part in line:
                return self.lines[-1]

    def finish(self, number: int | None = signal.SIGTERM) -> tuple[int, str, str]:
        """Signal it, and return its status and what else it wrote."""
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, out.decode(), err.decode()


@contextmanager
def running_localproxy(folder: Path, *arguments: str, **environ: str) -> Iterator[Program]:
    program = Program(folder, *arguments, **environ)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


def echoes(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS) as connection:
        sender = threading.Thread(target=connection.sendall, args=(PAYLOAD,))
        sender.start()
        received = bytearray()
        while len(received) < len(PAYLOAD):
            chunk = connection.recv(65_536)
            if not chunk:
                break
            received += chunk
        sender.join()
        return bytes(received)


def said(err: str) -> list[str]:
    """What was said on stderr, without the log: a busy machine has slow turns."""
    return [line for line in err.splitlines() if not line.startswith("[")]


def port_in(line: str) -> int:
    return int(line.rpartition(":")[2])


def test_both_ends_over_tls(tmp_path: Path) -> None:
    with echo_server() as echo_port, TunnelService(state_dir=tmp_path / "state") as service:
        tokens = service.open_tunnel("t", ["SSH", "HTTP"])
        authorities = ["-e", service.endpoint, "-c", str(service.ca_path)]
        mapping = f"SSH={echo_port},HTTP=localhost:{echo_port}"
        destination = running_localproxy(
            tmp_path,
            *authorities,
            "-d",
            mapping,
            AWSIOT_TUNNEL_ACCESS_TOKEN=tokens.destination_token,
        )
        source = running_localproxy(
            tmp_path, *authorities, "-m", "source", "-v6", "-t", tokens.source_token
        )
        with destination as far, source as near:
            ports = [port_in(near.wait_for_line("listening on 127.0.0.1:")) for _ in range(2)]
            far.wait_for_line("connected")
            assert [echoes(port) for port in ports] == [PAYLOAD, PAYLOAD]
            command_line = Path(f"/proc/{near.process.pid}/cmdline")
            if command_line.exists():
                assert tokens.source_token not in command_line.read_text()
            near_end, far_end = near.finish(), far.finish(signal.SIGINT)
        assert near_end[0] == 0, near_end
        assert far_end[0] == 0, far_end
        assert said(near_end[2])[0].startswith("warning: an access token on the command line")
        assert {line.split()[0] for line in near.lines if "listening" in line} == {"SSH", "HTTP"}
        assert far.lines[0] == f"SSH connects to 127.0.0.1:{echo_port}"
        assert any("channel id " in line and "SSH, HTTP" in line for line in near.lines)
        written = "".join([*near.lines, *far.lines, *near_end[1:], *far_end[1:]])
        assert tokens.source_token not in written
        assert tokens.destination_token not in written


def test_it_comes_back_when_the_connection_is_dropped(tmp_path: Path) -> None:
    with echo_server() as echo_port, TunnelService(tls=False) as service:
        tokens = service.open_tunnel("t")
        far_options = ["-e", service.endpoint, "-d", str(echo_port), "--json"]
        near_options = ["-e", service.endpoint, "-s", "0"]
        with (
            running_localproxy(
                tmp_path, *far_options, AWSIOT_TUNNEL_ACCESS_TOKEN=tokens.destination_token
            ) as far,
            running_localproxy(
                tmp_path, *near_options, AWSIOT_TUNNEL_ACCESS_TOKEN=tokens.source_token
            ) as near,
        ):
            port = port_in(near.wait_for_line("listening on"))
            near.wait_for_line("connected")
            far.wait_for_line('"state": "connected"')
            service.drop("t")
            for program in (near, far):
                program.wait_for_line("backoff")
                program.wait_for_line("connected")
            assert echoes(port) == PAYLOAD
            far_end = far.finish()
        assert far_end[0] == 0
        events = [json.loads(line) for line in [*far.lines, *far_end[1].splitlines()]]
        assert {"tunnel_state_changed", "service_ids_received", "stream_opened"} <= {
            event["event"] for event in events
        }


def test_a_token_that_was_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    with TunnelService(tls=False) as service:
        tokens = service.open_tunnel("t")
        options = ["-e", service.endpoint, "-m", "source"]
        token = {"AWSIOT_TUNNEL_ACCESS_TOKEN": tokens.source_token}
        with running_localproxy(tmp_path, *options, **token) as first:
            first.wait_for_line("connected")
            with running_localproxy(tmp_path, *options, **token) as second:
                status, _, err = second.finish(None)
    assert status == 1
    (line,) = said(err)
    assert line.startswith("tunnelfleet: the tunnel was refused: ")
    assert "client token" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-e", "h", "-d", "22"], "no access token"),
        (["-t", "t", "-e", "h", "-c", "none.pem", "-s", "1", "-v", "0"], "none.pem"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    with running_localproxy(tmp_path, *arguments) as program:
        status, out, err = program.finish(None)
    assert (status, out) == (2, "")
    assert err.startswith("tunnelfleet: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def plain_service() -> Iterator[TunnelService]:
    with TunnelService(tls=False) as service:
        yield service


@pytest.mark.parametrize(
    ("services", "mode", "arguments", "message"),
    [
        (["SSH", "WEB"], "source", ["-s", "0"], "give each service its address (SSH=..., WEB=...)"),
        (["SSH", "WEB"], "source", ["-m", "source", "-y", "V1"], "V1 is for a tunnel with one"),
        (["SSH"], "source", ["-s", "X=0"], "has the services SSH, and what is mapped is X"),
        (["SSH"], "destination", ["-d", "X=9"], "has the services SSH, and what is mapped is X"),
        ([], "destination", ["-d", "X=9"], "has the services none"),
        (["SSH"], "destination", ["-m", "destination"], "give -d SSH=HOST:PORT"),
    ],
)
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_mapping_that_cannot_work_ends_it(
    tmp_path: Path,
    plain_service: TunnelService,
    services: list[str],
    mode: str,
    arguments: list[str],
    message: str,
    json_option: list[str],
) -> None:
    tokens = plain_service.open_tunnel("t", services)
    token = tokens.source_token if mode == "source" else tokens.destination_token
    options = ["-e", plain_service.endpoint, *arguments, *json_option]
    with running_localproxy(tmp_path, *options, AWSIOT_TUNNEL_ACCESS_TOKEN=token) as program:
        status, out, err = program.finish(None)
    assert status == 1
    (line,) = said(err)
    assert line.startswith("tunnelfleet: ")
    assert message in line
    if not json_option:
        assert "connected" not in out


def test_mappings_of_the_working_directory_are_for_services_of_the_tunnel(
    tmp_path: Path, plain_service: TunnelService
) -> None:
    (tmp_path / "config").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken, echo_server() as echo_port:
        # Nobody may listen on this port, and nobody has to.
        app = f"port = {taken.getsockname()[1]}\nname = app\n[server]\nport = 8080\n"
        (tmp_path / "config" / "app.ini").write_text(app)
        tokens = plain_service.open_tunnel("t", ["SSH", "WEB"])
        endpoint = ["-e", plain_service.endpoint]
        far = running_localproxy(
            tmp_path,
            *(*endpoint, "-d", f"SSH={echo_port},WEB={echo_port}"),
            AWSIOT_TUNNEL_ACCESS_TOKEN=tokens.destination_token,
        )
        (tmp_path / "config" / "ours.ini").write_text("SSH = 0\n")
        near = running_localproxy(
            tmp_path, *endpoint, "-m", "source", AWSIOT_TUNNEL_ACCESS_TOKEN=tokens.source_token
        )
        with far as destination, near as source:
            destination.wait_for_line("connected")
            ports = {
                line.split()[0]: port_in(line)
                for line in [source.wait_for_line("listening on 127.0.0.1:") for _ in range(2)]
            }
            assert ports.keys() == {"SSH", "WEB"}
            assert [echoes(port) for port in ports.values()] == [PAYLOAD, PAYLOAD]
            status, _, err = source.finish()
        assert status == 0
        assert said(err) == ["note: mappings of this tunnel's services are looked for in ./config"]


def test_without_the_service_s_authority_it_names_the_option(tmp_path: Path) -> None:
    with TunnelService(state_dir=tmp_path / "state") as service:
        tokens = service.open_tunnel("t")
        options = ["-e", service.endpoint, "-s", "0"]
        token = {"AWSIOT_TUNNEL_ACCESS_TOKEN": tokens.source_token}
        with running_localproxy(tmp_path, *options, **token) as program:
            program.wait_for_line("backoff")
            program.wait_for_line("backoff")
            status, _, err = program.finish()
    assert status == 0
    assert said(err) == [
        "note: if the service's authority is one of your own, give its certificate with -c FILE"
    ]
