"""`tunnelfleet migrate`: what it says, and what it does to a file of SQLite."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.runtime.cli.app import main
from tunnelfleet.runtime.gateway.store import MIGRATIONS

if TYPE_CHECKING:
    from pathlib import Path

NEWEST = MIGRATIONS[-1].number


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


def test_the_tables_are_made_once(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--state", url]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:-1] == [f"{each.number}: {each.title}" for each in MIGRATIONS]
    assert out[-1] == f"the state at {url} is now at version {NEWEST}"
    assert main(["migrate", "--state", url]) == 0
    assert capsys.readouterr().out == f"the state at {url} was already at version {NEWEST}\n"


def test_the_files_name_the_state(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'[gateway]\nstate = "{url}"\n')
    assert main(["migrate", str(fleet), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "state": url,
        "version": NEWEST,
        "applied": [each.number for each in MIGRATIONS],
        "granted": None,
    }


def test_files_with_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[gateway]\nstate = "postgresql://u:hunter2@h/d"\naudit_rows = -1\n')
    assert main(["migrate", str(fleet)]) == 2
    err = capsys.readouterr().err
    assert "gateway.state: a password does not belong here" in err
    assert "gateway.audit_rows" in err
    assert "hunter2" not in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name the files of the gateway, or give --state URL"),
        (["fleet.toml", "--state", "sqlite:////x"], "name the files of the gateway, or give"),
        (["--state", "mysql://h/d"], "write sqlite:////PATH or postgresql://HOST/DATABASE"),
        (["--state", "sqlite://"], "name a file"),
    ],
)
def test_asked_for_wrongly(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert text in captured.err
    assert len(captured.err.splitlines()) == 1


def test_sqlite_has_no_roles(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--state", url, "--grant", "gw"]) == 2
    assert "a file of SQLite has no roles" in capsys.readouterr().err


def test_what_cannot_be_done_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--state", f"postgresql://u@/d?host={tmp_path}"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("tunnelfleet: the state at postgresql://u@/d")
    assert "cannot be reached" in err
    assert len(err.splitlines()) == 1
