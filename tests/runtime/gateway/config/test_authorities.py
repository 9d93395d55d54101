from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config import Authorities, secrets
from tunnelfleet.runtime.service import TunnelService


def test_a_new_content_is_a_new_context(tmp_path: Path) -> None:
    authorities = Authorities()
    path = tmp_path / "ca.pem"
    found = []
    for _ in range(2):
        with TunnelService() as service:
            assert service.ca_path is not None
            path.write_bytes(service.ca_path.read_bytes())
        authorities.begin()
        found.append(authorities.get(path))
        assert authorities.get(path) == found[-1]
        authorities.forget_others()
        assert authorities.files == {path}
    (first, old), (second, new) = found
    assert old != new
    assert first is not second


def test_a_folder_of_authorities(tmp_path: Path) -> None:
    authorities = Authorities()
    _context, empty = authorities.get(tmp_path)
    (tmp_path / "12345678.0").write_text("x")
    assert authorities.get(tmp_path)[1] == empty
    authorities.begin()
    assert authorities.get(tmp_path)[1] != empty


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Authorities().get(tmp_path / "nowhere")


def test_what_a_reader_would_wait_for_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="neither a file nor a folder"):
            Authorities().get(path)


def test_a_file_or_a_folder_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "large.pem").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match="too large"):
        Authorities().get(tmp_path / "large.pem")
    with pytest.raises(ConfigError, match="too large"):
        Authorities().get(tmp_path)
    monkeypatch.setattr(secrets, "MAX_CA_FILES", 0)
    with pytest.raises(ConfigError, match="wrong folder"):
        Authorities().get(tmp_path)


def test_one_tunnel_at_a_time_does_not_pile_contexts_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "MAX_CONTEXTS", 4)
    kept = Authorities()
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        kept.begin()
        kept.get(folder)
    assert len(kept._contexts) == 4
    last, _fingerprint = kept.get(tmp_path / "11")
    kept.begin()
    assert kept.get(tmp_path / "11")[0] is last
