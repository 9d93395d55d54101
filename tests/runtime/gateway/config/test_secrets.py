from __future__ import annotations

import hashlib
import hmac
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.proto import ConfigError, validate_client_token
from tunnelfleet.runtime.gateway.config.loader import load
from tunnelfleet.runtime.gateway.config.secrets import ClientTokens, ensure_secret, read_secret

if TYPE_CHECKING:
    from pathlib import Path


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    secret, warning = ensure_secret(None, folder)
    path = folder / "client-token-secret"
    assert warning == ""
    assert len(secret) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert ensure_secret(None, folder) == (secret, "")
    assert [each.name for each in folder.iterdir()] == ["client-token-secret"]


def test_a_final_newline_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for ending in (b"", b"\n", b"\r\n"):
        path.write_bytes(b"s" * 32 + ending)
        assert ensure_secret(path, tmp_path)[0] == b"s" * 32


def test_the_operator_s_file_may_be_a_link_ours_may_not(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"s" * 32)
    target.chmod(0o600)
    link = tmp_path / "client-token-secret"
    link.symlink_to(target)
    assert ensure_secret(link, tmp_path) == (b"s" * 32, "")
    with pytest.raises(ConfigError, match="is a link"):
        ensure_secret(None, tmp_path)
    target.unlink()
    with pytest.raises(ConfigError, match="is a link"):
        ensure_secret(None, tmp_path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"s" * 31 + b"\n", "31 bytes"), (b"s" * 70_000, "wrong file"), (None, "No such file")],
)
def test_what_cannot_be_a_secret(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        ensure_secret(path, tmp_path)


@pytest.mark.parametrize("secret", [b"\x00\xff" * 16, b" " + b"s" * 30 + b" "])
def test_what_a_gateway_takes_as_a_secret_a_check_takes(tmp_path: Path, secret: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(secret + b"\n")
    path.chmod(0o600)
    assert ensure_secret(path, tmp_path) == (secret, "")
    text = '[gateway]\nname = "gw"\nclient_token_secret_file = "secret"\n'
    (tmp_path / "fleet.toml").write_text(text)
    assert load([tmp_path / "fleet.toml"]).gateway.client_token_secret_file == path


def test_others_that_can_read_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  secret-token \n")
    path.chmod(0o640)
    assert read_secret(path).warning == ""
    path.chmod(0o644)
    found = read_secret(path)
    assert "chmod o-rwx" in found.warning
    assert found.text == "secret-token"
    assert "secret-token" not in repr(found)


def test_client_tokens_are_derived() -> None:
    tokens = ClientTokens(b"s" * 32)
    token = tokens.derive("access")
    assert token == hmac.new(b"s" * 32, b"access", hashlib.sha256).hexdigest()
    assert validate_client_token(token) == token
    assert tokens.derive("other") != token
    assert ClientTokens(b"t" * 32).derive("access") != token
    assert "ssss" not in repr(tokens)


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    with pytest.raises(ConfigError, match="is no file"):
        read_secret(tmp_path / "token")
