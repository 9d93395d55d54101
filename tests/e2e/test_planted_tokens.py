"""Tokens and passwords, planted wherever a user has them, and a search through all that comes out.

A service with its management API, a gateway with an API, a door and a page, localproxy and connect
run as processes, all at the highest level of their logs; connections are made, refused and cut.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import pytest

from tests.support.aws_service import REGION, ServiceProcess, aws_client
from tests.support.backends import Backends
from tests.support.commands import PROGRAM, Command
from tests.support.gateway import UpProcess, up
from tests.support.sockets import read_to_end
from tests.support.waiting import eventually
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_SECONDS = 60
SHOWN_CHARACTERS = 20
"""So much of a secret, from its beginning or its end, is more than nothing."""
REACH = 250
"""Of what stands around a secret that is found, for whoever has to mend it."""

NEVER_USED = "wrong-" + "W" * 60
CLIENT_TOKEN = "Planted-client-token-0123456789-abcdefgh"
OTHER_CLIENT_TOKEN = "Other-planted-client-token-0123456789"
ADMIN = "planted-admin-bearer-0123456789"
METRICS = "planted-metrics-bearer-0123456789"
CHAOS = "planted-chaos-bearer-0123456789"
DOOR_PASSWORD = "planted-door-password-0123456789"
PROXY_PASSWORD = "planted-proxy-password-0123456789"
MQTT_PASSWORD = "planted-mqtt-password-0123456789"
AWS_KEY, AWS_SECRET = "AKIAPLANTED000000001", "planted/aws+secret/0123456789abcdefghij"
DEPLOYMENT = "planted-deployment-secret-0123456789-abcdefgh"
PROXIED = "proxied-" + "P" * 60
PLANTED = [
    DEPLOYMENT,
    PROXIED,
    NEVER_USED,
    CLIENT_TOKEN,
    OTHER_CLIENT_TOKEN,
    ADMIN,
    METRICS,
    CHAOS,
    DOOR_PASSWORD,
    PROXY_PASSWORD,
    MQTT_PASSWORD,
    AWS_SECRET,
]

FLEET = """
[gateway]
name = "gw"
metrics = "127.0.0.1:0"
metrics_token_file = "metrics"
admin = "127.0.0.1:0"
admin_token_file = "admin"
door = "127.0.0.1:0"
door_users_file = "users"
client_token_secret_file = "client-token-secret"

[defaults]
endpoint = "{endpoint}"
restart = {{ min_seconds = 0.05, max_seconds = 0.5 }}

[[tunnel]]
name = "device"
mode = "destination"
access_token_file = "device"
services = {{ SSH = "{echo}" }}

[[tunnel]]
name = "operator"
mode = "source"
access_token_env = "OPERATOR_TOKEN"
client_token = "{client_token}"
services = {{ SSH = "door" }}

[[tunnel]]
name = "refused"
mode = "source"
access_token_file = "refused"
services = {{ SSH = "door" }}

[[tunnel]]
name = "behind-a-proxy"
mode = "source"
access_token_file = "proxied"
http_proxy = "http://user:{proxy_password}@{nobody}"
services = {{ SSH = "door" }}
"""


def forms(secret: str) -> dict[str, bytes]:
    """What of a secret would tell it: its ends, as they are and as others write them."""
    plain = secret.encode()
    found = {
        "its beginning": plain[:SHOWN_CHARACTERS],
        "its end": plain[-SHOWN_CHARACTERS:],
        "in hex": plain.hex().encode()[: 2 * SHOWN_CHARACTERS],
        "percent-encoded": quote(secret, safe="").encode(),
        "in JSON": json.dumps(secret)[1:-1].encode(),
    }
    for shift in range(3):
        # A text that stands somewhere in what is base64: without what depends on its neighbours.
        encoded = base64.b64encode(b"\0" * shift + plain)
        found[f"in base64, shifted by {shift}"] = encoded[4 : 4 + SHOWN_CHARACTERS]
    return found


@dataclass
class Search:
    """All that came out, by where."""

    found: dict[str, bytes] = field(default_factory=dict)

    def take(self, where: str, text: str | bytes) -> None:
        """Keep it for the search."""
        given = text.encode() if isinstance(text, str) else text
        self.found[where] = self.found.get(where, b"") + given

    def take_files(self, where: str, folder: Path) -> None:
        """Keep each file below a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.take(f"{where}: {path.name}", path.read_bytes())

    def run(self, where: str, *command: str, stdin: str | None = None, **env: str) -> int:
        """Run a command of ours; keep what it writes. Returns its status."""
        done = subprocess.run(
            [*PROGRAM, *command],
            env={**os.environ, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        self.take(where, f"{done.stdout}\n{done.stderr}")
        return done.returncode

    def get(self, where: str, url: str, bearer: str = "", data: str | None = None) -> int:
        """Ask for a page; keep the answer with its headers. Returns its status."""
        request = urllib.request.Request(url, None if data is None else data.encode())
        request.add_header("Content-Type", "application/json")
        if bearer:
            request.add_header("Authorization", f"Bearer {bearer}")
        try:
            with urllib.request.urlopen(request, timeout=RUN_SECONDS) as answer:
                status, text = answer.status, f"{answer.headers}{answer.read().decode()}"
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, f"{error.headers}{error.read().decode()}"
        self.take(where, text)
        return int(status)

    def leaks(self, secrets: dict[str, str]) -> list[str]:
        """Where a secret stands, and what around it."""
        return [
            f"{name} {how} in {where}: {text[max(0, at - REACH) : at + REACH]!r}"
            for where, text in self.found.items()
            for name, secret in secrets.items()
            for how, form in forms(secret).items()
            if (at := text.find(form)) >= 0
        ]


def list_of_processes() -> str:
    """What every user of this machine sees of this test and its children."""
    lines = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            lines.append(Path(f"/proc/{process.pid}/cmdline").read_bytes().decode())
            lines.append(Path(f"/proc/{process.pid}/comm").read_text())
    return "\n".join(lines)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(text)
    return path


@contextlib.contextmanager
def service_of(folder: Path, nobody: str) -> Iterator[ServiceProcess]:
    """The service, with all that has a secret."""
    credentials = write(
        folder,
        "credentials",
        f"[default]\naws_access_key_id = {AWS_KEY}\naws_secret_access_key = {AWS_SECRET}\n",
    )
    options = ["--plain", "--state", str(folder / "service-state"), "--region", REGION]
    options += ["--management", "127.0.0.1:0", "--credentials", str(credentials)]
    options += ["--admin", "127.0.0.1:0", "--chaos-api"]
    options += ["--chaos-token-file", str(write(folder, "chaos", CHAOS))]
    mqtt = {"TUNNELFLEET_MQTT": f"mqtt://user:{MQTT_PASSWORD}@{nobody}"}
    with ServiceProcess(*options, env=mqtt) as service:
        yield service


def tunnels_of(service: ServiceProcess, count: int) -> list[dict[str, Any]]:
    """Tunnels that the management API has opened."""
    aws = aws_client(service.url, key=AWS_KEY, secret=AWS_SECRET)
    wanted = {"thingName": "press", "services": ["SSH"]}
    found = [dict(aws.open_tunnel(destinationConfig=wanted)) for _ in range(count)]
    aws.close()
    return found


def use_the_doors(search: Search, gateway: UpProcess, env: dict[str, str]) -> None:
    """A connection by `connect`, one by CONNECT, one with a wrong password and one to nowhere."""
    said = subprocess.run(
        [*PROGRAM, "connect", "operator:SSH"],
        env={**os.environ, **env},
        input=b"hello",
        capture_output=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert said.stdout == b"hello", said.stderr
    search.take("connect", said.stderr)
    search.run("connect to nowhere", "connect", "no-such-tunnel", stdin="", **env)
    door = gateway.wait_event("door")["address"]
    host, _, port = door.rpartition(":")
    for password in (DOOR_PASSWORD, f"{DOOR_PASSWORD}-wrong"):
        login = base64.b64encode(f"alice:{password}".encode()).decode()
        with socket.create_connection((host, int(port)), timeout=RUN_SECONDS) as visitor:
            head = f"CONNECT operator:1 HTTP/1.1\r\nProxy-Authorization: Basic {login}\r\n\r\n"
            visitor.sendall(head.encode())
            visitor.shutdown(socket.SHUT_WR)
            search.take("door", read_to_end(visitor))


def ask_the_gateway(
    search: Search, gateway: UpProcess, folder: Path, env: dict[str, str], added: str
) -> None:
    """All that can be asked: pages, the API, commands; a tunnel is added, tokens are replaced."""
    api = gateway.wait_event("admin")["url"]
    pages = gateway.wait_event("metrics")["url"]
    entry = {
        "name": "added",
        "mode": "source",
        "endpoint": "ws://127.0.0.1:1",
        "access_token": added,
        "client_token": CLIENT_TOKEN,
        "services": {"SSH": "door"},
    }
    assert search.get("API: add", f"{api}/v1/tunnels", ADMIN, json.dumps(entry)) == 201
    wrong = {**entry, "name": "wrong", "mode": added, "acces_token": added}
    assert search.get("API: a wrong entry", f"{api}/v1/tunnels", ADMIN, json.dumps(wrong)) == 422
    token = json.dumps({"access_token": NEVER_USED})
    search.get("API: token", f"{api}/v1/tunnels/added/token", ADMIN, token)
    names = ("device", "operator", "refused", "behind-a-proxy", "added")
    paths = ["gateway", "tunnels", "connections", "audit", "actors", "openapi.json"]
    paths += [f"tunnels/{name}" for name in names]
    for path in paths:
        assert search.get(f"API: {path}", f"{api}/v1/{path}", ADMIN) == 200
    assert search.get("API: no bearer", f"{api}/v1/tunnels", METRICS) == 401
    for path in ("", "/metrics", "/healthz", "/readyz", "/page.js"):
        assert search.get(f"page: {path}", pages + path, METRICS) in (200, 503)
    assert search.get("page: no bearer", f"{pages}/metrics", ADMIN) == 401
    with urllib.request.urlopen(
        urllib.request.Request(
            f"{pages}/status/events", headers={"Authorization": f"Bearer {METRICS}"}
        ),
        timeout=RUN_SECONDS,
    ) as page:
        search.take("page: status", page.readline() + page.readline())
    asked = {**env, "TUNNELFLEET_GATEWAY": api, "TUNNELFLEET_GATEWAY_TOKEN": ADMIN}
    for command in (
        ["ls", "--json"],
        ["show", "refused"],
        ["logs"],
        ["audit"],
        ["retry", "--all"],
        ["check", str(folder / "fleet.toml")],
    ):
        search.run(f"command: {command[0]}", *command, **asked)
    search.run("command: replace-token", "replace-token", "added", stdin=f"{NEVER_USED}\n", **asked)
    report = folder / "diag.zip"
    assert search.run("command: diag", "diag", "--out", str(report), **asked) == 0
    with zipfile.ZipFile(report) as archive:
        for name in archive.namelist():
            search.take(f"diag: {name}", archive.read(name))


def ask_the_service(search: Search, service: ServiceProcess, tunnel: str) -> None:
    """Its pages, a fault, and calls that fail."""
    admin = service.ready["admin"]
    for path in ("/metrics", "/healthz", "/chaos"):
        search.get(f"service: {path}", admin + path, CHAOS)
    search.get("service: drop", f"{admin}/chaos/drop", CHAOS, json.dumps({"tunnel": tunnel}))
    search.get("service: no chaos", f"{admin}/chaos/drop", ADMIN, json.dumps({"tunnel": tunnel}))
    for body in ("{}", json.dumps({"tunnelId": AWS_SECRET}), "no JSON"):
        search.get("service: not signed", service.url, data=body)


def run_localproxies(search: Search, folder: Path, endpoint: str, good: str) -> None:
    """One that connects, one with a token that was never issued; both say all that they can."""
    arguments = ["localproxy", "-e", endpoint, "-v", "6", "-s", "SSH=0"]
    env = {"AWSIOT_TUNNEL_ACCESS_TOKEN": good, "AWSIOT_TUNNEL_CLIENT_TOKEN": OTHER_CLIENT_TOKEN}
    with Command.start(folder, *arguments, "--json", env=env) as proxy:
        proxy.wait_event("tunnel_state_changed", state="connected")
        search.take("processes", list_of_processes())
    search.take("localproxy", proxy.output)
    search.run("localproxy, refused", *arguments, AWSIOT_TUNNEL_ACCESS_TOKEN=NEVER_USED)
    search.run("localproxy, a token as an argument", *arguments, "-t", f"{NEVER_USED} ")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_output_has_a_planted_token(tmp_path: Path, nobody: str) -> None:
    search = Search()
    fleet, state = tmp_path / "fleet", tmp_path / "state"
    fleet.mkdir()
    state.mkdir(mode=0o700)
    with Backends() as backends, service_of(tmp_path, nobody) as service:
        tunnel, other, added = tunnels_of(service, 3)
        write(fleet, "device", tunnel["destinationAccessToken"])
        write(fleet, "refused", NEVER_USED)
        write(fleet, "proxied", PROXIED)
        write(fleet, "client-token-secret", DEPLOYMENT)
        write(fleet, "admin", ADMIN)
        write(fleet, "metrics", METRICS)
        write(fleet, "users", f"alice:{PasswordHash.make(DOOR_PASSWORD).text()}\n")
        text = FLEET.format(
            endpoint=service.endpoint,
            echo=backends.echo().address,
            client_token=CLIENT_TOKEN,
            proxy_password=PROXY_PASSWORD,
            nobody=nobody,
        )
        path = write(fleet, "fleet.toml", text)
        env = {"RUNTIME_DIRECTORY": str(state), "OPERATOR_TOKEN": tunnel["sourceAccessToken"]}
        with up(path, state, "--log-level", "debug", env=env) as gateway:
            for name in ("device", "operator"):
                gateway.wait_event("tunnel_state_changed", tunnel=name, state="connected")
            gateway.wait_event("tunnel_state_changed", tunnel="refused", state="refused")
            use_the_doors(search, gateway, env)
            run_localproxies(search, tmp_path, service.endpoint, other["sourceAccessToken"])
            ask_the_gateway(search, gateway, fleet, env, added["sourceAccessToken"])
            ask_the_service(search, service, tunnel["tunnelId"])
            gateway.wait_event(
                "tunnel_state_changed", tunnel="operator", state="connected", count=2
            )
            gateway.signal(signal.SIGUSR2)
            eventually(lambda: "GatewaySupervisor" in gateway.output)
            search.take("processes", list_of_processes())
            # While it runs: what is written by then, the write-ahead log too.
            search.take_files("state", state)
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
        search.take("log of the gateway", gateway.output)
        search.take_files("state at the end", state)
        search.take("service at its end", service.end()[1])
        search.take("service", service.written)
        search.take_files("state of the service", tmp_path / "service-state")

    tokens = {
        f"{name} of {each['tunnelId']}": each[name]
        for each in (tunnel, other, added)
        for name in ("sourceAccessToken", "destinationAccessToken")
    }
    secrets = {
        **{each: each for each in PLANTED},
        **tokens,
        **{
            f"client token for {name}": hmac.new(
                DEPLOYMENT.encode(), token.encode(), hashlib.sha256
            ).hexdigest()
            for name, token in {**tokens, "refused": NEVER_USED}.items()
        },
    }
    # What is searched is there, and a secret in it would be found.
    for where in ("log of the gateway", "localproxy", "service", "diag: events.json"):
        assert len(search.found[where]) > 100, where
    assert any("state.db" in where or "sqlite" in where for where in search.found)
    assert (
        b"DEBUG" in search.found["log of the gateway"]
        or b'"debug"' in search.found["log of the gateway"]
    )
    assert search.leaks(secrets) == []


@pytest.mark.parametrize(
    "text",
    [
        "the token is {}",
        "the token is {:.24}...",
        '{{"token": "{}"}}',
    ],
)
def test_a_secret_would_be_found(text: str) -> None:
    search = Search()
    search.take("somewhere", text.format(AWS_SECRET))
    assert search.leaks({"the secret": AWS_SECRET})


@pytest.mark.parametrize("before", ["", "x", "xx"])
def test_a_secret_in_another_form_would_be_found(before: str) -> None:
    search = Search()
    search.take("hex", (before + AWS_SECRET).encode().hex())
    search.take("base64", base64.b64encode(f"{before}{AWS_SECRET}:y".encode()))
    search.take("url", f"{before}{quote(AWS_SECRET, safe='')}")
    found = search.leaks({"the secret": AWS_SECRET})
    assert {where for where in ("hex", "base64", "url") if f" in {where}: " in str(found)} == {
        "hex",
        "base64",
        "url",
    }
