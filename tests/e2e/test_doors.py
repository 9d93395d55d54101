"""The front doors of a real gateway, with the programs that people use them with."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.gateway import GatewayRig, UpProcess
from tests.support.programs import Sshd, require_program, run_program
from tests.support.rig import receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.web import web_server
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = [sys.executable, "-m", "tunnelfleet"]
"""As it is started by people: `connect` has a short way that leaves the command line out."""
IDLE_CLIENTS = 2_000
DOOR = 'door = "127.0.0.1:0"'
CURL_RESET = (55, 56)
"""The connection was reset while curl sent, or while it received."""
ONLY_DOOR = '{ SSH = "door" }'


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GatewayRig]:
    with GatewayRig(tmp_path / "g", gateway=DOOR) as made:
        yield made


@pytest.fixture
def web() -> Iterator[TcpAddress]:
    """A web server that answers every question."""
    with web_server() as address:
        yield address


def door_of(gateway: UpProcess) -> str:
    address: str = gateway.wait_event("door")["address"]
    return address


def join(
    rig: GatewayRig, *arguments: str, stdin: bytes = b"", timeout_seconds: float = WAIT_SECONDS
) -> subprocess.CompletedProcess[bytes]:
    """Run `tunnelfleet connect` on the gateway's machine."""
    return subprocess.run(
        [*PROGRAM, "connect", *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout_seconds,
        env=environment(rig),
        check=False,
    )


def environment(rig: GatewayRig) -> dict[str, str]:
    return {**os.environ, "RUNTIME_DIRECTORY": str(rig.folder.parent / "state")}


@pytest.mark.programs("curl")
class TestCurl:
    @pytest.mark.parametrize(
        "proxy",
        [
            ["--proxy", "socks5h://{door}"],
            ["--socks5-hostname", "{door}"],
            ["--proxytunnel", "--proxy", "http://{door}"],
        ],
    )
    def test_a_page_through_a_tunnel(
        self, rig: GatewayRig, web: TcpAddress, proxy: list[str]
    ) -> None:
        rig.add("press-4", web, services=ONLY_DOOR)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            options = [each.format(door=door_of(gateway)) for each in proxy]
            for host in ("press-4", "ssh.press-4"):
                done = run_program(["curl", "-sS", "-m", "60", *options, f"http://{host}/page"])
                assert done.stdout == f"you asked for {host}/page".encode()

    @pytest.mark.parametrize(
        "proxy",
        [["--proxy", "socks5h://{door}"], ["--proxytunnel", "--proxy", "http://{door}"]],
    )
    @pytest.mark.parametrize("marks", ["true", "false"])
    def test_a_device_that_is_not_there_is_no_empty_answer(
        self, rig: GatewayRig, web: TcpAddress, proxy: list[str], marks: str
    ) -> None:
        """Only the start of a stream tells, and by then the door has said yes: a reset follows."""
        rig.add("press-4", web, services=ONLY_DOOR, marks=marks)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            rig.rig.runtime.close_tunnel(rig.others["press-4"].name)
            eventually(lambda: not rig.rig.service.tunnel("press-4").destination_connected)
            options = [each.format(door=door_of(gateway)) for each in proxy]
            done = subprocess.run(
                ["curl", "-sS", "-m", "60", *options, "http://press-4/"],
                capture_output=True,
                check=False,
            )
            # An end would be 52, an empty reply; the reset meets it in sending or in receiving.
            assert done.returncode in CURL_RESET, done.stderr

    def test_users_and_reasons(self, rig: GatewayRig, web: TcpAddress) -> None:
        rig.gateway = f'{DOOR}\ndoor_users_file = "users"'
        rig.add("press-4", web, services=ONLY_DOOR)
        users = rig.folder / "users"
        users.touch(mode=0o600)
        users.write_text(f"alice:{PasswordHash.make('secret').text()}\n")
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            door = door_of(gateway)
            curl = ["curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_connect}"]
            for user, name, status in [
                ("", "press-4", b"407"),
                ("alice:wrong@", "press-4", b"407"),
                ("alice:secret@", "press-9", b"404"),
                ("alice:secret@", "press-4", b"200"),
            ]:
                proxy = ["--proxytunnel", "--proxy", f"http://{user}{door}"]
                tried = subprocess.run(
                    [*curl, *proxy, f"http://{name}/"], capture_output=True, check=False
                )
                assert tried.stdout == status, tried.stderr
            for user, code in [("alice:secret", 0), ("alice:wrong", 97), ("", 97)]:
                login = ["--proxy-user", user] if user else []
                command = [*curl, *login, "--proxy", f"socks5h://{door}", "http://press-4/"]
                done = subprocess.run(command, capture_output=True, check=False)
                assert done.returncode == code, done.stderr
            gateway.wait_event("door_refused", 2, refusal="login", user="alice")
            assert len(gateway.events("door_refused", refusal="login", user="alice")) == 2
            assert "secret" not in gateway.output


@pytest.mark.programs("ssh", "sshd")
class TestSsh:
    def test_a_session_through_connect(self, rig: GatewayRig, tmp_path: Path) -> None:
        content = random.Random(1).randbytes(2_000_000)
        with Sshd.start(tmp_path) as sshd:
            rig.add("press-4", TcpAddress("127.0.0.1", sshd.port), services=ONLY_DOOR)
            with rig.up() as gateway:
                rig.wait_connected(gateway)
                proxy = f"env {self.variable(rig)} {' '.join(PROGRAM)} connect %h:SSH"
                ssh = [require_program("ssh"), *sshd.options(), "-o", f"ProxyCommand={proxy}"]
                assert run_program([*ssh, "press-4", "cat"], stdin=content).stdout == content
                done = subprocess.run([*ssh, "press-4", "exit 42"], check=False, timeout=200)
                assert done.returncode == 42
                done = subprocess.run(
                    [*ssh, "press-9", "true"], capture_output=True, check=False, timeout=200
                )
                assert done.returncode == 255
                assert b"there is no tunnel 'press-9:SSH' in this fleet" in done.stderr

    @staticmethod
    def variable(rig: GatewayRig) -> str:
        return f"RUNTIME_DIRECTORY={environment(rig)['RUNTIME_DIRECTORY']}"

    @pytest.mark.programs("socat")
    def test_a_session_through_the_door(self, rig: GatewayRig, tmp_path: Path) -> None:
        with Sshd.start(tmp_path) as sshd:
            rig.add("press-4", TcpAddress("127.0.0.1", sshd.port), services=ONLY_DOOR)
            with rig.up() as gateway:
                rig.wait_connected(gateway)
                host, _, port = door_of(gateway).rpartition(":")
                socat = f"socat - PROXY:{host}:%h:%p,proxyport={port}"
                ssh = [require_program("ssh"), *sshd.options(), "-o", f"ProxyCommand={socat}"]
                assert run_program([*ssh, "press-4", "echo hello"]).stdout == b"hello\n"


class TestConnect:
    def test_bytes_come_and_go_as_they_are(self, rig: GatewayRig) -> None:
        content = random.Random(2).randbytes(3_000_000) + bytes(range(256))
        rig.add("press-4", rig.echo_address(), services=ONLY_DOOR)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            done = join(rig, "press-4:ssh", stdin=content)
            assert (done.returncode, done.stderr) == (0, b"")
            assert done.stdout == content
            assert join(rig, "press-4").returncode == 0

    def test_each_direction_ends_by_itself(self, rig: GatewayRig) -> None:
        sink = rig.rig.backends.sink(answer=b"got all")
        assert isinstance(sink.address, TcpAddress)
        rig.add("up", sink.address, services=ONLY_DOOR)
        content = random.Random(3).randbytes(100_000)
        giver = rig.rig.backends.half_closer(content, threading.Event())
        assert isinstance(giver.address, TcpAddress)
        rig.add("down", giver.address, services=ONLY_DOOR)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            assert join(rig, "up", stdin=b"x" * 500_000).stdout == b"got all"
            assert sink.arrivals(1)[0].size_bytes == 500_000
            with subprocess.Popen(
                [*PROGRAM, "connect", "down"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(rig),
            ) as process:
                assert process.stdout is not None
                assert process.stdin is not None
                assert process.stdout.read() == content
                # The other side sends no more, and takes what still comes.
                process.stdin.write(b"y" * 200_000)
                process.stdin.close()
                assert process.wait(WAIT_SECONDS) == 0
            assert giver.arrivals(1)[0].size_bytes == 200_000

    def test_what_goes_wrong_is_one_line(self, rig: GatewayRig, tmp_path: Path) -> None:
        rig.add("press-4", rig.echo_address(), services=ONLY_DOOR)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            for arguments, status, says in [
                (["nope"], 1, "there is no tunnel 'nope' in this fleet"),
                (["press-4:FTP"], 1, "tunnel press-4 has no service 'FTP', but SSH"),
                (["--gateway", "https://gw:1", "press-4"], 2, "connect needs a gateway on this"),
                ([], 2, "Missing argument"),
                (["a", "b"], 2, "unexpected extra argument"),
            ]:
                done = join(rig, *arguments)
                assert done.returncode == status
                (line,) = done.stderr.decode().splitlines()
                assert line.startswith("tunnelfleet: ")
                assert says in line
            assert b"NAME[:SERVICE]" in join(rig, "--help").stdout
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
        done = join(rig, f"--gateway=unix:{tmp_path}/admin.sock", "press-4")
        assert done.returncode == 1
        assert f"{tmp_path}/connect.sock: there is no such socket" in done.stderr.decode()
        assert "start one with: tunnelfleet up" in done.stderr.decode()
        assert not (rig.folder.parent / "state" / "connect.sock").exists()

    def test_a_gateway_that_dies_ends_it(self, rig: GatewayRig) -> None:
        rig.add("press-4", rig.echo_address(), services=ONLY_DOOR)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            with subprocess.Popen(
                [*PROGRAM, "connect", "press-4"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(rig),
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"hello")
                process.stdin.flush()
                assert process.stdout.read(5) == b"hello"
                gateway.signal(signal.SIGKILL)
                assert process.wait(WAIT_SECONDS) in (0, 1)
            # A socket that it has left behind.
            done = join(rig, "press-4")
            assert (done.returncode, b"nobody listens" in done.stderr) == (1, True)

    def test_it_loads_little(self) -> None:
        code = (
            "import sys; sys.argv[1:] = ['connect', '--gateway', 'unix:/none/x', 'a'];"
            "from tunnelfleet.__main__ import main; main();"
            "print(*[each for each in sys.modules if each.startswith('tunnelfleet')],"
            "'asyncio' in sys.modules, 'typer' in sys.modules)"
        )
        done = run_program([PROGRAM[0], "-c", code])
        assert done.stdout.split() == [
            b"tunnelfleet",
            b"tunnelfleet.__main__",
            b"tunnelfleet.connect",
            b"False",
            b"False",
        ]


def test_thousands_of_idle_clients_keep_nobody_out(rig: GatewayRig) -> None:
    rig.add("press-4", rig.echo_address(), services=ONLY_DOOR)
    with rig.up() as gateway, contextlib.ExitStack() as idle:
        rig.wait_connected(gateway)
        host, _, port = door_of(gateway).rpartition(":")
        call = functools.partial(socket.create_connection, (host, int(port)), WAIT_SECONDS)
        clients = [idle.enter_context(call()) for _ in range(IDLE_CLIENTS)]
        for number, client in enumerate(clients):
            # Half of a greeting, of a request, or nothing at all; some are thrown out already.
            with contextlib.suppress(OSError):
                client.send((b"\x05", b"CONNECT press-4", b"")[number % 3])
        for _ in range(10):
            with call() as client:
                client.sendall(b"CONNECT press-4 HTTP/1.1\r\n\r\nhello")
                assert receive_exactly(client, 39).startswith(b"HTTP/1.1 200 ")
                assert receive_exactly(client, 5) == b"hello"
        eventually(lambda: metric(gateway, "accepted_total") == IDLE_CLIENTS + 10)
        assert metric(gateway, "handshakes") <= 256
        assert metric(gateway, "connections") <= 256 + 10
        eventually(lambda: metric(gateway, 'handed_over_total{protocol="http"}') == 10)


def metric(gateway: UpProcess, name: str) -> float:
    for line in gateway.get("/metrics").splitlines():
        if line.startswith(f"tunnelfleet_door_{name} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"there is no {name}")


def test_a_taken_address_is_told_and_nothing_starts(rig: GatewayRig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        rig.gateway = f'door = "127.0.0.1:{other.getsockname()[1]}"'
        rig.add("press-4", rig.echo_address(), services=ONLY_DOOR)
        with rig.up() as gateway:
            assert gateway.wait_end() == 1
            assert "a front door cannot listen on 127.0.0.1:" in gateway.output
            assert "Address already in use; choose another address" in gateway.output
