"""The whole path: a `tunnelfleet service` process, boto3, and our own tunnels with its tokens."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.support.aws_service import (
    KEY,
    SECRET,
    WAIT_SECONDS,
    ServiceProcess,
    assert_free_of,
    aws_client,
    both_ends,
)
from tests.support.mosquitto import running_mosquitto, running_subscriber
from tests.support.programs import Sshd, run_program
from tests.support.waiting import eventually
from tunnelfleet.runtime import (
    SecureTunnel,
    TcpAddress,
    TunnelRuntime,
    TunnelState,
    make_ssl_context,
)
from tunnelfleet.runtime.cli.app import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANY = ("--management", "127.0.0.1:0")
AWS = (sys.executable, "-m", "awscli")
"""The real one: the group `dev` has it, so no test is left out for want of it."""
DESTINATION = {"thingName": "press-4", "services": ["ECHO"]}


@pytest.fixture
def runtime() -> Iterator[TunnelRuntime]:
    with TunnelRuntime() as running:
        yield running


def echoes(runtime: TunnelRuntime, operator: SecureTunnel, payload: bytes = b"") -> bool:
    """Whether what is sent into the source's port comes back from the device."""
    payload = payload or os.urandom(300_000)
    address = runtime.tunnel(operator.name).wait_listening("ECHO", WAIT_SECONDS)
    assert isinstance(address, TcpAddress)
    with socket.create_connection((address.host, address.port), timeout=WAIT_SECONDS) as sock:
        sock.sendall(payload)
        found = b""
        while len(found) < len(payload):
            chunk = sock.recv(65_536)
            assert chunk
            found += chunk
    return found == payload


def is_connected(tunnel: SecureTunnel) -> bool:
    return tunnel.status().state is TunnelState.CONNECTED


def test_tunnels_that_were_opened_carry_bytes(runtime: TunnelRuntime) -> None:
    with ServiceProcess("--plain", *ANY) as process:
        assert process.ready["tunnels"] == []
        aws = aws_client(process.url)
        opened = aws.open_tunnel(destinationConfig=DESTINATION)
        secrets = [opened["sourceAccessToken"], opened["destinationAccessToken"]]
        with both_ends(process.endpoint, opened, "ECHO", runtime) as (device, operator):
            assert echoes(runtime, operator)
            found = aws.describe_tunnel(tunnelId=opened["tunnelId"])["tunnel"]
            for field in ("sourceConnectionState", "destinationConnectionState"):
                assert found[field]["status"] == "CONNECTED"
            aws.close_tunnel(tunnelId=opened["tunnelId"])
            for end in (device, operator):  # 403: its token is void
                eventually(lambda end=end: end.status().state is TunnelState.REFUSED)
        aws.close()
        process.event("tunnel_closed", tunnel=opened["tunnelId"])
        status, errors = process.end()
        assert status == 0
        assert_free_of(secrets, process.written, errors)


@pytest.mark.programs("ssh", "sshd", "ssh-keygen")
def test_tunnels_that_were_opened_carry_ssh(runtime: TunnelRuntime, tmp_path: Path) -> None:
    with ServiceProcess("--plain", *ANY) as process, Sshd.start(tmp_path) as sshd:
        aws = aws_client(process.url)
        opened = aws.open_tunnel(destinationConfig={"services": ["SSH"]})
        aws.close()
        ends = [
            SecureTunnel(
                opened[f"{mode}AccessToken"],
                mode,
                process.endpoint,
                runtime=runtime,
                name=mode,
                services={"SSH": f"127.0.0.1:{port}"},
            )
            for mode, port in (("destination", sshd.port), ("source", 0))
        ]
        with ends[0], ends[1]:
            for end in ends:
                end.wait_connected(WAIT_SECONDS)
            address = runtime.tunnel("source").wait_listening("SSH", WAIT_SECONDS)
            assert isinstance(address, TcpAddress)
            done = run_program(
                ["ssh", *sshd.options(), "-p", str(address.port), "127.0.0.1", "echo", "in"]
            )
            assert done.stdout == b"in\n"


def test_at_all_addresses_the_api_is_where_its_certificate_is_good(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[a]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = secret-key\n")
    file.chmod(0o600)
    everywhere = ("--listen", "0.0.0.0:0", "--management", "0.0.0.0:0", "--name", "relay.example")
    with ServiceProcess(*everywhere, "--credentials", str(file)) as process:
        assert str(process.ready["management"]).startswith("https://relay.example:")


def test_over_tls_with_credentials(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    file.chmod(0o600)
    with ServiceProcess(*ANY, "--credentials", str(file), "--region", "eu-west-1") as process:
        assert process.url.startswith("https://127.0.0.1:")
        ca = process.ready["ca"]
        aws = aws_client(process.url, verify=ca, region_name="eu-west-1")
        opened = aws.open_tunnel(destinationConfig=DESTINATION)
        assert opened["tunnelArn"].startswith("arn:aws:iot:eu-west-1:000000000000:tunnel/")
        stranger = aws_client(process.url, verify=ca, region_name="eu-west-1", secret="guess")
        with pytest.raises(ClientError, match="InvalidSignatureException"):
            stranger.list_tunnels()
        with (
            TunnelRuntime(ssl_context=make_ssl_context(ca)) as runtime,
            both_ends(process.endpoint, opened, "ECHO", runtime) as (_, operator),
        ):
            assert echoes(runtime, operator)
        aws.close()
        stranger.close()
        status, errors = process.end()
        assert status == 0
        assert_free_of([SECRET], process.written, errors)


def test_killed_and_started_anew_with_its_state(runtime: TunnelRuntime, tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ["--plain", "--state", str(state), "--tunnel", "press-9=SSH", "--tunnel", "old"]
    with ServiceProcess(*options, *ANY) as process:
        aws = aws_client(process.url)
        opened = aws.open_tunnel(
            destinationConfig=DESTINATION, tags=[{"key": "a", "value": "b"}], description="kept"
        )
        closed = aws.open_tunnel()
        aws.close_tunnel(tunnelId=closed["tunnelId"])
        deleted = aws.open_tunnel()
        aws.close_tunnel(tunnelId=deleted["tunnelId"], delete=True)
        before = aws.describe_tunnel(tunnelId=opened["tunnelId"])["tunnel"]
        aws.close()
        where = process.endpoint.removeprefix("ws://")
        with both_ends(process.endpoint, opened, "ECHO", runtime) as ends:
            _, operator = ends
            assert echoes(runtime, operator)
            process.kill()
            for end in ends:
                eventually(lambda end=end: not is_connected(end))
            with ServiceProcess(*options[:-2], *ANY, "--listen", where) as again:
                for end in ends:
                    eventually(lambda end=end: is_connected(end), timeout_seconds=WAIT_SECONDS)
                assert echoes(runtime, operator)
                aws = aws_client(again.url)
                after = aws.describe_tunnel(tunnelId=opened["tunnelId"])["tunnel"]
                for live in ("sourceConnectionState", "destinationConnectionState"):
                    assert after.pop(live)["status"] == "CONNECTED"
                    before.pop(live)
                assert after == before
                listed = {
                    each["tunnelId"]: each["status"]
                    for each in aws.list_tunnels()["tunnelSummaries"]
                }
                assert listed == {
                    opened["tunnelId"]: "OPEN",
                    closed["tunnelId"]: "CLOSED",
                    "press-9": "OPEN",
                    "old": "CLOSED",  # this start does not name it
                }
                # Tokens of --tunnel are printed as ever, new ones.
                tokens = [each.ready["tunnels"][0]["source_token"] for each in (process, again)]
                assert len({*tokens}) == 2
                aws.close()
                assert again.end()[0] == 0
        secrets = [opened["sourceAccessToken"], opened["destinationAccessToken"], *tokens]
        assert_free_of(secrets, *state.iterdir())


def test_one_state_has_one_service(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ServiceProcess("--plain", "--state", str(tmp_path)):
        capfd.readouterr()
        again = ["service", "--plain", "--state", str(tmp_path), "--listen", "127.0.0.1:0"]
        assert main(again) == 1
        assert "another service has it open" in capfd.readouterr().err


@pytest.mark.programs("mosquitto")
def test_a_device_takes_its_token_from_the_broker(runtime: TunnelRuntime, tmp_path: Path) -> None:
    with (
        running_mosquitto(tmp_path) as mqtt,
        running_subscriber(mqtt) as notified,
        ServiceProcess(
            "--plain", *ANY, env={"TUNNELFLEET_MQTT": f"mqtt://127.0.0.1:{mqtt.port}"}
        ) as process,
    ):
        aws = aws_client(process.url)
        opened = aws.open_tunnel(destinationConfig=DESTINATION)
        topic, _, told = notified.get()
        assert topic == "$aws/things/press-4/tunnels/notify"
        opened["destinationAccessToken"] = told["clientAccessToken"]
        with both_ends(process.endpoint, opened, "ECHO", runtime) as (_, operator):
            assert echoes(runtime, operator)
        # What was asked for just before the end is told all the same.
        aws.rotate_tunnel_access_token(tunnelId=opened["tunnelId"], clientMode="DESTINATION")
        aws.close()
        assert process.end()[0] == 0
        assert notified.get()[2]["clientAccessToken"] != told["clientAccessToken"]


@pytest.mark.parametrize(
    "every_operation", [False, pytest.param(True, marks=pytest.mark.long)], ids=["two", "all"]
)
def test_the_command_line_of_aws(every_operation: bool, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    file.chmod(0o600)
    with ServiceProcess("--plain", *ANY, "--credentials", str(file)) as process:

        def aws(*arguments: str) -> dict[str, Any]:
            done = subprocess.run(
                [*AWS, "iotsecuretunneling", *arguments, "--output", "json"],
                env={
                    "PATH": os.environ["PATH"],
                    "AWS_SHARED_CREDENTIALS_FILE": str(file),
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_ENDPOINT_URL": process.url,
                    "HOME": str(tmp_path),
                    "AWS_PAGER": "",
                },
                capture_output=True,
                text=True,
                timeout=WAIT_SECONDS,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return dict(json.loads(done.stdout or "{}"))

        opened = aws("open-tunnel", "--destination-config", "thingName=press-4,services=SSH")
        named = ("--tunnel-id", opened["tunnelId"])
        found = aws("describe-tunnel", *named)["tunnel"]
        assert found["destinationConfig"] == {"thingName": "press-4", "services": ["SSH"]}
        if not every_operation:
            return
        rotated = aws("rotate-tunnel-access-token", *named, "--client-mode", "SOURCE")
        assert rotated["sourceAccessToken"] != opened["sourceAccessToken"]
        resource = ("--resource-arn", opened["tunnelArn"])
        aws("tag-resource", *resource, "--tags", "key=a,value=b", "key=c,value=d")
        aws("untag-resource", *resource, "--tag-keys", "a")
        tags = aws("list-tags-for-resource", *resource)["tags"]
        assert tags == [{"key": "c", "value": "d"}]
        aws("close-tunnel", *named)
        assert aws("list-tunnels")["tunnelSummaries"][0]["status"] == "CLOSED"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--credentials", "x"], "--credentials: only with --management HOST:PORT"),
        (["--aws-limits", "--mqtt", "mqtt://h"], "--aws-limits, --mqtt: only with --management"),
        (["--management", "8444"], "--management takes HOST:PORT, such as 127.0.0.1:8444"),
        ([*ANY, "--credentials", "/none"], "cannot read the credentials /none: No such file"),
        ([*ANY, "--mqtt", "http://h"], "--mqtt takes mqtt://"),
        ([*ANY, "--region", "eu west"], "--region takes a name such as eu-west-1"),
        (["--chaos-api"], "--admin-open, --chaos-api: only with --admin HOST:PORT"),
        (["--admin", "0.0.0.0:0"], "--admin-open"),
        (
            ["--admin", "127.0.0.1:0", "--chaos-token-file", "/none"],
            "--chaos-token-file: only with --chaos-api",
        ),
        (
            ["--admin", "127.0.0.1:0", "--chaos-api", "--chaos-token-file", "/none"],
            "cannot read the token /none: No such file",
        ),
        ([*ANY, "--max-tunnels", "0"], "at least 1 tunnel may be open"),
        (["--management", "0.0.0.0:0"], "without credentials anybody who reaches 0.0.0.0"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: list[str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "--listen", "127.0.0.1:0", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("tunnelfleet: ")
    assert err.count("\n") == 1
    assert says in err


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "botocore" else found(name, *more),
    )
    assert main(["service", "--listen", "127.0.0.1:0", *ANY]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "pip install 'tunnelfleet[aws]'" in err
