"""Files that are whole or not there, and the folder that goes with its process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.service.files import (
    FOLDER_PREFIX,
    QUICKSTART_PREFIX,
    TemporaryFolder,
    read_file,
    remove_leftovers,
    write_file,
)

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from tunnelfleet.runtime.service.files import TemporaryFolder
folder = TemporaryFolder(*sys.argv[1:])
(folder.path / "server.key").write_text("secret")
(folder.path / "more").mkdir()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def _folders(tmp_path: Path) -> list[Path]:
    return [
        path
        for path in tmp_path.iterdir()
        if path.name.startswith((FOLDER_PREFIX, QUICKSTART_PREFIX))
    ]


def test_what_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_file(path, b"before")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"after")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert read_file(path) == b"before"


def test_content_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
        fsync(descriptor)

    def note_rename(*names: str, **folders: Any) -> None:
        done.append("rename")
        rename(*names, **folders)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    write_file(tmp_path / "file", b"content")
    assert done == ["file", "rename", "folder"]


def test_a_folder_at_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_file(tmp_path / "file", b"")
    assert read_file(tmp_path / "file") is None
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_goes_with_its_process(tmp_path: Path) -> None:
    folder = TemporaryFolder()
    (folder.path / "file").touch()
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.remove()
    folder.remove()
    assert _folders(tmp_path) == []


@pytest.mark.parametrize("prefix", [FOLDER_PREFIX, QUICKSTART_PREFIX])
def test_what_a_killed_process_left_is_removed_and_not_what_lives(
    tmp_path: Path, prefix: str
) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, prefix], stdin=-1, stdout=-1)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        assert remove_leftovers() == 0
        assert len(_folders(tmp_path)) == 2
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert remove_leftovers() == 1
        (left,) = _folders(tmp_path)
        assert (left / "server.key").read_text() == "secret"
        processes[1].communicate(timeout=WAIT_SECONDS)
        assert _folders(tmp_path) == []
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_removal_that_was_cut_short_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=-1, stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    unlink = os.unlink

    def fail_at_the_lock(name: str, **folder: int) -> None:
        if name == "lock":
            raise OSError(5, "Input/output error")
        unlink(name, **folder)

    monkeypatch.setattr(os, "unlink", fail_at_the_lock)
    assert remove_leftovers() == 0
    (left,) = _folders(tmp_path)
    assert [path.name for path in left.iterdir()] == ["lock"]
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert remove_leftovers() == 1
    assert _folders(tmp_path) == []


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (tmp_path / f"{FOLDER_PREFIX}link").symlink_to(elsewhere)
    without = tmp_path / f"{FOLDER_PREFIX}without-lock"
    without.mkdir()
    (without / "server.key").touch()
    (tmp_path / f"{FOLDER_PREFIX}file").touch()
    linked = tmp_path / f"{FOLDER_PREFIX}linked-lock"
    linked.mkdir()
    (linked / "lock").symlink_to(elsewhere / "lock")
    assert remove_leftovers() == 0
    assert (without / "server.key").exists()
    assert (elsewhere / "lock").exists()
    assert linked.exists()


def _end_in_the_child(folder: TemporaryFolder) -> None:
    folder.remove()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_does_not_take_its_parents_folder() -> None:
    folder = TemporaryFolder()
    child = multiprocessing.get_context("fork").Process(target=_end_in_the_child, args=(folder,))
    child.start()
    child.join(WAIT_SECONDS)
    assert child.exitcode == 0
    assert folder.path.is_dir()
    folder.remove()
