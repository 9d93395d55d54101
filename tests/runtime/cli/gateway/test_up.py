"""What `up` does before it runs; with real processes it is in tests/e2e/test_gateway.py."""

from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING

from tunnelfleet.runtime.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_level_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(tmp_path), "--log-level", "loud"]) == 2
    assert "write one of debug, info" in capsys.readouterr().err


def test_a_fleet_that_does_not_fit_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.toml"
    path.touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (10, 10))
    assert main(["up", str(path)]) == 2
    assert "LimitNOFILE" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_an_address_that_is_taken_is_told_and_all_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = tmp_path / "f.toml"
        path.write_text(f'[gateway]\nmetrics = "127.0.0.1:{taken.getsockname()[1]}"\n')
        assert main(["up", str(path)]) == 2
    assert "choose another address" in capsys.readouterr().err
