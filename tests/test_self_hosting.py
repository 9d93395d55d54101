"""What docs/self-hosting.md shows works: its commands, those of AWS's tool, and its unit."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from tests.support.commands import Command
from tests.support.programs import run_program
from tunnelfleet.runtime import SecureTunnel

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "self-hosting.md").read_text(encoding="utf-8")
UNIT = ROOT / "examples" / "deploy" / "systemd" / "tunnelfleet-relay.service"
KEY = "AKIAOPERATORS0000001"
REGION = "eu-west-1"


def blocks_of(language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, DOCUMENT, flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """The arguments of each command line of the document that runs a program."""
    lines = "".join(blocks_of("console")).splitlines()
    found = [shlex.split(line) for line in lines]
    return [words[1:] for words in found if words[0].endswith(program)]


def on_free_ports(arguments: list[str]) -> list[str]:
    return [re.sub(r":(8443|8444|9465)$", ":0", each) for each in arguments]


def local(url: str) -> str:
    """The same place, by the address of this machine: its name is an example."""
    parts = urlsplit(url)
    return f"{parts.scheme}://127.0.0.1:{parts.port}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the relay runs."""
    folder = tmp_path_factory.mktemp("relay")
    (credentials,) = blocks_of("ini")
    (folder / "credentials").write_text(credentials)
    (folder / "credentials").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def relay(folder: Path) -> Iterator[Command]:
    """The service that people host, as the document starts it."""
    _, hosted = commands("/tunnelfleet")
    with Command.start(folder, *on_free_ports(hosted), "--json") as running:
        yield running


def aws_call(words: list[str], url: str, ca: Path) -> dict[str, Any]:
    """Do what a command line of AWS's tool does, if its model knows all that stands in it."""
    service, name, *rest = words
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    assert urlsplit(options.pop("--endpoint-url")).port == 8444
    assert (options.pop("--region"), options.pop("--ca-bundle")) == (REGION, "ca.pem")
    model = botocore.session.get_session().get_service_model(service)
    (operation,) = [each for each in model.operation_names if xform_name(each, "-") == name]
    members = model.operation_model(operation).input_shape.members
    given = {}
    for option, text in options.items():
        (member,) = [each for each in members if f"--{xform_name(each, '-')}" == option]
        given[member] = shorthand(text) if members[member].type_name == "structure" else text
    aws = boto3.session.Session().client(
        service,
        endpoint_url=url,
        region_name=REGION,
        verify=str(ca),
        aws_access_key_id=KEY,
        aws_secret_access_key=re.findall(r"secret_access_key = (.+)", blocks_of("ini")[0])[0],
    )
    try:
        return dict(getattr(aws, xform_name(operation))(**given))
    finally:
        aws.close()


def shorthand(text: str) -> dict[str, Any]:
    """`thingName=press-4,services=SSH,HTTP`, as the tool reads it."""
    found: dict[str, Any] = {}
    for name, value in re.findall(r"(\w+)=([^=]+)(?:,(?=\w+=)|$)", text):
        found[name] = value.split(",") if name == "services" else value
        if name.endswith("Minutes"):
            found[name] = int(value)
    return found


def test_a_first_try(tmp_path: Path) -> None:
    first, _ = commands("/tunnelfleet")
    with Command.start(tmp_path, *on_free_ports(first), "--json") as running:
        ready = running.wait_event("ready")
    assert ready["endpoint"].startswith("wss://relay.example.com:")
    assert (tmp_path / "relay-state" / "ca.pem").exists()
    (tunnel,) = ready["tunnels"]
    for side in ("source", "destination"):
        assert " -e relay.example.com:" in tunnel[f"{side}_command"]


def test_a_hosted_relay_opens_tunnels_by_awss_tool(relay: Command, folder: Path) -> None:
    ready = relay.wait_event("ready")
    ca = folder / "relay-state" / "ca.pem"
    open_line, list_line = commands("aws")
    opened = aws_call(open_line, local(ready["management"]), ca)
    with SecureTunnel(
        opened["destinationAccessToken"], "destination", local(ready["endpoint"]), root_ca=ca
    ) as device:
        assert device.wait_connected(20) == ("SSH", "HTTP")
    (found,) = aws_call(list_line, local(ready["management"]), ca)["tunnelSummaries"]
    assert (found["tunnelId"], found["status"]) == (opened["tunnelId"], "OPEN")
    # None of it prints a token.
    assert opened["sourceAccessToken"] not in relay.output
    assert opened["destinationAccessToken"] not in relay.output


def test_who_has_no_key_opens_none(relay: Command, folder: Path) -> None:
    ready = relay.wait_event("ready")
    aws = boto3.session.Session().client(
        "iotsecuretunneling",
        endpoint_url=local(ready["management"]),
        region_name=REGION,
        verify=str(folder / "relay-state" / "ca.pem"),
        aws_access_key_id="AKIASOMEBODYELSE0001",
        aws_secret_access_key="x",
    )
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        aws.open_tunnel()
    aws.close()


@pytest.mark.programs("curl")
def test_it_can_be_watched(relay: Command) -> None:
    port = urlsplit(relay.wait_event("ready")["admin"]).port
    health, metrics = (
        run_program(["curl", *(word.replace("9465", str(port)) for word in words)]).stdout.decode()
        for words in commands("curl")
    )
    assert "true" in health
    for name in re.findall(r"`(?:rate\()?(tunnelfleet_service_\w+)", DOCUMENT):
        assert f"# TYPE {name.removesuffix('_total')}" in metrics or "notifications" in name, name


def test_the_unit_is_that_relay_with_a_certificate_of_its_own(
    relay: Command, folder: Path, tmp_path: Path
) -> None:
    relay.wait_event("ready")
    # A certificate and its key: those that the relay has made.
    made = folder / "relay-state"
    (text,) = re.findall(r"^ExecStart=(.+?)$(?<!\\)", UNIT.read_text(), re.MULTILINE | re.DOTALL)
    _, *arguments = shlex.split(text.replace("\\\n", " "))
    here = {
        "/etc/tunnelfleet-relay/cert.pem": made / "server.pem",
        "/etc/tunnelfleet-relay/key.pem": made / "server.key",
        "/etc/tunnelfleet-relay/credentials": folder / "credentials",
        "/var/lib/tunnelfleet-relay": tmp_path,
    }
    given = [str(here.get(each, each)) for each in on_free_ports(arguments)]
    assert {f"--{name}" for name in ("cert", "key", "state", "management", "admin")} < set(given)
    with Command.start(tmp_path, *given, "--json") as unit:
        assert unit.wait_event("ready")["tunnels"] == []
        unit.process.send_signal(signal.SIGHUP)
        unit.wait_event("certificate_reloaded")
        with Command.start(tmp_path, *given, "--json") as second:
            assert second.process.wait(30) == 1
    assert "another service has it open" in second.output
    assert "`another service has it open`" in DOCUMENT
