"""A fleet is one thing to its users: real gateways that share a PostgreSQL and forward over TLS."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.aws_service import aws_client
from tests.support.forwarding import ForwardingFleet, ForwardingGateway
from tests.support.programs import require_program, run_program
from tests.support.rig import FAST_LIMITS
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.web import web_server
from tunnelfleet.runtime import Mode, TcpAddress, TunnelConfig
from tunnelfleet.runtime.gateway.placement import owner_of, shard_of
from tunnelfleet.runtime.service.management import ManagementServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.programs import Sshd

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.programs("curl", "openssl", "ssh", "sshd", "socat"),
]

NAMES = ("one", "two")
KEYS = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class ThingsOnDemand:
    """Stands for the devices: the service tells them of their tunnels, and they connect."""

    def __init__(self, fleet: ForwardingFleet) -> None:
        self._fleet = fleet
        self.told: list[str] = []

    def notify(self, thing: str, access_token: str, services: Sequence[str]) -> None:
        """The service tells a thing of its tunnel."""
        self.told.append(thing)
        config = TunnelConfig(
            name=f"device of {thing} {len(self.told)}",
            mode=Mode.DESTINATION,
            endpoint=self._fleet.rig.rig.endpoint,
            access_token=access_token,
            services=dict.fromkeys(services, self._fleet.rig.echo_address()),
            limits=FAST_LIMITS,
        )
        self._fleet.rig.rig.runtime.open_tunnel(config)


class Two:
    """Two gateways, each with a tunnel of the files, and things that they open tunnels to."""

    def __init__(
        self,
        fleet: ForwardingFleet,
        devices: ThingsOnDemand,
        aws: Any,
        web: TcpAddress,
        sshd: Sshd,
    ) -> None:
        self.fleet = fleet
        self.devices = devices
        self.aws = aws
        self.sshd = sshd
        # Behind the first of each a web server, behind the second what sends back what it gets.
        self.of_one, self.echo_of_one = fleet.names_of("one", NAMES, 2)
        self.of_two, self.echo_of_two, self.shell_of_two = fleet.names_of("two", NAMES, 3)
        for name in (self.of_one, self.of_two):
            fleet.add(name, web)
        for name in (self.echo_of_one, self.echo_of_two):
            fleet.add(name)
        fleet.add(self.shell_of_two, TcpAddress("127.0.0.1", sshd.port))
        self.one, self.two = fleet.start("one"), fleet.start("two")
        fleet.wait_shared(self.one, self.two)

    @property
    def gateways(self) -> tuple[ForwardingGateway, ForwardingGateway]:
        return self.one, self.two

    def open(self, thing: str) -> int:
        """How many tunnels to a thing are open at the service."""
        found = self.aws.list_tunnels(thingName=thing)["tunnelSummaries"]
        return sum(each["status"] == "OPEN" for each in found)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sshd: Sshd) -> Iterator[Two]:
    with contextlib.ExitStack() as stack:
        for key, value in KEYS.items():
            monkeypatch.setenv(key, value)
        fleet = stack.enter_context(ForwardingFleet(tmp_path))
        devices = ThingsOnDemand(fleet)
        service = fleet.rig.rig.service
        monkeypatch.setenv("AWS_CA_BUNDLE", str(service.ca_path))
        api = stack.enter_context(ManagementServer(service, notifier=devices))
        aws = aws_client(api.url)
        stack.callback(aws.close)
        fleet.more = f"""
            [on_demand]
            endpoint_url = "{api.url}"
            endpoint = "{service.endpoint}"
            ca = "{service.ca_path}"
            things = ["pump-*"]
            services = ["SSH"]
            opens_per_second = 20
            """
        yield Two(fleet, devices, aws, stack.enter_context(web_server()), sshd)


def test_a_fleet_is_one_thing_to_its_users(two: Two) -> None:
    curl_through_one_door_to_a_tunnel_of_the_other(two)
    connect_leads_to_every_tunnel(two)
    ssh_leads_to_a_tunnel_of_the_other(two)
    ls_shows_the_fleet_at_any_gateway(two)
    the_page_shows_the_fleet(two)


def curl_through_one_door_to_a_tunnel_of_the_other(two: Two) -> None:
    for gateway, tunnel in ((two.one, two.of_two), (two.two, two.of_one)):
        for proxy in (
            ["--proxytunnel", "--proxy", f"http://{gateway.door}"],
            ["--proxy", f"socks5h://{gateway.door}"],
        ):
            done = run_program(["curl", "-sS", "-m", "60", *proxy, f"http://{tunnel}/page"])
            assert done.stdout == f"you asked for {tunnel}/page".encode()


def connect_leads_to_every_tunnel(two: Two) -> None:
    for gateway, tunnel in ((two.one, two.echo_of_two), (two.two, f"{two.echo_of_one}:ssh")):
        content = os.urandom(300_000)
        assert gateway.run("connect", tunnel, stdin=content).stdout == content
    done = two.one.run("connect", f"{two.of_two}:FTP", stdin=b"", check=False)
    assert done.returncode == 1
    assert f"tunnel {two.of_two} has no service 'FTP', but SSH".encode() in done.stderr
    # Who it was, and by which gateway; it is written behind what is carried.
    eventually(lambda: "via one" in peers_of(two.two, two.echo_of_two), pause_seconds=0.5)
    assert two.one.metric("forward_connections_total", direction="out") > 0
    assert two.one.metric("forward_bytes_total", direction="out") >= 300_000
    assert two.two.metric("forward_connections_total", direction="in") > 0


def ssh_leads_to_a_tunnel_of_the_other(two: Two) -> None:
    host, _, port = two.one.door.rpartition(":")
    connect = [sys.executable, "-m", "tunnelfleet", "connect", f"{two.shell_of_two}:SSH"]
    content = os.urandom(100_000)
    for proxy in (
        f"socat - PROXY:{host}:%h:%p,proxyport={port}",
        f"env RUNTIME_DIRECTORY={two.one.folder} {shlex.join(connect)}",
    ):
        ssh = [*two.sshd.options(), "-o", f"ProxyCommand={proxy}", two.shell_of_two]
        done = run_program([require_program("ssh"), *ssh, "cat; exit 0"], stdin=content)
        assert done.stdout == content


def peers_of(gateway: ForwardingGateway, tunnel: str) -> set[str]:
    records = gateway.json("audit", tunnel, "--kind", "connection")
    return {each["peer"].partition(" ")[2] for each in records}


def ls_shows_the_fleet_at_any_gateway(two: Two) -> None:
    found = two.two.json("ls", "--fleet")
    assert [(each["name"], each["reached"]) for each in found["gateways"]] == [
        ("one", True),
        ("two", True),
    ]
    shown = {each["name"]: (each["gateway"], each["state"]) for each in found["tunnels"]}
    assert shown[two.of_one] == ("one", "connected")
    assert shown[two.of_two] == ("two", "connected")
    page = two.two.json("ls", "--fleet", "--limit", "3")
    rest = two.two.json("ls", "--fleet", "--after", page["next"])
    rows = [*page["tunnels"], *rest["tunnels"]]
    assert (len(page["tunnels"]), rest["next"]) == (3, None)
    assert [each["name"] for each in rows] == sorted(shown)
    table = two.one.run("ls", "--fleet", two.of_two).stdout.decode().splitlines()
    assert [line.split()[:2] for line in table if line] == [
        ["GATEWAY", "STATE"],
        ["one", "up"],
        ["two", "up"],
        ["NAME", "STATE"],
        [two.of_two, "connected"],
    ]
    row = two.one.json("show", two.of_two)
    assert (row["state"], row["gateway"]) == ("connected", "two")


def the_page_shows_the_fleet(two: Two) -> None:
    gateways: dict[str, Any] = {}
    tunnels: dict[str, Any] = {}
    url = two.one.wait_event("metrics")["url"]
    with urllib.request.urlopen(f"{url}/status/events", timeout=WAIT_SECONDS) as events:
        for line in events:
            if line.startswith(b'data: {"gateway"'):
                news = json.loads(line.removeprefix(b"data: "))
                gateways |= {each[0]: each for each in news["gateways"]}
                tunnels |= {each[0]: each for each in news["tunnels"]}
            if len(gateways) == 2 and two.of_two in tunnels and "two" in tunnels[two.of_two]:
                break
    assert gateways["two"][1] == "up"


@pytest.mark.long
def test_a_tunnel_that_was_added_at_run_time_is_found_everywhere(two: Two) -> None:
    (name,) = two.fleet.names_of("two", NAMES, 1, word="added")
    two.fleet.add(name)
    entry = two.fleet.rig.entries.pop(name)
    service = two.fleet.rig.rig.service
    added = f"""
        [[tunnel]]
        name = "{name}"
        mode = "source"
        access_token = "{entry.token}"
        endpoint = "{service.endpoint}"
        ca = "{service.ca_path}"
        services = {{ SSH = "door" }}
        """
    two.two.run("add", "-", stdin=added.encode())
    two.two.wait_event("tunnel_state_changed", tunnel=name, state="connected")
    assert two.one.json("show", name)["gateway"] == "two"
    assert two.one.run("connect", f"ssh.{name}", stdin=b"hello").stdout == b"hello"
    done = two.one.run("connect", "nobody", stdin=b"", check=False)
    assert done.returncode == 1
    assert b"there is no tunnel 'nobody' in this fleet" in done.stderr


@pytest.mark.long
def test_two_who_ask_two_gateways_for_one_thing_get_one_tunnel(two: Two) -> None:
    names_of = two.fleet.names_of
    things = [*names_of("one", NAMES, 1, "pump"), *names_of("two", NAMES, 1, "pump")]
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(gateway.run, "connect", thing, stdin=b"hello", check=False)
            for thing in things
            for gateway in two.gateways
        ]
        done = [run.result() for run in runs]
    assert [each.stdout for each in done] == [b"hello"] * 4, [each.stderr for each in done]
    assert sorted(two.devices.told) == sorted(things)
    assert [two.open(thing) for thing in things] == [1, 1]
    for thing in things:
        owner = owner_of(shard_of(thing), NAMES)
        (gateway,) = [each for each in two.gateways if each.name == owner]
        gateway.wait_event("demand_opened", thing=thing)
