"""The floors of coverage: lines and branches apart, by rooms, and what is below is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import coverage_floors


def summary(lines: int, reached_lines: int, branches: int, reached_branches: int) -> dict[str, int]:
    return {
        "num_statements": lines,
        "covered_lines": reached_lines,
        "num_branches": branches,
        "covered_branches": reached_branches,
    }


WHOLE = {"proto/a.py": summary(50, 50, 8, 8), "actors/kernel/a.py": summary(10, 10, 0, 0)}
"""Rooms of which all is reached."""


def report(folder: Path, files: dict[str, dict[str, int]]) -> str:
    """A report as `coverage json` writes it."""
    path = folder / "coverage.json"
    path.write_text(json.dumps({"files": {name: {"summary": s} for name, s in files.items()}}))
    return str(path)


def test_files_are_summed_up_by_their_rooms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "runtime/gateway/a.py": summary(100, 99, 10, 10),
        "runtime/gateway/api/b.py": summary(900, 900, 30, 29),
        "package/lazy.py": summary(7, 7, 2, 2),
    }
    assert coverage_floors.main([report(tmp_path, WHOLE | more)]) == 0
    shown = capsys.readouterr()
    assert "| `runtime/gateway/` | 99.9 % of 1,000 | 97.5 % of 40 |" in shown.out
    assert "| `package/` | 100.0 % of 7 | 100.0 % of 2 |" in shown.out
    assert "| all but `proto/` and `actors/kernel/` | 99.9 % of 1,007 | 97.6 % of 42 |" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("file", "found", "said"),
    [
        ("proto/b.py", summary(100, 100, 20, 19), "proto: 96.43 % of the branches are reached"),
        ("actors/kernel/b.py", summary(90, 89, 0, 0), "actors/kernel: 99.00 % of the lines"),
        ("runtime/b.py", summary(100, 99, 40, 36), "all other rooms: 90.00 % of the branches"),
        ("actors/tunnel/b.py", summary(100, 90, 40, 40), "all other rooms: 90.00 % of the lines"),
    ],
    ids=["proto", "kernel", "branches of the rest", "lines of the rest"],
)
def test_what_is_below_a_floor_is_told(
    file: str,
    found: dict[str, int],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert coverage_floors.main([report(tmp_path, {**WHOLE, file: found})]) == 1
    assert capsys.readouterr().err.startswith(said)


def test_a_room_that_was_not_measured_keeps_no_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coverage_floors.main([report(tmp_path, {"proto/a.py": summary(1, 1, 0, 0)})]) == 1
    assert capsys.readouterr().err == "actors/kernel: nothing of it was measured\n"
