from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config import Authorities
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from pathlib import Path


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
