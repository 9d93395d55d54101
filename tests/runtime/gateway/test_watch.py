from __future__ import annotations

import logging
import queue
from typing import TYPE_CHECKING, Any

import pytest
from watchfiles import watch

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.gateway import reloading
from tunnelfleet.runtime.gateway.reloading import FileWatcher, Ways

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fleet.toml", True),
        ("new.toml", True),
        ("press.token", True),
        ("..data", True),
        ("state.db", False),
        (".fleet.toml", False),
        ("fleet.toml.swp", False),
    ],
)
def test_what_matters(tmp_path: Path, name: str, expected: bool) -> None:
    files = frozenset({tmp_path, tmp_path / "fleet.toml", tmp_path / "press.token"})
    assert Ways(files).matters(tmp_path / name) is expected


def test_folders_of_files_and_of_what_they_link_to(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "token").touch()
    (tmp_path / "a" / "token").symlink_to(tmp_path / "b" / "token")
    found = Ways([tmp_path / "a" / "token", tmp_path / "nowhere" / "x"]).folders
    assert found == {tmp_path / "a", tmp_path / "b"}


def test_links_on_the_way_are_watched(tmp_path: Path) -> None:
    """`current` is what people swap to give a fleet other files."""
    for release in ("1", "2"):
        (tmp_path / "releases" / release).mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    current = tmp_path / "etc" / "current"
    current.symlink_to("../releases/1")
    path = current / "fleet.toml"
    ways = Ways([path])
    assert ways.folders == {tmp_path / "etc", current, tmp_path / "releases" / "1"}
    assert ways.matters(current)
    assert not ways.matters(tmp_path / "etc" / "other")


def test_links_in_a_circle_are_watched_like_others(tmp_path: Path) -> None:
    (tmp_path / "token").symlink_to("token")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    ways = Ways([tmp_path / "token", tmp_path / "a" / "x"])
    assert tmp_path in ways.folders
    assert ways.matters(tmp_path / "token")
    assert ways.matters(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("new.pem", True), ("new.crt", True), ("0a1b2c3d.0", True), ("README", False)],
)
def test_what_comes_into_a_folder_of_authorities(tmp_path: Path, name: str, expected: bool) -> None:
    ways = Ways([tmp_path])
    assert ways.matters(tmp_path / name) is expected
    assert not ways.matters(tmp_path / "aside" / name)


def test_a_swap_of_a_link_on_the_way_is_noticed(tmp_path: Path) -> None:
    for release in ("1", "2", "3"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "fleet.toml").touch()
    (tmp_path / "etc").mkdir()
    current = tmp_path / "etc" / "current"
    current.symlink_to("../1")
    changes: queue.Queue[None] = queue.Queue()
    with FileWatcher(lambda: [current / "fleet.toml"], lambda: changes.put(None)):
        for release in ("2", "3"):
            (tmp_path / "etc" / "new").symlink_to(f"../{release}")
            (tmp_path / "etc" / "new").replace(current)
            changes.get(timeout=WAIT_SECONDS)


def test_a_folder_in_the_place_of_another_is_noticed_and_watched(tmp_path: Path) -> None:
    for name in ("etc", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fleet.toml").touch()
    path = tmp_path / "etc" / "fleet.toml"
    changes: queue.Queue[None] = queue.Queue()
    with FileWatcher(lambda: [path], lambda: changes.put(None)):
        (tmp_path / "etc").rename(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "etc")
        changes.get(timeout=WAIT_SECONDS)
        path.write_text("x")
        changes.get(timeout=WAIT_SECONDS)


def test_an_editor_s_rename_and_a_kubernetes_swap_are_noticed(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    for version in ("..1", "..2"):
        (mount / version).mkdir(parents=True)
        (mount / version / "fleet.toml").write_text(version)
    (mount / "..data").symlink_to("..1")
    (mount / "fleet.toml").symlink_to("..data/fleet.toml")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "fleet.toml").touch()
    files = [mount, mount / "fleet.toml", plain / "fleet.toml"]
    changes: queue.Queue[None] = queue.Queue()
    with FileWatcher(lambda: files, lambda: changes.put(None)):
        (plain / "aside").write_text("x")
        (plain / "aside").rename(plain / "fleet.toml")
        changes.get(timeout=WAIT_SECONDS)
        (mount / "..new").symlink_to("..2")
        (mount / "..new").replace(mount / "..data")
        changes.get(timeout=WAIT_SECONDS)


def test_a_swap_while_another_change_is_told_is_noticed(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "fleet.toml").touch()
    link = tmp_path / "fleet.toml"
    link.symlink_to("1/fleet.toml")
    told: queue.Queue[str] = queue.Queue()

    def on_change() -> None:
        if link.readlink().parent.name == "1":
            # The watch has not looked yet which folders there are now.
            (tmp_path / "new").symlink_to("2/fleet.toml")
            (tmp_path / "new").replace(link)
            told.put("before the swap")
        else:
            told.put("after the swap")

    with FileWatcher(lambda: [link], on_change):
        (tmp_path / "1" / "fleet.toml").write_text("x")
        assert told.get(timeout=WAIT_SECONDS) == "before the swap"
        assert told.get(timeout=WAIT_SECONDS) == "after the swap"


def test_folders_that_come_later_are_watched_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x.toml").touch()
    files = [tmp_path / "a" / "x.toml"]
    asked: queue.Queue[int] = queue.Queue()
    changes: queue.Queue[None] = queue.Queue()

    def present() -> list[Path]:
        asked.put(len(files))
        return list(files)

    with FileWatcher(present, lambda: changes.put(None)):
        files.append(tmp_path / "b" / "token")
        (tmp_path / "b" / "token").touch()
        # Twice: the watch that saw the new folder has begun anew with it, and looked once more.
        while asked.get(timeout=WAIT_SECONDS) < 2:
            pass
        while asked.get(timeout=WAIT_SECONDS) < 2:
            pass
        asked.get(timeout=WAIT_SECONDS)
        (tmp_path / "b" / "token").write_text("x")
        changes.get(timeout=WAIT_SECONDS)


def test_without_a_folder_it_waits(tmp_path: Path) -> None:
    with FileWatcher(lambda: [tmp_path / "nowhere" / "x"], lambda: None):
        pass


def test_why_nothing_is_watched_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "fleet.toml").touch()
    refusals = iter([OSError(28, "No space left on device")] * 3)

    def refuses(*folders: Path, **options: Any) -> Any:
        refusal = next(refusals, None)
        if refusal is not None:
            raise refusal
        return watch(*folders, **options)

    monkeypatch.setattr(reloading, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(reloading, "watch", refuses)
    changes: queue.Queue[None] = queue.Queue()
    with FileWatcher(lambda: [tmp_path / "fleet.toml"], lambda: changes.put(None)):
        changes.get(timeout=WAIT_SECONDS)
    first, last = (each.getMessage() for each in caplog.records)
    assert "No space left on device" in first
    assert "max_user_watches" in first
    assert last == "the files are watched again"
