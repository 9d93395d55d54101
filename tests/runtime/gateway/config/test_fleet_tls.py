"""The keys by which gateways reach each other, and the certificates that they name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.forwarding import Authority
from tunnelfleet.runtime.gateway.config import ConfigProblems, FleetConfig, load

SHARED = """
placement = "postgres"
state = "postgresql://db.example/fleet"
client_token_secret_file = "secret"
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority") / "ca")
    made.issue("one")
    return made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("other") / "ca")
    made.issue("one")
    return made


def read(folder: Path, keys: dict[str, str], shared: str = SHARED) -> FleetConfig:
    (folder / "secret").write_text("s" * 40)
    (folder / "secret").chmod(0o600)
    lines = [f'{key} = "{value}"' for key, value in {"name": "one", **keys}.items()]
    path = folder / "fleet.toml"
    path.write_text("\n".join(["[gateway]", shared, *lines]))
    return load([path], environ={"STATE_DIRECTORY": str(folder)})


def all_keys(authority: Authority, **more: str) -> dict[str, str]:
    return {"fleet_listen": "10.0.0.1:7443", **authority.keys("one"), **more}


def only_problem(folder: Path, keys: dict[str, str], shared: str = SHARED) -> tuple[str, str]:
    with pytest.raises(ConfigProblems) as caught:
        read(folder, keys, shared)
    (problem,) = [each for each in caught.value.problems if each.is_error]
    return problem.key, problem.text


def test_what_the_commands_of_the_docs_make(tmp_path: Path, authority: Authority) -> None:
    config = read(tmp_path, all_keys(authority))
    assert config.gateway.fleet_tls is not None
    assert str(config.gateway.fleet_listen) == "10.0.0.1:7443"
    assert {Path(each) for each in authority.keys("one").values()} <= config.files
    assert not config.warnings


def test_a_certificate_that_is_soon_over_is_warned_of(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    authority.issue("one", days=20)
    (warning,) = read(tmp_path, all_keys(authority)).warnings
    assert warning.key == "gateway.fleet_cert"
    assert "one.pem is over on " in warning.text


def test_a_reload_takes_over_files_and_no_addresses(tmp_path: Path, authority: Authority) -> None:
    before = read(tmp_path, all_keys(authority)).gateway
    again = read(tmp_path, all_keys(authority)).gateway
    assert before.needing_restart(again) == []
    moved = read(tmp_path, all_keys(authority, fleet_listen="10.0.0.2:7443")).gateway
    assert before.needing_restart(moved) == ["fleet_listen"]


def test_a_listener_at_all_addresses_has_to_say_where_it_is(
    tmp_path: Path, authority: Authority
) -> None:
    keys = all_keys(authority, fleet_listen="0.0.0.0:7443")
    key, text = only_problem(tmp_path, keys)
    assert key == "gateway.fleet_listen"
    assert "write fleet_address" in text
    files = authority.keys("one")
    lines = f"""
        fleet_listen = "0.0.0.0:7443"
        fleet_address = "gw-1.example:7443"
        fleet_cert = "{files["fleet_cert"]}"
        fleet_key = "{files["fleet_key"]}"
        fleet_ca = "{files["fleet_ca"]}"
        """
    assert read(tmp_path, {}, SHARED + lines).gateway.fleet_address == "gw-1.example:7443"


@pytest.mark.parametrize("left_out", ["fleet_listen", "fleet_cert", "fleet_key", "fleet_ca"])
def test_all_or_none(tmp_path: Path, authority: Authority, left_out: str) -> None:
    keys = all_keys(authority)
    del keys[left_out]
    _key, text = only_problem(tmp_path, keys)
    assert text == f"it needs {left_out} too: docs/fleet.md says how the files are made"


def test_a_fleet_that_is_not_shared_by_leases_has_none(
    tmp_path: Path, authority: Authority
) -> None:
    key, text = only_problem(tmp_path, all_keys(authority), shared="")
    assert key == "gateway.fleet_listen"
    assert 'it is for placement = "postgres"' in text


def test_a_certificate_of_another_gateway(tmp_path: Path, authority: Authority) -> None:
    key, text = only_problem(tmp_path, all_keys(authority, name="two"))
    assert key == "gateway.fleet_cert"
    assert text.endswith(
        "one.pem is for one, and this gateway is called two: issue one with that DNS name"
    )


def test_a_certificate_of_another_authority(
    tmp_path: Path, authority: Authority, other: Authority
) -> None:
    keys = all_keys(authority, fleet_ca=other.keys("one")["fleet_ca"])
    key, text = only_problem(tmp_path, keys)
    assert key == "gateway.fleet_cert"
    assert "is refused by those who trust" in text
    assert text.endswith("issue it with that authority")


def test_a_key_of_another_certificate(
    tmp_path: Path, authority: Authority, other: Authority
) -> None:
    keys = all_keys(authority, fleet_key=other.keys("one")["fleet_key"])
    key, text = only_problem(tmp_path, keys)
    assert key == "gateway.fleet_key"
    assert "is not the key of" in text


def test_a_key_with_a_passphrase(tmp_path: Path, authority: Authority) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", authority.keys("one")["fleet_key"], "-aes256"]
    subprocess.run(
        [*command, "-passout", "pass:secret", "-out", str(locked)], check=True, capture_output=True
    )
    key, text = only_problem(tmp_path, all_keys(authority, fleet_key=str(locked)))
    assert key == "gateway.fleet_key"
    assert "the key has a passphrase" in text


@pytest.mark.parametrize("key", ["fleet_cert", "fleet_key", "fleet_ca"])
def test_files_that_are_not_there_or_are_something_else(
    tmp_path: Path, authority: Authority, key: str
) -> None:
    found, text = only_problem(tmp_path, all_keys(authority, **{key: str(tmp_path / "none")}))
    assert found == f"gateway.{key}"
    assert text == f"cannot read {tmp_path / 'none'}: No such file or directory"
    (tmp_path / "else").write_text("something else")
    (tmp_path / "else").chmod(0o600)
    _found, text = only_problem(tmp_path, all_keys(authority, **{key: str(tmp_path / "else")}))
    assert "PEM" in text


def test_a_key_that_everybody_can_read(tmp_path: Path, authority: Authority) -> None:
    path = tmp_path / "open.key"
    path.write_text(Path(authority.keys("one")["fleet_key"]).read_text())
    path.chmod(0o644)
    (warning,) = read(tmp_path, all_keys(authority, fleet_key=str(path))).warnings
    assert warning.text == f"everybody can read {path}; run: chmod o-rwx {path}"
