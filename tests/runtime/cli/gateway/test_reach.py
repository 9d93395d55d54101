from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.errors import CommandFailed
from tunnelfleet.runtime.cli.gateway import reach
from tunnelfleet.runtime.cli.gateway.reach import (
    GatewayPlace,
    find,
    gateway_at,
    not_reached,
    read_token,
)
from tunnelfleet.runtime.gateway.api.address import (
    GatewayAddress,
    GatewayNotReached,
    GatewayRefused,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_where_the_gateway_is(tmp_path: Path) -> None:
    environ = {"TUNNELFLEET_GATEWAY": "unix:/b", "RUNTIME_DIRECTORY": str(tmp_path)}
    assert find("unix:/a", environ) == GatewayPlace(GatewayAddress(path="/a"), "")
    assert str(find(None, environ).address) == "unix:/b"
    del environ["TUNNELFLEET_GATEWAY"]
    place = find(None, environ)
    assert str(place.address) == f"unix:{tmp_path}/admin.sock"
    assert place.origin.startswith("the default; --gateway or TUNNELFLEET_GATEWAY")


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^TUNNELFLEET_GATEWAY: nonsense is no address"):
        find(None, {"TUNNELFLEET_GATEWAY": "nonsense"})


def test_a_folder_in_tmp_that_is_somebody_elses_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "OPEN_FOLDER", tmp_path.parent)
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    assert find(None, environ).address.path == f"{tmp_path}/admin.sock"
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="and not yours: name the gateway"):
        find(None, environ)
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(reach, "OPEN_FOLDER", tmp_path.parent)
    with pytest.raises(ConfigError, match="and not yours"):
        find(None, {"RUNTIME_DIRECTORY": str(link)})


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no token"), (b" \n", "holds no token"), (b"\xff", "not ASCII")],
)
def test_files_without_a_token(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_token(tmp_path / "t", "--token-file")
    with pytest.raises(ConfigError, match=r"^--token-file: cannot read .*no: No such file"):
        read_token(tmp_path / "no", "--token-file")


def test_a_socket_that_is_not_for_us_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.touch(mode=0o600)
    place = GatewayPlace(GatewayAddress(path=str(path)), "")
    error = GatewayNotReached(place.address, PermissionError(13, "Permission denied"))
    said = not_reached(error, place)
    assert "the socket is " in said
    assert "mode 0600" in said
    assert "admin_group and admin_mode in [gateway]" in said
    path.chmod(0o660)
    assert "or join the group " in not_reached(error, place)


def test_other_failures_keep_their_words() -> None:
    place = GatewayPlace(GatewayAddress.parse("https://gw"), "")
    refused = GatewayNotReached(place.address, ConnectionRefusedError(111, "Connection refused"))
    assert not_reached(refused, place) == (
        "no gateway answers at https://gw:443: Connection refused; "
        "start one with: tunnelfleet up fleet.toml"
    )
    silent = not_reached(GatewayNotReached(place.address, TimeoutError("timed out")), place)
    assert silent.endswith("does not answer in time; its log may say why")
    other = not_reached(
        GatewayNotReached(place.address, ValueError("its answer is no JSON")), place
    )
    assert other == "this is no gateway at https://gw:443: its answer is no JSON"
    untrusted = ssl.SSLCertVerificationError(1, "x")
    untrusted.verify_message = "self-signed certificate"
    said = not_reached(GatewayNotReached(place.address, untrusted), place)
    assert "self-signed certificate; SSL_CERT_FILE names another authority" in said


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, CommandFailed, "give --gateway-token-file or TUNNELFLEET_GATEWAY_TOKEN"),
        (400, ConfigError, "^so it is$"),
        (503, CommandFailed, "^so it is$"),
    ],
)
def test_refusals(status: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words), gateway_at("unix:/no", None):
        raise GatewayRefused(status, {"detail": "so it is"})


def test_a_token_without_tls_is_warned_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "t").write_text("secret-secret")
    with gateway_at("http://192.0.2.1:1", tmp_path / "t"):
        pass
    said = capsys.readouterr().err
    assert said.startswith("warning: the token goes to http://192.0.2.1:1 without TLS")
    assert "secret-secret" not in said
    with gateway_at("http://127.0.0.1:1", tmp_path / "t"), gateway_at("https://gw", None):
        pass
    assert capsys.readouterr().err == ""
