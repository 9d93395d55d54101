"""What parts of a gateway do together, with real processes: API, state, doors, audit, page."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import urllib.request
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.commands import PROGRAM
from tests.support.gateway import GatewayRig, UpProcess
from tests.support.programs import run_program
from tests.support.rig import connect, echo, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import Mode
from tunnelfleet.runtime.gateway.api.address import GatewayAddress
from tunnelfleet.runtime.gateway.api.client import GatewayClient
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PASSWORD = "a-pass-phrase"
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GatewayRig]:
    with GatewayRig(tmp_path, gateway='name = "gw"') as made:
        yield made


def admin(gateway: UpProcess) -> str:
    url: str = gateway.wait_event("admin")["url"]
    return url


def ask(gateway: UpProcess, *words: str, stdin: str = "") -> Any:
    """Run a client command of this gateway; what it printed as JSON."""
    command = [*PROGRAM, *words, "--json", "--gateway", admin(gateway)]
    text = run_program(command, stdin=stdin.encode()).stdout
    return json.loads(text) if text else None


def connected(gateway: UpProcess, *names: str, count: int = 1) -> None:
    for name in names:
        gateway.wait_event("tunnel_state_changed", count, tunnel=name, state="connected")


class TestAddedTunnels:
    """What was added at run time and what became of it is there after `kill -9`."""

    def test_they_come_back_with_their_tokens(self, rig: GatewayRig) -> None:
        rig.add("of-the-files", rig.echo_address())
        entries = {name: self.entry(rig, name) for name in ("by-http", "by-add", "goes")}
        with rig.up() as gateway:
            with GatewayClient(GatewayAddress.parse(admin(gateway))) as client:
                assert client.add(entries["by-http"])["source"] == "api"
            for name in ("by-add", "goes"):
                ask(gateway, "add", "-", stdin=json.dumps(entries[name]))
            connected(gateway, "of-the-files", *entries)
            token = rig.rig.service.rotate("by-add", Mode.SOURCE).source_token
            gateway.wait_event("tunnel_state_changed", tunnel="by-add", state="refused")
            run_program(
                [*PROGRAM, "replace-token", "by-add", "--gateway", admin(gateway)],
                stdin=f"{token}\n".encode(),
            )
            connected(gateway, "by-add", count=2)
            run_program([*PROGRAM, "rm", "goes", "--gateway", admin(gateway)])
            gateway.wait_event("tunnel_ended", tunnel="goes")
            gateway.process.kill()
            gateway.wait_end()
            said = gateway.output
        state = rig.folder.parent / "state"
        kept = b"".join(path.read_bytes() for path in state.iterdir() if path.is_file())
        with rig.up() as gateway:
            connected(gateway, "of-the-files", "by-http", "by-add")
            # The service knows a token again by its client token alone, which was never written.
            assert not gateway.events("tunnel_state_changed", state="refused")
            assert [row["name"] for row in ask(gateway, "ls")] == [
                "by-add",
                "by-http",
                "of-the-files",
            ]
            with connect(gateway.listening("by-add")) as sock:
                assert echo(sock, b"hello") == b"hello"
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
            said += gateway.output
        for secret in (token, entries["by-http"]["access_token"]):
            assert secret not in said
            assert secret.encode() not in kept, "tokens are sealed"

    @staticmethod
    def entry(rig: GatewayRig, name: str) -> dict[str, Any]:
        """A tunnel that is in no file."""
        token = rig.add(name, rig.echo_address()).token
        del rig.entries[name]
        return {
            "name": name,
            "mode": "source",
            "endpoint": rig.rig.service.endpoint,
            "ca": str(rig.rig.service.ca_path),
            "access_token": token,
            "services": {"SSH": "127.0.0.1:0"},
        }


RULES = f"""
name = "gw"
door = "127.0.0.1:0"
door_users_file = "users"
[[door_rule]]
users = ["alice", "{ME}"]
tunnels = "press-1"
"""


class TestWhoIsConnected:
    """One look at the live connections and one at the audit, through each way in."""

    def test_by_port_by_door_and_by_connect(self, rig: GatewayRig) -> None:
        rig.gateway = RULES
        users = rig.folder / "users"
        users.touch(mode=0o600)
        users.write_text(f"alice:{PasswordHash.make(PASSWORD).text()}\n")
        for name in ("press-1", "press-2"):
            rig.add(name, rig.echo_address())
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            about = ask_gateway(gateway)
            self.look_at_the_places(gateway, about)
            sent = {"": 1_000, "alice": 2_000, ME: 3_000}
            with contextlib.ExitStack() as stack:
                by_port = stack.enter_context(connect(gateway.listening("press-1")))
                assert len(echo(by_port, b"p" * sent[""])) == sent[""]
                by_door = stack.enter_context(through_door(about["door"], "press-1", PASSWORD))
                assert len(echo(by_door, b"d" * sent["alice"])) == sent["alice"]
                by_connect = stack.enter_context(through_connect(gateway, "press-1:SSH"))
                assert by_connect.stdin is not None
                assert by_connect.stdout is not None
                by_connect.stdin.write(b"c" * sent[ME])
                by_connect.stdin.flush()
                assert len(by_connect.stdout.read(sent[ME])) == sent[ME]
                peers = {"": name_of(by_port), "alice": name_of(by_door)}
                peers[ME] = f"pid={by_connect.pid}"
                self.look_at_the_live(gateway, sent, peers)
            self.look_at_the_audit(gateway, sent, peers)
            self.be_denied(gateway, about["door"])
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
            assert PASSWORD not in gateway.output

    @staticmethod
    def look_at_the_places(gateway: UpProcess, about: Mapping[str, Any]) -> None:
        assert about["door"] == gateway.wait_event("door")["address"]
        assert about["connect"].endswith("/connect.sock")
        with urllib.request.urlopen(f"{about['metrics']}/metrics", timeout=WAIT_SECONDS) as page:
            assert b"tunnelfleet_door_accepted_total" in page.read()

    @staticmethod
    def look_at_the_live(
        gateway: UpProcess, sent: Mapping[str, int], peers: Mapping[str, str]
    ) -> None:
        def seen(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str, int, int]]:
            return {
                row["user"]: (
                    f"{row['tunnel']}:{row['service_id']}",
                    row["peer"],
                    row["sent_bytes"],
                    row["received_bytes"],
                )
                for row in rows
            }

        wanted = {user: ("press-1:SSH", peers[user], size, size) for user, size in sent.items()}
        eventually(lambda: seen(ask(gateway, "connections")) == wanted)
        with GatewayClient(GatewayAddress.parse(admin(gateway))) as client:
            assert seen(client.connections("press-1")) == wanted
            assert client.connections("press-2") == []
        told = first_status(gateway.wait_event("metrics")["url"])
        fields = told["fields"]["connections"]
        shown = [dict(zip(fields, values, strict=True)) for values in told["connections"]]
        assert seen(shown) == wanted

    @staticmethod
    def look_at_the_audit(
        gateway: UpProcess, sent: Mapping[str, int], peers: Mapping[str, str]
    ) -> None:
        def records() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = ask(gateway, "audit", "--kind", "connection")
            return found

        eventually(lambda: [each["ended_by"] for each in records()] == ["local"] * 3)
        assert {each["user"]: each["peer"] for each in records()} == peers
        assert {each["user"]: each["sent_bytes"] for each in records()} == sent
        (alice,) = ask(gateway, "audit", "--user", "alice")
        assert (alice["tunnel"], alice["service_id"]) == ("press-1", "SSH")
        assert alice["received_bytes"] == sent["alice"]
        assert alice["channel_id"]
        assert alice["opened_at"] <= alice["ended_at"]

    @staticmethod
    def be_denied(gateway: UpProcess, door: str) -> None:
        with pytest.raises(AssertionError, match="403"), through_door(door, "press-2", PASSWORD):
            pass
        with pytest.raises(AssertionError, match="407"), through_door(door, "press-1", "wrong"):
            pass
        with through_connect(gateway, "press-2:SSH") as process:
            assert process.wait(WAIT_SECONDS) == 1
        eventually(lambda: len(ask(gateway, "audit", "--kind", "denied")) == 3)
        found = ask(gateway, "audit", "--kind", "denied")
        assert [(each["tunnel"], each["service_id"], each["user"]) for each in found] == [
            ("press-2", "SSH", ME),
            # Who it is comes before what it asks for.
            ("", "", "alice"),
            ("press-2", "", "alice"),
        ]
        assert "no rule allows it" in found[0]["reason"]
        # Whom no rule lets in learns nothing of what there is, and the audit has it all the same.
        assert all(each["peer"] for each in found)


def ask_gateway(gateway: UpProcess) -> dict[str, Any]:
    with GatewayClient(GatewayAddress.parse(admin(gateway))) as client:
        return client.gateway()


def name_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


@contextlib.contextmanager
def through_door(door: str, name: str, password: str) -> Iterator[socket.socket]:
    """A connection of alice through the front door; fails with the status that it got."""
    host, _, port = door.rpartition(":")
    login = b64encode(f"alice:{password}".encode()).decode()
    with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as sock:
        sock.sendall(
            f"CONNECT {name} HTTP/1.1\r\nProxy-Authorization: Basic {login}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += receive_exactly(sock, 1)
        assert head.startswith(b"HTTP/1.1 200 "), head
        yield sock


@contextlib.contextmanager
def through_connect(gateway: UpProcess, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """`tunnelfleet connect`, until its input ends."""
    with subprocess.Popen(
        [*PROGRAM, "connect", name, "--gateway", admin(gateway)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        yield process


def first_status(url: str) -> dict[str, Any]:
    """What the status page is told first."""
    with urllib.request.urlopen(f"{url}/status/events", timeout=WAIT_SECONDS) as stream:
        lines = iter(stream.readline, b"")
        assert any(line == b"event: status\n" for line in lines)
        found: dict[str, Any] = json.loads(next(lines).removeprefix(b"data: "))
        return found
