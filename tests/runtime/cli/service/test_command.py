"""``tunnelfleet service`` as a process: what it prints, what it is told, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import websocket

from tests.support.commands import WAIT_SECONDS
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMAND = [sys.executable, "-m", "tunnelfleet.runtime.cli.service.command"]
LOCALPROXY = [sys.executable, "-m", "tunnelfleet.runtime.cli", "localproxy"]
ANY_PORT = ["--listen", "127.0.0.1:0"]


class Process:
    """A running service command."""

    def __init__(self, *arguments: str, command: Sequence[str] = (), **more: Any) -> None:
        listen = [] if command or "--listen" in arguments else ANY_PORT
        self.popen = subprocess.Popen(
            [*(command or COMMAND), *listen, *arguments],
            **more,
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


def start_service(processes: list[Process], *arguments: str, **more: Any) -> Process:
    processes.append(Process(*arguments, **more))
    return processes[-1]


def connect_websocket(ready: dict[str, Any], mode: str) -> websocket.WebSocket:
    context = ssl.create_default_context(cafile=ready["ca"]) if ready["ca"] else None
    return websocket.create_connection(
        f"{ready['endpoint']}/tunnel?local-proxy-mode={mode}",
        header=[f"access-token: {ready['tunnels'][0][f'{mode}_token']}"],
        subprotocols=["aws.iot.securetunneling-3.0"],
        sslopt=None if context is None else {"context": context},
        timeout=WAIT_SECONDS,
    )


def test_json_begins_with_all_that_a_client_needs(processes: list[Process]) -> None:
    process = start_service(processes, "--json", "--tunnel", "a=SSH,HTTP", "--tunnel", "b")
    ready = json.loads(process.line())
    assert ready["event"] == "ready"
    assert [(each["name"], each["services"]) for each in ready["tunnels"]] == [
        ("a", ["SSH", "HTTP"]),
        ("b", []),
    ]
    client = connect_websocket(ready, "source")
    assert client.recv() == bytes.fromhex("000d08053203535348320448545450")
    assert process.object("client_connected")["mode"] == "source"
    client.sock.close()
    assert process.object("client_disconnected")["tunnel"] == "a"
    assert process.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly_with_clients_connected(
    processes: list[Process], number: int
) -> None:
    process = start_service(processes, "--json", "--plain")
    ready = process.object("ready")
    assert (ready["ca"], ready["tunnels"][0]["services"]) == (None, ["SSH"])
    client = connect_websocket(ready, "destination")
    client.recv()
    assert process.end(number) == (0, "")
    assert client.sock.recv(1) == b""
    client.sock.close()


def test_people_get_endpoint_ca_and_tokens(processes: list[Process]) -> None:
    process = start_service(processes, "--tunnel", "press-4=SSH")
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
    process = start_service(processes, "--json", "--ca-out", str(kept))
    ready = process.object("ready")
    assert ready["ca"] == str(kept)
    connect_websocket(ready, "source").sock.close()
    process.end()
    assert kept.is_file()


def test_tells_of_a_refused_client_without_its_token(processes: list[Process]) -> None:
    process = start_service(processes, "--json", "--plain")
    ready = process.object("ready")
    token = ready["tunnels"][0]["source_token"]
    connect_websocket(ready, "source").sock.close()
    with pytest.raises(websocket.WebSocketBadStatusException):
        connect_websocket(ready, "source")
    refused = process.object("client_refused")
    assert "previously used" in refused["detail"]
    assert token not in json.dumps(refused)


def test_control_takes_commands_from_stdin(processes: list[Process]) -> None:
    process = start_service(processes, "--json", "--plain", "--control")
    ready = process.object("ready")
    client = connect_websocket(ready, "source")
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
    process = start_service(processes, "--json", "--plain", "--control")
    ready = process.object("ready")
    process.tell("list")
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    process.popen.stdin = None
    assert process.object("control")["ok"] is True
    connect_websocket(ready, "source").sock.close()
    assert process.end() == (0, "")


def test_bandwidth_is_taken(processes: list[Process]) -> None:
    process = start_service(processes, "--json", "--plain", "--bandwidth", "800kbit/s")
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
        (["--name", "a b"], "host name"),
        (["--name", "relay.example.com:8443"], "without a port"),
        (["--name", "0.0.0.0"], "no address"),
        (["--plain", "--name", "a.example"], "names are for"),
        (["--plain", "--cert", "a.pem", "--key", "b.pem"], "turns off"),
        (["--mqtt-ca", "a.pem", "--mqtt-key", "b.pem"], "--mqtt-ca, --mqtt-key: only with --mqtt"),
        (["--region", "eu-west-1"], "--region: only with --management HOST:PORT"),
        (["--tunnel", "a=,"], "'a=,' has a service without a name"),
        (["--tunnel", "a=SSH,,HTTP"], "a service without a name"),
        (["--tunnel", "a=SSH,"], "a service without a name"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "--listen" in arguments else [*ANY_PORT, *arguments]
    assert main(["service", *given]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert hint in err


def test_wrong_usage_of_the_process_is_the_same() -> None:
    done = subprocess.run(
        [*COMMAND, "--bogus"], capture_output=True, timeout=WAIT_SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert "bogus" in done.stderr.decode()


def test_a_copy_of_the_ca_that_cannot_be_written_is_one_line_and_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "ca.pem"
    assert main(["service", *ANY_PORT, "--ca-out", str(place)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"tunnelfleet: --ca-out: cannot write {place}: Not a directory; name a")
    assert err.count("\n") == 1


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


# the commands that connect


def _endpoint_and_commands(process: Process) -> tuple[str, list[str]]:
    lines = []
    while not lines or "Ctrl-C" not in lines[-1]:
        lines.append(process.line())
    commands = [line.strip() for line in lines if "tunnelfleet localproxy" in line]
    return lines[0], commands


@pytest.mark.parametrize("plain", [False, True], ids=["tls", "plain"])
def test_both_commands_are_ready_to_paste(processes: list[Process], plain: bool) -> None:
    options = ["--plain"] if plain else []
    process = start_service(processes, "--json", "--tunnel", "a=SSH,VNC", *options)
    ready = process.object("ready")
    (tunnel,) = ready["tunnels"]
    for mode, word in (("source", "listening"), ("destination", "connected")):
        text = tunnel[f"{mode}_command"]
        variable, program, name, *arguments = shlex.split(text)
        assert variable == f"AWSIOT_TUNNEL_ACCESS_TOKEN={tunnel[f'{mode}_token']}"
        assert (program, name) == ("tunnelfleet", "localproxy")
        assert not any(tunnel[f"{mode}_token"] in each for each in arguments)
        # A free port in the place of the printed one, which somebody may use on this machine.
        arguments = [re.sub(r"=55\d\d", "=0", each) for each in arguments]
        environment = {**os.environ, **dict([variable.split("=", 1)])}
        client = start_service(processes, *arguments, command=LOCALPROXY, env=environment)
        lines = [client.line()]
        while word not in lines[-1]:
            lines.append(client.line())
        assert process.object("client_connected")["mode"] == mode
        client.end()
    assert process.end()[0] == 0


def test_people_see_both_commands_of_each_tunnel(processes: list[Process]) -> None:
    process = start_service(processes, "--tunnel", "a=SSH,HTTP", "--tunnel", "b")
    endpoint, commands = _endpoint_and_commands(process)
    address = endpoint.removeprefix("tunneling service at wss://").split(" ")[0]
    assert len(commands) == 4
    for command in commands:
        assert f" -e {address} -c /" in command
    assert commands[0].endswith("-d SSH=127.0.0.1:22,HTTP=127.0.0.1:80")
    assert commands[1].endswith("-s SSH=5555,HTTP=5556")
    assert commands[2].endswith("-d 127.0.0.1:22")
    assert commands[3].endswith("-s 5557")
    process.end()


# signals


def test_sighup_takes_the_certificate_anew(processes: list[Process], tmp_path: Path) -> None:
    old = ensure_certificate(tmp_path / "old", "127.0.0.1")
    new = ensure_certificate(tmp_path / "new", "127.0.0.1", ["new.example"])
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(old.certificate, cert)
    shutil.copy(old.private_key, key)
    process = start_service(processes, "--json", "--cert", str(cert), "--key", str(key))
    ready = {**process.object("ready"), "ca": str(old.ca)}
    standing = connect_websocket(ready, "source")
    standing.recv()
    cert.write_bytes(b"half a certificate")
    process.popen.send_signal(signal.SIGHUP)
    assert str(cert) in process.object("certificate_refused")["detail"]
    connect_tls(ready).close()
    shutil.copy(new.certificate, cert)
    shutil.copy(new.private_key, key)
    process.popen.send_signal(signal.SIGHUP)
    assert "new.example" in process.object("certificate_reloaded")["detail"]
    with pytest.raises(ssl.SSLCertVerificationError):
        connect_tls(ready)
    connect_tls({**ready, "ca": str(new.ca)}).close()
    standing.ping("still here")
    assert standing.recv_frame().data == b"still here"
    standing.sock.close()
    assert process.end() == (0, "")


def test_a_certificate_from_pipes_stays(processes: list[Process], tmp_path: Path) -> None:
    """As `--cert <(command)` of a shell: what has been read is not there to be read again."""
    files = ensure_certificate(tmp_path, "127.0.0.1")
    with pipe_with(files.certificate) as cert, pipe_with(files.private_key) as key:
        process = start_service(
            processes,
            *("--json", "--control", "--listen", "0.0.0.0:0"),
            *("--cert", f"/dev/fd/{cert}", "--key", f"/dev/fd/{key}"),
            pass_fds=(cert, key),
        )
    ready = process.object("ready")
    # What the certificate is for, of all the addresses.
    assert ready["endpoint"].startswith("wss://127.0.0.1:")
    ready["ca"] = str(files.ca)
    connect_tls(ready).close()
    process.popen.send_signal(signal.SIGHUP)
    refused = process.object("certificate_refused")["detail"]
    assert refused.startswith("the one that is in use stays: ")
    assert f"/dev/fd/{cert} is a pipe, which can be read only once" in refused
    assert "\n" not in refused
    connect_tls(ready).close()
    # The fault that starts it anew has nothing else, either.
    process.tell("restart")
    assert process.object("control")["ok"]
    connect_tls(ready).close()
    assert process.end() == (0, "")


@contextlib.contextmanager
def pipe_with(path: Path) -> Iterator[int]:
    """The end from which the content of a file can be read, once."""
    reader, writer = os.pipe()
    try:
        os.write(writer, path.read_bytes())
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


def connect_tls(ready: dict[str, Any], name: str = "127.0.0.1") -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=ready["ca"])
    host, _, port = ready["endpoint"].removeprefix("wss://").rpartition(":")
    tcp = socket.create_connection((host.strip("[]"), int(port)), timeout=WAIT_SECONDS)
    try:
        return context.wrap_socket(tcp, server_hostname=name)
    except ssl.SSLError:
        tcp.close()
        raise


def heed_sighup() -> None:
    """In the child: whoever runs the tests may have them ignore the signal, as nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_sighup_ends_it_in_order_without_a_given_certificate(processes: list[Process]) -> None:
    process = start_service(processes, "--json", preexec_fn=heed_sighup)
    ready = process.object("ready")
    assert process.end(signal.SIGHUP) == (0, "")
    assert not Path(ready["ca"]).parent.exists()


def test_sighup_that_was_to_be_ignored_is_ignored(processes: list[Process]) -> None:
    process = start_service(
        processes,
        "--json",
        "--control",
        "--plain",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.object("ready")
    process.popen.send_signal(signal.SIGHUP)
    process.tell("list")
    assert process.object("control")["ok"] is True
    assert process.end() == (0, "")


# where it can be reached


def test_on_every_address_it_prints_what_its_certificate_is_for(
    processes: list[Process],
) -> None:
    process = start_service(
        processes, "--json", "--listen", "0.0.0.0:0", "--name", "relay.example", "--name", "::2"
    )
    ready = process.object("ready")
    hosts = [each.removeprefix("wss://").rpartition(":")[0] for each in ready["endpoints"]]
    assert hosts[:2] == ["relay.example", "[::2]"]
    assert hosts[-1] == "127.0.0.1"
    assert ready["endpoint"] == ready["endpoints"][0]
    here = {**ready, "endpoint": ready["endpoints"][-1]}
    for name in ("relay.example", "::2", *(host for host in hosts[2:]), "localhost"):
        connect_tls(here, name).close()
    assert "0.0.0.0" not in json.dumps(ready)
    assert process.end()[0] == 0


def test_on_every_address_clients_can_use_the_endpoint(processes: list[Process]) -> None:
    process = start_service(processes, "--json", "--listen", "0.0.0.0:0")
    ready = process.object("ready")
    for endpoint in ready["endpoints"]:
        host = endpoint.removeprefix("wss://").rpartition(":")[0]
        connect_tls({**ready, "endpoint": endpoint}, host).close()
    process.end()


# what stays


def test_state_keeps_authority_and_certificate_over_a_restart(
    processes: list[Process], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first = start_service(processes, "--json", "--state", str(state)).object("ready")
    assert first["ca"] == str(state / "ca.pem")
    names = {path.name for path in state.iterdir()}
    assert {"ca.pem", "server.pem", "server.key", "state.db"} <= names
    kept = {path.name: path.read_bytes() for path in certificate_files(state)}
    processes[0].popen.kill()
    process = start_service(processes, "--json", "--state", str(state), "--name", "127.0.0.1")
    connect_tls({**process.object("ready"), "ca": first["ca"]}).close()
    assert {path.name: path.read_bytes() for path in certificate_files(state)} == kept
    process.end()
    process = start_service(processes, "--json", "--state", str(state), "--name", "other.example")
    ready = process.object("ready")
    assert (state / "ca.pem").read_bytes() == kept["ca.pem"]
    connect_tls(ready, "other.example").close()
    process.end()


def certificate_files(state: Path) -> list[Path]:
    return [path for path in state.iterdir() if not path.name.startswith("state.db")]


def test_a_state_folder_that_cannot_be_is_one_line_that_fits(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*COMMAND, *ANY_PORT, "--state", str(tmp_path / "file" / "state")],
        capture_output=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert str(tmp_path / "file") in done.stderr.decode()
    assert "folder" in done.stderr.decode()


def test_ca_out_replaces_a_link_and_does_not_follow_it(
    processes: list[Process], tmp_path: Path
) -> None:
    other, out = tmp_path / "other", tmp_path / "ca.pem"
    other.write_text("untouched")
    out.symlink_to(other)
    process = start_service(processes, "--json", "--ca-out", str(out))
    connect_tls(process.object("ready")).close()
    assert other.read_text() == "untouched"
    assert not out.is_symlink()
    process.end()


def test_a_key_that_others_can_read_is_told(processes: list[Process], tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path / "tls", "127.0.0.1")
    link = tmp_path / "key.pem"
    link.symlink_to(files.private_key)
    arguments = ["--json", "--cert", str(files.certificate), "--key", str(link)]
    process = start_service(processes, *arguments)
    process.object("ready")
    assert process.end() == (0, "")
    files.private_key.chmod(0o640)
    process = start_service(processes, *arguments)
    process.object("ready")
    status, errors = process.end()
    assert status == 0
    assert errors.startswith("warning: ")
    assert str(link) in errors


def test_the_next_start_removes_what_a_killed_one_left_and_no_living_ones(
    processes: list[Process], tmp_path: Path
) -> None:
    more = {"env": {**os.environ, "TMPDIR": str(tmp_path)}}
    (tmp_path / "tunnelfleet-service-of-somebody").mkdir()
    killed = start_service(processes, "--json", **more)
    left = Path(killed.object("ready")["ca"]).parent
    living = start_service(processes, "--json", **more)
    ready = living.object("ready")
    killed.popen.kill()
    killed.popen.wait(WAIT_SECONDS)
    assert (left / "server.key").exists()
    start_service(processes, "--json", "--plain", **more).object("ready")
    assert not left.exists()
    connect_tls(ready).close()
    assert (tmp_path / "tunnelfleet-service-of-somebody").is_dir()


# what clients send


def test_a_clients_id_cannot_forge_a_line(processes: list[Process]) -> None:
    process = start_service(processes, "--plain", "--tunnel", "a=SSH")
    endpoint, commands = _endpoint_and_commands(process)
    token = shlex.split(commands[1])[0].partition("=")[2]
    ready = {
        "endpoint": endpoint.removeprefix("tunneling service at ").split(" ")[0],
        "ca": None,
        "tunnels": [{"source_token": token}],
    }
    client = connect_websocket(ready, "source")
    client.recv()
    assert "client connected" in process.line()
    name = b"x\x1b[2J\n00:00:00 a source client connected " + b"y" * 300
    body = b"\x08\x02\x10\x01\x2a" + bytes([len(name) & 0x7F | 0x80, len(name) >> 7]) + name
    client.send_binary(len(body).to_bytes(2, "big") + body)
    line = process.line()
    assert "protocol error" in line
    assert line.isprintable()
    assert len(line) < 300
    assert "client disconnected" in process.line()
    client.sock.close()
    process.end()
