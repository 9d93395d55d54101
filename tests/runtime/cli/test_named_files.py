"""Files that a command line names, of every command: what cannot be used is told in one way.

Each is one line that names the file, with status 2, before anything is started.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli import errors, main
from tunnelfleet.runtime.service.tls import ensure_certificate

SERVICE = ["service", "--listen", "127.0.0.1:0"]
MANAGED = [*SERVICE, "--management", "127.0.0.1:0"]
MQTT = [*MANAGED, "--mqtt", "mqtts://127.0.0.1:1"]
LOCALPROXY = ["localproxy", "-t", "x", "-r", "us-east-1"]
NO_GATEWAY = ["--gateway", "unix:/nowhere/admin.sock"]

READ: dict[str, list[str]] = {
    "check": ["check", "{}"],
    "migrate": ["migrate", "{}"],
    "add": ["add", "{}", *NO_GATEWAY],
    "token": ["replace-token", "a", "--token-file", "{}", *NO_GATEWAY],
    "client token": (
        ["replace-token", "a", "--token-file", "{cert}", "--client-token-file", "{}", *NO_GATEWAY]
    ),
    "gateway token": ["ls", "--gateway-token-file", "{}", *NO_GATEWAY],
    "localproxy capath": [*LOCALPROXY, "-s", "5555", "--capath", "{}"],
    "localproxy config": [*LOCALPROXY, "-s", "5555", "--config", "{}"],
    "localproxy config-dir": [*LOCALPROXY, "--config-dir", "{}"],
    "localproxy settings": [*LOCALPROXY, "-s", "5555", "--settings-json", "{}"],
    "service cert": [*SERVICE, "--cert", "{}", "--key", "{key}"],
    "service key": [*SERVICE, "--cert", "{cert}", "--key", "{}"],
    "service credentials": [*MANAGED, "--credentials", "{}"],
    "service mqtt-ca": [*MQTT, "--mqtt-ca", "{}"],
    "service mqtt-cert": [*MQTT, "--mqtt-cert", "{}", "--mqtt-key", "{key}"],
    "service mqtt-key": [*MQTT, "--mqtt-cert", "{cert}", "--mqtt-key", "{}"],
    "service chaos token": (
        [*SERVICE, "--admin", "127.0.0.1:0", "--chaos-api", "--chaos-token-file", "{}"]
    ),
    "bench": [
        "bench",
        "-e",
        "h:1",
        "--source-token",
        "x",
        "--destination-token",
        "y",
        "--ca",
        "{}",
    ],
}
WRITTEN: dict[str, list[str]] = {
    "diag": ["diag", "--out", "{}", *NO_GATEWAY],
    "localproxy settings": ["localproxy", "--export-default-settings", "{}"],
    "service ca-out": [*SERVICE, "--ca-out", "{}"],
    "service state": [*SERVICE, "--state", "{}"],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    files = ensure_certificate(tmp_path_factory.mktemp("pair"), "127.0.0.1")
    return {"cert": str(files.certificate), "key": str(files.private_key)}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_told(words: Sequence[str], path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == errors.EXIT_USAGE
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(path) in err
    assert "_ssl" not in err


@pytest.mark.parametrize("words", READ.values(), ids=READ)
def test_a_file_that_is_not_there(
    words: list[str], pair: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing.pem"
    assert_told([each.format(path, **pair) for each in words], path, capfd)


@pytest.mark.parametrize("words", WRITTEN.values(), ids=WRITTEN)
def test_a_file_that_cannot_be_there(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "below"
    assert_told([each.format(path) for each in words], path, capfd)


@pytest.mark.parametrize("option", ["--cert", "--key"])
@pytest.mark.parametrize("server", [SERVICE, MQTT], ids=["service", "mqtt"])
def test_a_certificate_that_is_none(
    server: list[str],
    option: str,
    pair: dict[str, str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no PEM\n")
    wrong.chmod(0o600)
    given = {"--cert": pair["cert"], "--key": pair["key"], option: str(wrong)}
    prefix = "--mqtt-" if server is MQTT else "--"
    words = [part for name, value in given.items() for part in (prefix + name[2:], value)]
    assert_told([*server, *words], wrong, capfd)


def test_a_key_of_another_certificate(
    pair: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = ensure_certificate(tmp_path, "127.0.0.1").private_key
    assert main([*SERVICE, "--cert", pair["cert"], "--key", str(other)]) == errors.EXIT_USAGE
    assert f"{other} is not the key of {pair['cert']}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "is_of_the_user"),
    [
        (errno.ENOENT, True),
        (errno.EACCES, True),
        (errno.EROFS, True),
        (errno.ENOSPC, False),
        (errno.EIO, False),
    ],
)
def test_what_another_file_does_not_help_against_is_a_failure(
    number: int, is_of_the_user: bool
) -> None:
    error = errors.cannot_write("--out", "a.zip", OSError(number, "why"))
    assert isinstance(error, ConfigError) is is_of_the_user
    assert str(error).startswith("--out: cannot write a.zip: why")
