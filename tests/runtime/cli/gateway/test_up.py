"""What `up` does before it runs; with real processes it is in tests/e2e/test_gateway.py."""

from __future__ import annotations

import io
import queue
import resource
import socket
from typing import TYPE_CHECKING

from tests.support.actors import crash
from tests.support.fleet import Fleet
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.errors import EXIT_FAILURE
from tunnelfleet.runtime.cli.gateway.up import _Foreground
from tunnelfleet.runtime.gateway.log import GatewayLog
from tunnelfleet.runtime.gateway.process import ServiceManager

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


def test_it_ends_as_failed_when_the_root_of_its_actors_has_failed(tmp_path: Path) -> None:
    """Nothing would run any more; whoever runs the process starts it again."""
    with Fleet(tmp_path / "state") as fleet:
        gateway = fleet.start()
        assert not gateway.has_failed
        crash(gateway.supervisor)
        with GatewayLog(io.StringIO(), as_json=True) as log:
            foreground = _Foreground(
                gateway, queue.SimpleQueue(), log, ServiceManager({}), as_json=True
            )
            assert foreground.run() == EXIT_FAILURE
        assert gateway.counts() == (0, 0)
