"""The record of many schedules: what is added to it, and when it begins anew."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from . import report
from .__main__ import Recorder, seeds_of
from .report import Sums, code_of, recorded, write_record
from .results import Result

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record and a document of the test's own."""
    monkeypatch.setattr(report, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(report, "DOCUMENT", tmp_path / "reliability.md")
    (tmp_path / "reliability.md").write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    return tmp_path


def result(seed: int) -> Result:
    return Result(
        seed,
        survived=Counter({"reset": 2}),
        crashed=Counter({("StreamActor", "OpenLocal"): 1}),
        endings=Counter({"client whole, server whole": 3}),
        verified_bytes=10,
    )


def given(**changed: object) -> argparse.Namespace:
    asked = {"record": True, "processes": False, "seed": None, "first": 5, "seeds": 4}
    return argparse.Namespace(**(asked | changed))


def test_a_run_goes_on_where_an_interrupted_one_ended(files: Path) -> None:
    recorder = Recorder(given())
    sums = recorder.begin()
    assert seeds_of(given(), sums) == [5, 6, 7, 8]
    for seed in (5, 6):
        sums.add(result(seed))
    recorder.save(sums)

    again = Recorder(given())
    sums = again.begin()
    assert seeds_of(given(), sums) == [7, 8]
    for seed in (7, 8):
        sums.add(result(seed))
    again.save(sums)

    kept = recorded("In one process", code_of())
    assert kept == sums
    assert (kept.schedules, kept.verified_bytes, kept.seeds) == (4, 40, [[5, 8]])
    assert kept.survived == {"reset": 8}
    assert kept.crashed == {"StreamActor at OpenLocal": 4}
    document = (files / "reliability.md").read_text()
    assert document.startswith("before")
    assert document.endswith("after\n")
    assert "4 schedules" in document
    assert "12 conversations" in document


def test_other_code_begins_a_record_anew(files: Path) -> None:
    sums = Sums()
    sums.add(result(1))
    write_record("In one process", sums, "all", "2026-11-26", "of other code")
    assert recorded("In one process", "of other code") == sums
    assert recorded("In one process", code_of()) == Sums()
    assert recorded("Real processes", "of other code") == Sums()


def test_nothing_is_kept_of_a_run_that_is_not_recorded(files: Path) -> None:
    recorder = Recorder(given(record=False))
    recorder.save(recorder.begin())
    assert not (files / "record.json").exists()


def test_a_change_of_the_product_is_another_code(tmp_path: Path) -> None:
    for folder in report.PRODUCT:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.py").write_text("1\n")
    first = code_of(tmp_path)
    assert code_of(tmp_path) == first
    (tmp_path / "proto" / "file.py").write_text("2\n")
    changed = code_of(tmp_path)
    assert changed != first
    (tmp_path / "proto" / "file.py").rename(tmp_path / "proto" / "other.py")
    assert code_of(tmp_path) not in (first, changed)
