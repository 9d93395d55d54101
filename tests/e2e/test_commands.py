"""`tunnelfleet service` and `tunnelfleet localproxy` as processes of their own, carrying ssh."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import Command
from tests.support.rig import connect, echo
from tunnelfleet.runtime import Mode, TcpAddress
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.programs import Sshd
    from tests.support.rig import Rig
    from tunnelfleet.runtime.service import TunnelTokens

TOKEN_VARIABLE = "AWSIOT_TUNNEL_ACCESS_TOKEN"
BODY = random.Random(3).randbytes(5_000_000)


class Proxies:
    """Starts `tunnelfleet localproxy` for the two ends of a tunnel of the rig's service."""

    def __init__(self, rig: Rig, folder: Path, stack: contextlib.ExitStack) -> None:
        self.rig = rig
        self.folder = folder
        self._stack = stack

    def tokens(self, *service_ids: str) -> TunnelTokens:
        return self.rig.service.open_tunnel("press-4", service_ids)

    def start(self, token: str, *arguments: str) -> Command:
        """The command with the rig's endpoint and authority, and the token in the environment."""
        ca = str(self.rig.service.ca_path)
        endpoint = f"127.0.0.1:{self.rig.service.port}"
        return self._stack.enter_context(
            Command.start(
                self.folder,
                *("localproxy", "--json", "-e", endpoint, "-c", ca, *arguments),
                env={TOKEN_VARIABLE: token},
            )
        )


@pytest.fixture
def proxies(rig: Rig, tmp_path: Path) -> Iterator[Proxies]:
    with contextlib.ExitStack() as stack:
        yield Proxies(rig, tmp_path, stack)


def wait_connected(*commands: Command, count: int = 1) -> None:
    for command in commands:
        command.wait_event("tunnel_state_changed", state="connected", count=count)


class TestLocalproxy:
    def test_ssh_between_two_of_them(self, proxies: Proxies, sshd: Sshd) -> None:
        tokens = proxies.tokens("SSH", "HTTP")
        target = f"SSH=127.0.0.1:{sshd.port},HTTP=127.0.0.1:9"
        destination = proxies.start(tokens.destination_token, "-d", target)
        source = proxies.start(tokens.source_token, "-m", "source")
        wait_connected(destination, source)
        port = source.listening_port("SSH")
        assert sshd.ssh(port, "cat", stdin=BODY).stdout == BODY
        assert sshd.ssh(port, "echo again").stdout == b"again\n"
        assert source.stop() == 0
        assert destination.stop() == 0
        for secret in (tokens.source_token, tokens.destination_token):
            assert secret not in source.output + destination.output

    def test_ssh_in_v1(self, proxies: Proxies, sshd: Sshd) -> None:
        tokens = proxies.tokens()
        destination = proxies.start(tokens.destination_token, "-d", str(sshd.port))
        source = proxies.start(tokens.source_token, "-s", "0", "-y", "V1")
        wait_connected(destination, source)
        port = source.listening_port("")
        for number in range(2):
            assert sshd.ssh(port, f"echo {number}").stdout == b"%d\n" % number

    def test_a_lost_connection_comes_back_with_the_same_port(self, proxies: Proxies) -> None:
        server = proxies.rig.backends.echo()
        assert isinstance(server.address, TcpAddress)
        tokens = proxies.tokens("APP")
        destination = proxies.start(tokens.destination_token, "-d", f"APP={server.address}")
        source = proxies.start(tokens.source_token, "-s", "APP=0")
        wait_connected(destination, source)
        address = TcpAddress("127.0.0.1", source.listening_port("APP"))
        with connect(address) as client:
            assert echo(client, b"before") == b"before"
            proxies.rig.service.drop("press-4")
        wait_connected(destination, source, count=2)
        with connect(address) as client:
            assert echo(client, b"after") == b"after"

    def test_it_ends_with_status_1_when_its_token_is_refused(self, proxies: Proxies) -> None:
        proxies.tokens("APP")
        unknown = "an-access-token-that-nobody-has-issued"
        source = proxies.start(unknown, "-s", "APP=0")
        assert source.wait_end() == 1
        assert "refused" in source.output
        assert unknown not in source.output

    def test_it_says_that_the_certificate_is_not_trusted(
        self, proxies: Proxies, tmp_path: Path
    ) -> None:
        tokens = proxies.tokens("APP")
        with TunnelService(tls=True, state_dir=tmp_path / "other") as other:
            source = proxies.start(tokens.source_token, "-s", "APP=0", "-c", str(other.ca_path))
            event = source.wait_event("tunnel_state_changed", state="backoff")
        assert "certificate verify failed" in event["reason"]
        insecure = proxies.start(tokens.source_token, "-s", "APP=0", "-k")
        wait_connected(insecure)

    def test_a_token_of_the_command_line_is_not_in_the_process_list(self, proxies: Proxies) -> None:
        tokens = proxies.tokens("APP")
        source = proxies.start("", "-s", "APP=0", "-t", tokens.source_token)
        wait_connected(source)
        arguments = Path(f"/proc/{source.process.pid}/cmdline").read_bytes()
        assert tokens.source_token.encode() not in arguments


class TestService:
    def test_ssh_with_nothing_but_commands(self, sshd: Sshd, tmp_path: Path) -> None:
        with contextlib.ExitStack() as stack:
            listen = ["--listen", "127.0.0.1:0", "--tunnel", "press-4=SSH"]
            service = stack.enter_context(Command.start(tmp_path, "service", "--json", *listen))
            ready = service.wait_event("ready")
            (tunnel,) = ready["tunnels"]
            assert (tunnel["name"], tunnel["services"]) == ("press-4", ["SSH"])
            common = ["localproxy", "--json", "-e", ready["endpoint"], "-c", ready["ca"]]
            destination = stack.enter_context(
                Command.start(
                    tmp_path,
                    *(*common, "-d", f"SSH=127.0.0.1:{sshd.port}"),
                    env={TOKEN_VARIABLE: tunnel["destination_token"]},
                )
            )
            source = stack.enter_context(
                Command.start(
                    tmp_path,
                    *(*common, "-s", "SSH=0"),
                    env={TOKEN_VARIABLE: tunnel["source_token"]},
                )
            )
            wait_connected(destination, source)
            for mode in Mode:
                service.wait_event("client_connected", mode=str(mode))
            port = source.listening_port("SSH")
            assert sshd.ssh(port, "cat", stdin=BODY).stdout == BODY
            assert source.stop() == 0
            assert destination.stop() == 0
            assert service.stop() == 0
