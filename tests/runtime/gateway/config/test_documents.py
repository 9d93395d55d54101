"""Every key of the schema is in the documentation, in an example and in a test."""

from __future__ import annotations

import grp
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.wrong_files import WRONG_FILES
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.gateway.config import json_schema, load
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.tls import ensure_certificate

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "examples" / "gateway"
GUIDE = (ROOT / "docs" / "gateway.md").read_text()
SCHEMA = json_schema()["$defs"]
TABLES = (
    "GatewayKeys",
    "TunnelKeys",
    "limits",
    "restart",
    "DoorRuleKeys",
    "NotifyKeys",
    "OnDemandKeys",
)
KEYS = [(table, key) for table in TABLES for key in SCHEMA[table]["properties"]]
STARTING_POINTS = sorted(path.name for path in EXAMPLES.glob("*.toml"))
SECRET_KEYS = (
    "access_token_file",
    "admin_token_file",
    "metrics_token_file",
    "client_token_secret_file",
    "password_file",
)


def test_nothing_is_stale() -> None:
    run = subprocess.run(
        [sys.executable, "tools/generate_gateway_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_every_key_is_in_the_guide(table: str, key: str) -> None:
    (row,) = re.findall(rf"^\| `{key}` \|.*\|$", section(table), flags=re.MULTILINE)
    assert SCHEMA[table]["properties"][key]["description"] in row.replace("\\|", "|")


def section(table: str) -> str:
    titles = [
        "`[gateway]`",
        "`[[tunnel]]`, and",
        "`limits`",
        "`restart`",
        "`[[door_rule]]`",
        "`[[notify]]`",
        "`[on_demand]`",
    ]
    start = GUIDE.index(f"### {titles[TABLES.index(table)]}")
    return re.split(r"\n### |\n<!-- keys: end", GUIDE[start + 4 :])[0]


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_every_key_is_in_an_example(table: str, key: str) -> None:
    text = "\n".join(path.read_text() for path in EXAMPLES.rglob("*.toml"))
    assert re.search(rf"^(# )*{key} = ", text, flags=re.MULTILINE), table


TESTED = " ".join(
    path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != "x"
) + " ".join(text for text, *_ in WRONG_FILES.values())


@pytest.mark.parametrize(
    ("table", "key"), [each for each in KEYS if each[0] not in ("limits", "restart")]
)
def test_every_key_is_in_a_test(table: str, key: str) -> None:
    assert re.search(rf"\b{key}\b *=", TESTED), table


@pytest.mark.parametrize(
    ("table", "key"), [each for each in KEYS if each[0] in ("limits", "restart")]
)
def test_a_limit_or_a_delay_arrives_where_it_is_used(tmp_path: Path, table: str, key: str) -> None:
    default = SCHEMA[table]["properties"][key]["default"]
    value = default - 1 if default > 1 else default / 2
    path = tmp_path / "f.toml"
    path.write_text(
        '[[tunnel]]\nname = "a"\nmode = "source"\nregion = "eu-west-1"\n'
        f'access_token_env = "T"\n{table}.{key} = {value}\n'
    )
    tunnel = load([path], {"T": "t" * 40, "STATE_DIRECTORY": "unused"}).tunnels["a"]
    found = tunnel.limits.backoff if table == "restart" else tunnel.limits
    assert getattr(found, key) == value


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a certificate."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    with TunnelService() as service:
        assert service.ca_path is not None
        shutil.copy(service.ca_path, path)
    return path


@pytest.fixture
def examples(tmp_path: Path, authorities: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples, with the files and variables that they name."""
    folder = tmp_path / "gateway"
    shutil.copytree(EXAMPLES, folder)
    (folder / "tokens").mkdir()
    shutil.copy(authorities, folder / "ca.pem")
    for path in folder.rglob("*.toml"):
        for table in tables(tomllib.loads(path.read_text())):
            for key in SECRET_KEYS:
                if key in table:
                    write_secret(folder / table[key])
            if "door_users_file" in table:
                write_users(folder / table["door_users_file"])
            if "cert_file" in table:
                files = ensure_certificate(folder / "tls", "127.0.0.1")
                shutil.copy(files.certificate, folder / table["cert_file"])
                shutil.copy(files.private_key, folder / table["key_file"])
            if "access_token_env" in table:
                monkeypatch.setenv(table["access_token_env"], table["access_token_env"] * 4)
    # The group of the examples, of which no more than that it is there is asked.
    groups = {"operators": grp.getgrgid(os.getgid())}
    monkeypatch.setattr(grp, "getgrnam", groups.__getitem__)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return folder


def tables(data: dict[str, Any]) -> list[dict[str, Any]]:
    several = (each for name in ("tunnel", "notify") for each in data.get(name, []))
    return [data.get("gateway", {}), data.get("defaults", {}), *several]


def write_secret(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(path.name * 8)


def write_users(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(f"alice:{PasswordHash.make('secret').text()}\n")


@pytest.mark.parametrize("name", STARTING_POINTS)
def test_each_example_is_good(
    name: str, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(examples / name)]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert re.fullmatch(r"good: ([1-9]\d* tunnels?|0 tunnels, [1-9].*)(, .*)?\n", said.out)
    # The one warning that an example has is explained beside it.
    expected = 1 if name == "shared.toml" else 0
    assert len(said.err.splitlines()) == expected, said.err


def test_the_guide_names_every_example() -> None:
    for name in STARTING_POINTS:
        assert f"`{name}`" in GUIDE


def test_the_guide_s_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    # The other one is run where the admin API is mounted.
    (program,) = [each for each in programs if "make_api" not in each]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("T", "t" * 40)
    Path("fleet.toml").write_text(
        '[[tunnel]]\nname = "press-4"\nmode = "source"\nendpoint = "ws://127.0.0.1:1"\n'
        'access_token_env = "T"\n'
    )
    exec(compile(program, "docs/gateway.md", "exec"), {})
    assert "0 added, 0 changed, 0 removed, 1 unchanged" in capsys.readouterr().out


def test_the_guide_s_first_file_is_good(tmp_path: Path) -> None:
    first = re.findall(r"^```toml\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "tokens").mkdir()
    write_secret(tmp_path / "tokens" / "press-4")
    (tmp_path / "fleet.toml").write_text(first)
    assert list(load([tmp_path / "fleet.toml"], {"STATE_DIRECTORY": "x"}).tunnels) == ["press-4"]
