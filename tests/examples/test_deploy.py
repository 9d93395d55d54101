"""The files of examples/deploy are good, as the programs that take them say, and fit a gateway."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.commands import PROGRAM, WAIT_SECONDS
from tests.support.programs import require_program, run_program
from tunnelfleet.runtime.gateway.config import load

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
UNIT = DEPLOY / "systemd" / "tunnelfleet.service"
UNITS = [UNIT, DEPLOY / "systemd" / "tunnelfleet-relay.service"]
SECRET = "0123456789abcdef" * 4


def documents(name: str) -> list[Any]:
    """The objects of a YAML file below examples/deploy."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    """The one object of Kubernetes of a kind."""
    folder = DEPLOY / "kubernetes"
    found = [
        each
        for path in sorted(folder.glob("*.yaml"))
        for each in documents(f"kubernetes/{path.name}")
        if each["kind"] == kind
    ]
    (one,) = found
    return dict(one)


class TestSystemd:
    """The units of a gateway and of a relay."""

    @pytest.mark.programs("systemd-analyze")
    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_it_is_shut_in(self, path: Path) -> None:
        found = run_program(["systemd-analyze", "--offline=yes", "--no-pager", "security", path])
        (level,) = re.findall(rb"Overall exposure level for \S+: ([0-9.]+)", found.stdout)
        assert float(level) < 3

    @pytest.mark.programs("systemd-analyze")
    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_systemd_understands_every_line(self, path: Path, tmp_path: Path) -> None:
        # The program and the manual are where an operator will have put them, not here.
        text = path.read_text().replace("/opt/tunnelfleet/bin/tunnelfleet", "/bin/true")
        unit = tmp_path / path.name
        unit.write_text(re.sub("^Documentation=.*\n", "", text, flags=re.MULTILINE))
        done = subprocess.run(
            ["systemd-analyze", "verify", unit],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_its_time_to_stop_is_longer_than_the_drain(self) -> None:
        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
        assert int(seconds) > 30

    @pytest.mark.parametrize(
        "path", [*UNITS, DEPLOY / "container" / "Containerfile", ROOT / "Makefile"]
    )
    def test_what_the_soak_runs_with_is_what_is_deployed(self, path: Path) -> None:
        found = re.findall(r"\bGLIBC_TUNABLES=(\S+)", path.read_text())
        assert found == ["glibc.malloc.tcache_count=0"]


class TestNotify:
    """A real gateway, started as the unit starts it, with this test as the service manager."""

    @pytest.fixture
    def manager(self, tmp_path: Path) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(tmp_path / "notify"))
            sock.settimeout(WAIT_SECONDS)
            yield sock

    def test_it_says_what_the_manager_waits_for(
        self, manager: socket.socket, tmp_path: Path
    ) -> None:
        fleet = tmp_path / "fleet.toml"
        fleet.write_text('[gateway]\nname = "gw"\nmetrics = "off"\n')
        environ = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "600000",
            "RUNTIME_DIRECTORY": str(tmp_path / "run"),
            "STATE_DIRECTORY": str(tmp_path / "state"),
        }
        process = subprocess.Popen(
            [*PROGRAM, "up", str(fleet)], env=environ, stderr=subprocess.PIPE, text=True
        )
        try:
            said = [manager.recv(1_000).decode() for _ in range(4)]
            assert said[0] == "READY=1"
            assert "STATUS=0 of 0 tunnels connected" in said
            assert said.count("WATCHDOG=1") >= 1
            process.terminate()
            while "STOPPING=1" not in said:
                said.append(manager.recv(1_000).decode())
            assert manager.recv(1_000).startswith(b"EXTEND_TIMEOUT_USEC=")
            _, log = process.communicate(timeout=WAIT_SECONDS)
            assert process.returncode == 0, log
        finally:
            process.kill()
            process.communicate()


class TestContainer:
    """Containerfile and compose file."""

    def test_hadolint_has_nothing_to_say(self) -> None:
        program = Path(sys.executable).parent / "hadolint"
        done = run_program([program, "--format", "json", DEPLOY / "container" / "Containerfile"])
        assert json.loads(done.stdout) == []

    def test_it_runs_as_nobody_and_is_asked_whether_it_lives(self) -> None:
        text = (DEPLOY / "container" / "Containerfile").read_text()
        user = text.rindex("\nUSER 10001:10001\n")
        assert user < text.index("\nENTRYPOINT")
        assert user < text.index("\nHEALTHCHECK")
        assert "/healthz" in text

    def test_what_compose_mounts_is_there(self) -> None:
        (compose,) = documents("container/compose.yaml")
        for name, service in compose["services"].items():
            for volume in service["volumes"]:
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert (DEPLOY / "container" / source).exists(), (name, volume)
                else:
                    assert source in compose["volumes"], (name, volume)
            for port in service["ports"]:
                assert port.startswith("127.0.0.1:"), (name, port)
        context = DEPLOY / "container" / compose["services"]["gateway"]["build"]["context"]
        assert context.resolve() == ROOT

    @pytest.mark.programs("promtool")
    def test_prometheus_takes_its_configuration(self, tmp_path: Path) -> None:
        for name in ("recording_rules.yaml", "alert_rules.yaml"):
            (tmp_path / name).write_text((ROOT / "grafana" / name).read_text())
        config = tmp_path / "prometheus.yaml"
        config.write_text((DEPLOY / "container" / "prometheus.yaml").read_text())
        run_program([require_program("promtool"), "check", "config", config])

    def test_its_fleet_is_good(self, tmp_path: Path) -> None:
        folder = DEPLOY / "container" / "fleet"
        (tmp_path / "fleet.toml").write_text((folder / "fleet.toml").read_text())
        (tmp_path / "tokens").mkdir()
        secret_file(tmp_path / "tokens" / "press-4")
        found = load([tmp_path / "fleet.toml"])
        assert list(found.tunnels) == ["press-4"]


class TestKubernetes:
    """The manifests."""

    @pytest.mark.parametrize("name", ["gateway", "fleet"])
    def test_they_are_valid(self, name: str) -> None:
        program = Path(sys.executable).parent / "kubernetes-validate"
        run_program([program, "--strict", DEPLOY / "kubernetes" / f"{name}.yaml"])

    def test_each_file_is_applied(self) -> None:
        names = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
        (kustomization,) = documents("kubernetes/kustomization.yaml")
        assert {*kustomization["resources"], "kustomization.yaml"} == names

    def test_the_monitor_finds_the_service(self) -> None:
        monitor, service = of_kind("ServiceMonitor"), of_kind("Service")
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] in {
            port["name"] for port in service["spec"]["ports"]
        }

    def test_the_fleet_is_good_on_each_pod(self, tmp_path: Path) -> None:
        gateways = of_kind("StatefulSet")["spec"]
        (container,) = gateways["template"]["spec"]["containers"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        text = of_kind("ConfigMap")["data"]["fleet.toml"]
        for name, file in (("tokens", "press-4"), ("secret", "secret")):
            (tmp_path / name).mkdir()
            secret_file(tmp_path / name / file)
            # A Secret is mounted there; here it stands in a folder of the test.
            assert f'"{mounts[name]}/{file}"' in text
            text = text.replace(f'"{mounts[name]}/', f'"{tmp_path / name}/')
        for ordinal in range(gateways["replicas"]):
            config = tmp_path / "fleet.toml"
            config.write_text(
                text.replace("[gateway]", f'[gateway]\nname = "tunnelfleet-{ordinal}"')
            )
            found = load([config]).gateway
            assert (found.placement_ordinal, found.placement_members) == (ordinal, 3)
            assert (
                found.drain_seconds < gateways["template"]["spec"]["terminationGracePeriodSeconds"]
            )

    def test_nothing_runs_as_root(self) -> None:
        pod = of_kind("StatefulSet")["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def secret_file(path: Path) -> None:
    """Write what stands for a token or a secret."""
    path.write_text(SECRET)
    path.chmod(0o600)
