"""The root package: its names, its version, its program, and how little each of them loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

import tunnelfleet
from tunnelfleet import runtime, version
from tunnelfleet.actors.config import TunnelConfig
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.metrics import collector
from tunnelfleet.runtime.service import TunnelService

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = PYPROJECT["project"]["version"]
PROGRAM = Path(sys.executable).parent / "tunnelfleet"

LOADED = """
import json, sys
{before}
try:
    {statement}
finally:
    print(json.dumps(sorted(name for name in sys.modules if name.startswith("tunnelfleet"))))
"""
PROTO = [
    "tunnelfleet.proto",
    *(
        f"tunnelfleet.proto.{path.stem}"
        for path in (ROOT / "proto").glob("*.py")
        if path.stem not in ("__init__", "tunnel_pb2")
    ),
    "tunnelfleet.proto.tunnel_pb2",
]


def run_code(
    *command: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # A measurement of coverage loads modules of its own.
    own = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**own, **(environment or {})},
    )


def loaded_by(statement: str, before: str = "") -> list[str]:
    """The modules of ours that a fresh process has loaded after a statement."""
    done = run_code(sys.executable, "-c", LOADED.format(statement=statement, before=before))
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


class TestWhatIsLoaded:
    @pytest.mark.parametrize(
        "statement", ["import tunnelfleet", "import tunnelfleet; tunnelfleet.TunnelRuntime.__doc__"]
    )
    def test_the_names_are_loaded_when_they_are_asked_for(self, statement: str) -> None:
        is_asked = "TunnelRuntime" in statement
        found = loaded_by(statement)
        assert ("tunnelfleet.runtime" in found) is is_asked
        assert is_asked or found == ["tunnelfleet"]

    def test_their_list_loads_nothing(self) -> None:
        assert loaded_by("import tunnelfleet; dir(tunnelfleet)") == ["tunnelfleet"]

    @pytest.mark.parametrize(
        "statement", ["import tunnelfleet.proto", "from tunnelfleet import proto"]
    )
    def test_the_protocol_loads_nothing_else_of_ours(self, statement: str) -> None:
        assert loaded_by(statement) == sorted(["tunnelfleet", *PROTO])

    def test_the_version_loads_nothing_of_the_command_line(self) -> None:
        found = loaded_by("main()", _PROGRAM_ASKED_FOR_VERSION)
        assert found == ["tunnelfleet", "tunnelfleet.__main__", "tunnelfleet.version"]

    def test_a_single_tunnel_loads_no_server_no_metrics_and_no_validation(self) -> None:
        """Each of these takes memory, and time at the start, of every localproxy."""
        with TunnelService() as service:
            token = service.open_tunnel("lean", ["SSH"]).destination_token
            done = run_code(
                sys.executable,
                "-c",
                _LOCALPROXY_WITH_A_LINK,
                *("-e", service.endpoint, "-c", str(service.ca_path), "-d", "22"),
                environment={"AWSIOT_TUNNEL_ACCESS_TOKEN": token},
            )
        assert done.returncode == 0, done.stderr
        assert "connected\n" in done.stdout
        found = set(json.loads(done.stdout.splitlines()[-1]))
        assert "tunnelfleet.actors.transport.websocket_actor" in found
        assert sorted(found & NOT_FOR_ONE_TUNNEL.keys()) == []
        assert len(found) <= MOST_MODULES, "more than a single tunnel needs"

    def test_what_needs_an_extra_is_loaded_by_whoever_wants_it_alone(self) -> None:
        """Everything else runs where only the dependencies of the package are installed."""
        done = run_code(sys.executable, "-c", _ALL_WITHOUT_EXTRAS)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == NEEDS_AN_EXTRA


NEEDS_AN_EXTRA = {
    "tunnelfleet.actors.kernel.uv_loop": "uvloop",
    "tunnelfleet.pytest_plugin": "pytest",
    "tunnelfleet.runtime.gateway.devices.connection": "paho",
    "tunnelfleet.runtime.gateway.devices.session": "paho",
    "tunnelfleet.runtime.gateway.placement.postgres": "psycopg",
}
"""The modules that cannot be loaded without an extra, and what they miss."""

_ALL_WITHOUT_EXTRAS = """
import importlib, json, pkgutil, sys
import tunnelfleet

class Missing:
    def find_spec(self, name, path=None, target=None):
        extras = {"boto3", "botocore", "paho", "psycopg", "pytest", "ray", "uvloop"}
        if name.partition(".")[0] in extras:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
failed = {}
for found in pkgutil.walk_packages(tunnelfleet.__path__, "tunnelfleet."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            failed[found.name] = error.name.partition(".")[0]
print(json.dumps(failed))
"""


NOT_FOR_ONE_TUNNEL = {
    "aiohttp": "the admin server and the service",
    "ctypes": "a token on the command line, and a host that forks",
    "difflib": "a name with a typing mistake",
    "email": "pip's way to know a version",
    "google.protobuf.text_format": "the form of protobuf that is in Python",
    "hashlib": "whoever wants more than SHA-1",
    "html": "names of entities",
    "http": "a service that refuses",
    "ipaddress": "addresses of IPv6, and networks in NO_PROXY",
    "json": "`--json`, settings, and tokens that JSON writes in another way",
    "pathlib": "a folder of mappings",
    "pickle": "the form of protobuf that is in Python",
    "prometheus_client": "metrics",
    "pydantic": "files of a gateway",
    "rich": "tables",
    "sqlalchemy": "the state of a gateway",
    "tunnelfleet.actors.api.handler": "the client API",
    "tunnelfleet.runtime.client": "the client API",
    "typer": "`--help`, and a command line that is wrong",
    "unicodedata": "host names that are not in ASCII",
    "urllib.parse": "proxies",
    "websocket": "a CLOSE that gives a reason",
}
"""What a localproxy with a link has not loaded, and who needs it."""

MOST_MODULES = 325
"""With those of Python itself; 308 when this was written, 330 before, and 667 once."""

_LOCALPROXY_WITH_A_LINK = """
import os, signal, sys
from tunnelfleet.runtime.cli.localproxy import command, run

class Judge(run.Judge):
    def judge(self, event):
        notes = super().judge(event)
        if str(getattr(event, "state", "")) == "connected":
            os.kill(os.getpid(), signal.SIGTERM)
        return notes

run.Judge = Judge
assert command.main(sys.argv[1:]) == 0
found = sorted(sys.modules)
import json
print(json.dumps(found))
"""

_PROGRAM_ASKED_FOR_VERSION = """
sys.argv[1:] = ["--version"]
from tunnelfleet.__main__ import main
"""


class TestNames:
    def test_they_are_those_of_the_runtime_and_the_version(self) -> None:
        assert set(tunnelfleet.__all__) == {*runtime.__all__, "__version__"}
        assert len(tunnelfleet.__all__) == len(set(tunnelfleet.__all__))

    @pytest.mark.parametrize("name", runtime.__all__)
    def test_each_is_the_runtime_s(self, name: str) -> None:
        assert getattr(tunnelfleet, name) is getattr(runtime, name)
        assert name in dir(tunnelfleet)

    def test_a_name_that_is_not_there(self) -> None:
        with pytest.raises(AttributeError, match="'tunnelfleet' has no attribute 'Tunel'"):
            getattr(tunnelfleet, "Tunel")  # noqa: B009 - a type checker would see it

    def test_all_of_them_at_once(self) -> None:
        names: dict[str, object] = {}
        exec("from tunnelfleet import *", names)
        assert set(tunnelfleet.__all__) <= names.keys()


class TestVersion:
    def test_it_is_declared_once(self) -> None:
        assert tunnelfleet.__version__ == version.VERSION == DECLARED
        found = [
            path.relative_to(ROOT).as_posix()
            for folder in ("actors", "package", "proto", "runtime")
            for path in (ROOT / folder).rglob("*.py")
            if f'"{DECLARED}' in path.read_text() or f"/{DECLARED}" in path.read_text()
        ]
        assert found == []

    def test_everybody_who_shows_it_follows(self) -> None:
        (default,) = [
            each.default
            for name, each in TunnelConfig.__dataclass_fields__.items()
            if name == "user_agent"
        ]
        assert default == f"tunnelfleet/{DECLARED} (python)"
        assert collector._versions()["version"] == DECLARED

    def test_sources_that_are_not_installed_have_none(self) -> None:
        blocked = """
import importlib.metadata, os
def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = missing
os.listdir = lambda _folder: []
import tunnelfleet
print(tunnelfleet.__version__)
"""
        assert run_code(sys.executable, "-c", blocked).stdout == "unknown\n"


_INTERRUPTED_WHILE_LOADING = """
import sys
from tunnelfleet.__main__ import main

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "tunnelfleet.runtime.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
sys.exit(main())
"""


class TestProgram:
    @pytest.mark.parametrize(
        ("output", "status", "said"),
        [
            (">&-", 0, ""),
            (">/dev/full", 1, "tunnelfleet: cannot write the output: No space left on device\n"),
        ],
        ids=["closed", "full"],
    )
    def test_the_version_without_anywhere_to_print_it(
        self, output: str, status: int, said: str
    ) -> None:
        done = run_code("sh", "-c", f'"$0" --version {output}', PROGRAM)
        assert (done.returncode, done.stderr) == (status, said)

    def test_ctrl_c_while_it_is_loaded_says_nothing(self) -> None:
        done = run_code(sys.executable, "-c", _INTERRUPTED_WHILE_LOADING)
        assert (done.returncode, done.stderr) == (130, "")

    @pytest.mark.parametrize(
        "command",
        [
            [PROGRAM, "--version"],
            [PROGRAM, "version"],
            [sys.executable, "-m", "tunnelfleet", "--version"],
            [sys.executable, "-m", "tunnelfleet", "version"],
            [sys.executable, "-m", "tunnelfleet.runtime.cli", "--version"],
        ],
        ids=lambda command: " ".join(Path(word).name for word in command),
    )
    def test_every_way_to_ask_for_the_version(self, command: list[str | Path]) -> None:
        done = run_code(*command)
        assert (done.returncode, done.stdout) == (0, f"{version.version_line()}\n"), done.stderr

    def test_the_flag_stands_in_the_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        assert "--version" in capsys.readouterr().out

    def test_its_status_is_that_of_the_command(self) -> None:
        done = run_code(sys.executable, "-m", "tunnelfleet", "no-such-command")
        assert done.returncode == 2
        assert "no-such-command" in done.stderr
