from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunnelfleet.runtime.gateway.config import files
from tunnelfleet.runtime.gateway.config.files import read_documents


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("x = 1\r\ny = 2\r\n")
    documents, problems = read_documents([path, tmp_path, tmp_path / "." / "a.toml"])
    assert [each.data for each in documents] == [{"x": 1, "y": 2}]
    assert problems == []
    assert documents[0].place(("y",)) == f"{path}:2"


def test_links_as_kubernetes_mounts_them(tmp_path: Path) -> None:
    data = tmp_path / "..2026_01_01"
    data.mkdir()
    (data / "a.toml").write_text("x = 1\n")
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / "a.toml").symlink_to("..data/a.toml")
    documents, problems = read_documents([tmp_path])
    assert [each.name for each in documents] == [str(tmp_path / "a.toml")]
    assert problems == []


def test_what_is_not_utf_8_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"# one\n# two\nname = 'caf\xe9'\n")
    _documents, (problem,) = read_documents([path])
    assert (problem.line, problem.text) == (3, "this is not UTF-8; save the file as UTF-8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.touch(mode=0)
    _documents, (problem,) = read_documents([path])
    assert "Permission denied" in problem.text


def test_a_deep_nest_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("x = " + "[" * 100_000)
    _documents, (problem,) = read_documents([path])
    assert problem.is_error


def test_a_device_without_an_end_is_a_file_that_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1_000)
    documents, problems = read_documents([Path("/dev/zero")])
    assert documents == []
    assert "larger than 1000 bytes" in problems[0].text
