from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tunnelfleet.runtime.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    tables = {"gateway", "defaults", "tunnel", "door_rule", "notify", "on_demand"}
    assert set(schema["properties"]) == tables


def test_without_a_file_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert "name a file or a folder" in capsys.readouterr().err


def test_an_empty_fleet_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.toml"
    path.touch()
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == "good: 0 tunnels\n"
    assert main(["check", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "tunnels": [], "problems": []}
