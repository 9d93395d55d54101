"""What the README shows works: its program, its commands and its table are run."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pykka
import pytest

import tunnelfleet.runtime
from tests.support.commands import Command
from tests.support.programs import require_program
from tests.support.rig import Rig, connect, echo
from tunnelfleet.runtime import Endpoint, Mode, TcpAddress

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """The commands of the console blocks that start `program`."""
    lines = "".join(code_blocks("console")).splitlines()
    return [line for line in lines if line.startswith(program)]


def table_rows() -> list[str]:
    """The code of the table of things to do."""
    table = README.split("| to | do |", 1)[1].split("\n\n", 1)[0]
    return [code for row in table.splitlines()[2:] for code in re.findall(r"`(.+?)`", row)]


@pytest.mark.parametrize("program", code_blocks("python"))
def test_the_programs_run(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(program, "README.md", "exec"), {})
    assert "ssh to 127.0.0.1:" in capsys.readouterr().out


def test_the_two_commands_are_targets() -> None:
    targets = [line.split()[1] for line in commands("make ")]
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_service_command_opens_the_tunnel(tmp_path: Path) -> None:
    (line,) = commands("tunnelfleet service")
    arguments = shlex.split(line)[1:]
    with Command.start(tmp_path, *arguments, "--listen", "127.0.0.1:0", "--json") as service:
        ready = service.wait_event("ready")
    (tunnel,) = ready["tunnels"]
    assert (tunnel["name"], tunnel["services"]) == ("press-4", ["SSH", "HTTP"])


def test_the_localproxy_commands_carry_a_connection(tmp_path: Path) -> None:
    destination, source = commands("tunnelfleet localproxy")
    assert "-r eu-west-1" in destination
    assert "-r eu-west-1" in source
    with Rig() as rig, contextlib.ExitStack() as stack:
        tokens = rig.service.open_tunnel("readme", ["SSH"])
        here = f"-e {rig.service.endpoint} -c {rig.service.ca_path}"
        target = str(rig.backends.echo().address)

        def start(line: str, token: str) -> Command:
            text = line.replace("-r eu-west-1", here)
            text = text.replace("127.0.0.1:22", target).replace("SSH=5555", "SSH=0")
            arguments = [*shlex.split(text)[1:], "--json"]
            env = {"AWSIOT_TUNNEL_ACCESS_TOKEN": token}
            return stack.enter_context(Command.start(tmp_path, *arguments, env=env))

        device = start(destination, tokens.destination_token)
        operator = start(source, tokens.source_token)
        for end in (device, operator):
            end.wait_event("tunnel_state_changed", state="connected")
        port = operator.listening_port("SSH")
        with connect(TcpAddress("127.0.0.1", port)) as sock:
            assert echo(sock, b"hello") == b"hello"


def test_the_demo_can_be_scraped(tmp_path: Path) -> None:
    (demo,) = commands("tunnelfleet demo")
    (scrape,) = commands("curl")
    require_program("curl")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    small = [*shlex.split(demo.replace("9464", port))[1:], "--tunnels", "2", "--duration", "60"]
    retry = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--silent", "--fail"]
    with Command.start(tmp_path, *small):
        command = [*shlex.split(scrape.replace("9464", port)), *retry]
        page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "tunnelfleet_sent_bytes_total" in page


@pytest.mark.parametrize("code", table_rows())
def test_the_table_s_code_is_right(code: str) -> None:
    base: dict[str, Any] = {
        "name": "press-4",
        "mode": Mode.SOURCE,
        "endpoint": Endpoint.parse("127.0.0.1"),
        "access_token": "t" * 40,
        "services": {"SSH": TcpAddress("127.0.0.1", 0)},
    }
    public = tunnelfleet.runtime.__all__
    names: dict[str, Any] = {name: getattr(tunnelfleet.runtime, name) for name in public}
    names["base"] = base
    code = code.replace("(..., ", "(**base, ")
    if code.startswith("."):
        code = f"tunnel.status(){code}"
    with Rig(tls=True) as rig:
        pair = rig.pair({"SSH": rig.backends.echo().address})
        subscriber = Subscriber.start()
        names |= {
            "runtime": rig.runtime,
            "tunnel": pair.source,
            "actor_ref": subscriber,
            "name": pair.source.name,
            "access_token": rig.service.rotate(pair.name, Mode.SOURCE).source_token,
            "Path": lambda _name: rig.service.ca_path,
        }
        try:
            result = eval(code, names)
        finally:
            subscriber.stop()
    assert result is not None or code.startswith("runtime.")


class Subscriber(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> None:
        pass


def test_every_document_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_is_started_by_import() -> None:
    code = (
        "import threading, pykka, tunnelfleet.runtime, tunnelfleet.runtime.service\n"
        "assert threading.active_count() == 1\n"
        "assert not pykka.ActorRegistry.get_all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
