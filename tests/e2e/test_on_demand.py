"""The whole path on one machine: ssh, a gateway, OpenTunnel, MQTT, the device's gateway, sshd.

Every part is a process of its own: mosquitto, `tunnelfleet service` with its management API, two
`tunnelfleet up` and sshd. No tunnel is open when somebody asks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.aws_service import ANY_KEYS, ServiceProcess, aws_client
from tests.support.gateway import UpProcess, seen_in_time, up
from tests.support.mosquitto import running_mosquitto
from tests.support.programs import Sshd, require_program, run_program
from tests.support.web import web_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.programs("mosquitto", "ssh", "sshd")

PROGRAM = [sys.executable, "-m", "tunnelfleet"]
EXAMPLE = Path(__file__).parents[2] / "examples/gateway/on-demand-here"


class Site:
    """A broker, a service, sshd, and the gateway of the devices; the operators' one is `up`."""

    def __init__(self, service: ServiceProcess, sshd: Sshd) -> None:
        self.service = service
        self.sshd = sshd
        self.aws = aws_client(service.url)

    def use(self, folder: Path) -> None:
        """Have another gateway of operators, whose files are there."""
        self.file = folder / "operators.toml"
        self.state = folder / "operators"
        self.state.mkdir()

    def write(self, **keys: float) -> None:
        """Write the operators' file."""
        more = "\n".join(f"{key} = {value}" for key, value in keys.items())
        self.file.write_text(
            f"""
            [gateway]
            name = "operators"
            metrics = "127.0.0.1:0"
            drain_seconds = 1

            [on_demand]
            endpoint_url = "{self.service.url}"
            endpoint = "{self.service.endpoint}"
            things = ["press-*"]
            services = ["SSH"]
            opens_per_second = 20
            {more}
            """
        )

    @contextlib.contextmanager
    def up(self, **keys: float) -> Iterator[UpProcess]:
        """Run the operators' gateway, with these keys of `[on_demand]`."""
        self.write(**keys)
        with up(self.file, self.state, env=ANY_KEYS) as gateway:
            gateway.wait_event("up")
            yield gateway

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RUNTIME_DIRECTORY": str(self.state)}

    def ssh(self, command: str, stdin: bytes = b"") -> bytes:
        """Run a command on the device, as people do."""
        proxy = f"env RUNTIME_DIRECTORY={self.state} {' '.join(PROGRAM)} connect %h"
        ssh = [require_program("ssh"), *self.sshd.options(), "-o", f"ProxyCommand={proxy}"]
        return run_program([*ssh, "press-4", command], stdin=stdin).stdout

    def connect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `tunnelfleet connect`."""
        return self.tunnelfleet("connect", *arguments)

    def tunnelfleet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            check=False,
        )

    def tunnels(self) -> list[dict[str, Any]]:
        """All that the service knows, closed ones too unless they were deleted."""
        found: list[dict[str, Any]] = self.aws.list_tunnels()["tunnelSummaries"]
        return found


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tmp_path = tmp_path_factory.mktemp("site")
    for name in ("broker", "sshd", "devices"):
        (tmp_path / name).mkdir()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running_mosquitto(tmp_path / "broker"))
        sshd = stack.enter_context(Sshd.start(tmp_path / "sshd"))
        url = f"mqtt://127.0.0.1:{broker.port}"
        service = stack.enter_context(
            ServiceProcess("--plain", "--management", "127.0.0.1:0", "--mqtt", url)
        )
        path = tmp_path / "devices.toml"
        path.write_text(
            f"""
            [gateway]
            name = "devices"
            metrics = "127.0.0.1:0"

            [[notify]]
            broker = "{url}"
            things = ["press-4", "press-5"]
            services = {{ SSH = "127.0.0.1:{sshd.port}" }}
            endpoint = "{service.endpoint}"
            """
        )
        devices = stack.enter_context(up(path, tmp_path / "devices"))
        devices.wait_event("broker_subscribed")
        yield Site(service, sshd)


@pytest.fixture
def site(started: Site, tmp_path: Path) -> Site:
    started.use(tmp_path)
    return started


def test_from_ssh_to_sshd_with_no_tunnel_open(site: Site) -> None:
    with site.up(idle_seconds=600) as gateway:
        assert site.tunnels() == []
        assert site.ssh("tr a-z A-Z", b"hello") == b"HELLO"
        (tunnel,) = site.tunnels()
        assert tunnel["status"] == "OPEN"
        # Another session uses the same tunnel.
        assert site.ssh("echo again") == b"again\n"
        assert [each["tunnelId"] for each in site.tunnels()] == [tunnel["tunnelId"]]
        # Nobody uses it any more: it is closed, and deleted.
        site.write(idle_seconds=0.2)
        gateway.signal(signal.SIGHUP)
        gateway.wait_event("demand_closed", cause="idle", id=tunnel["tunnelId"])
        assert site.tunnels() == []
        assert len(gateway.events("demand_opened")) == 1
        assert "tunnelfleet_demand_opened_total 1.0" in gateway.get("/metrics")
        audit = site.tunnelfleet("audit", "--kind", "demand", "--json")
        assert '"tunnel": "press-4"' in audit.stdout
        assert "a tunnel is opened for it" in audit.stdout
        assert gateway.output.count("sourceAccessToken") == 0


def test_what_goes_wrong_is_one_line_and_exit_status_1(site: Site) -> None:
    with site.up(wait_seconds=0.5, negative_seconds=600) as gateway:
        for name, says in [
            ("press-9", "within 0.5 s"),
            ("press-9", "it is tried again in "),
            ("pump-1", "there is no tunnel 'pump-1' in this fleet"),
            ("press-4:FTP", "tunnel press-4 has no service 'FTP', but SSH"),
        ]:
            done = site.connect(name)
            assert done.returncode == 1
            (line,) = done.stderr.splitlines()
            assert line.startswith("tunnelfleet: ")
            assert says in line
        gateway.wait_event("demand_closed", cause="no_device")
        assert site.tunnels() == []


def test_a_gateway_killed_with_9_has_its_tunnels_back_and_one_stopped_leaves_none(
    site: Site,
) -> None:
    with site.up() as gateway:
        assert site.ssh("echo one") == b"one\n"
        (before,) = site.tunnels()
        gateway.signal(signal.SIGKILL)
        gateway.wait_end()
    with site.up() as gateway:
        gateway.wait_event("demand_found", id=before["tunnelId"])
        assert site.ssh("echo two") == b"two\n"
        (after,) = site.tunnels()
        assert after["tunnelId"] == before["tunnelId"]
        assert gateway.events("demand_opened") == []
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
        assert len(gateway.events("demand_closed", cause="stop")) == 1
    seen_in_time(lambda: site.tunnels() == [], "it is closed")


def test_the_example_for_one_machine(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running_mosquitto(tmp_path))
        url = f"mqtt://127.0.0.1:{broker.port}"
        service = stack.enter_context(
            ServiceProcess("--plain", "--management", "127.0.0.1:0", "--mqtt", url)
        )
        web = stack.enter_context(web_server())
        here = {
            "mqtt://127.0.0.1:1883": url,
            "ws://127.0.0.1:8443": service.endpoint,
            "http://127.0.0.1:8444": service.url,
            "127.0.0.1:8000": str(web),
            "127.0.0.1:9465": "127.0.0.1:0",
        }

        def run(name: str) -> UpProcess:
            text = (EXAMPLE / f"{name}.toml").read_text(encoding="utf-8")
            for written, real in here.items():
                text = text.replace(written, real)
            if "metrics" not in text:
                text += '\n[gateway]\nmetrics = "127.0.0.1:0"\n'
            path, state = tmp_path / f"{name}.toml", tmp_path / name
            state.mkdir()
            path.write_text(text)
            return stack.enter_context(up(path, state, env=ANY_KEYS))

        run("device").wait_event("broker_subscribed")
        run("operators").wait_event("up")
        done = subprocess.run(
            [*PROGRAM, "connect", "press-4"],
            input=b"GET /state HTTP/1.0\r\nHost: here\r\n\r\n",
            capture_output=True,
            timeout=60,
            env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / "operators")},
            check=True,
        )
    assert done.stdout.endswith(b"you asked for here/state")
