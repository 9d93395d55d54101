"""What was measured is kept, and drawn."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.bench import carry_bench, history, plots

if TYPE_CHECKING:
    from pathlib import Path


def test_runs_are_kept_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    for number in (1.0, 2.0):
        history.append(path, {"carry": {"rate": number}})
    runs = history.read(path)
    assert [run["results"]["carry"]["rate"] for run in runs] == [1.0, 2.0]
    assert all(run["at"] and run["python"] for run in runs)


def test_a_run_is_kept_where_git_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    history.append(tmp_path / "history.jsonl", {"carry": {"rate": 1.0}})
    [run] = history.read(tmp_path / "history.jsonl")
    assert run["commit"] == ""


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"results": 1}'])
def test_a_line_that_is_no_run_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    history.append(path, {"carry": {"rate": 1.0}})
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"history\.jsonl:2 is no run"):
        history.read(path)


def test_ratios_are_of_each_round_and_not_of_the_medians() -> None:
    measured = {
        "ours": [{"rate": 10.0}, {"rate": 5.0}, {"rate": 9.0}],
        "theirs": [{"rate": 20.0}, {"rate": 20.0}, {"rate": 10.0}],
    }
    found = carry_bench.compared(measured, "tls")
    assert found["ours tls"] == {"rate": 9.0}
    assert found["ours / theirs tls"] == {"rate": 0.5, "rate least": 0.25, "rate most": 0.9}


def test_contestants_take_turns_and_every_second_round_goes_the_other_way() -> None:
    order: list[str] = []

    def contestant(name: str) -> dict[str, float]:
        order.append(name)
        return {"rate": 1.0}

    carry_bench.interleaved({each: lambda each=each: contestant(each) for each in "ab"}, 3)
    assert "".join(order) == "abbaab"


def test_each_pair_has_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for value in (0.5, 0.6):
        ratio = {"rate": value, "rate least": value - 0.1, "rate most": value + 0.1}
        history.append(path, {"ours tls": {"rate": 9.0}, "ours / theirs tls": ratio})
    (picture,) = plots.plot_history(history.read(path), tmp_path)
    assert picture.name == "ours-theirs-tls.svg"
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_without_a_history_there_is_nothing_to_draw(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "--plot"]
    command += ["--history", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "measure first" in done.stderr


def test_a_baseline_that_breaks_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    left = {"ours": 3, "theirs": 1}

    def measured(name: str) -> dict[str, float]:
        left[name] -= 1
        if left[name] < 0:
            raise ConnectionError("closed")
        return {"round_trip_median_us": 1.0}

    contestants = {name: lambda name=name: measured(name) for name in left}
    found = carry_bench.interleaved(contestants, 3)
    assert [*found] == ["ours"]
    assert len(found["ours"]) == 3
    assert "theirs broke in round 2, and is left out: closed" in capsys.readouterr().err
    with pytest.raises(ConnectionError, match="closed"):
        carry_bench.interleaved(contestants, 1)
