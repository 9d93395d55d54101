"""What becomes of the files of a gateway while it runs: it stays as it was, and says one line."""

from __future__ import annotations

import codecs
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import reading
from tunnelfleet.runtime.gateway import Gateway
from tunnelfleet.runtime.gateway.config import Authorities, ConfigProblems, files, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TUNNEL = """
[[tunnel]]
name = "{0}"
mode = "destination"
endpoint = "ws://127.0.0.1:9"
access_token_file = "{0}.token"
services = {{ SSH = "127.0.0.1:22" }}
"""


class Place(NamedTuple):
    """A gateway that runs `press-4` of fleet.toml and `press-5` of fleet.d."""

    folder: Path
    gateway: Gateway

    @property
    def names(self) -> list[str]:
        return sorted(self.gateway.state.wishes())

    def refused(self) -> list[str]:
        """What a reload says that changes nothing."""
        result = self.gateway.reload(WAIT_SECONDS)
        assert result.difference is None
        assert self.names == ["press-4", "press-5"]
        return [str(problem) for problem in result.problems]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(reading, "PIPE_SECONDS", 0.05)
    folder = tmp_path / "etc"
    (folder / "fleet.d").mkdir(parents=True)
    (folder / "fleet.toml").write_text(TUNNEL.format("press-4"))
    (folder / "fleet.d" / "site.toml").write_text(TUNNEL.format("press-5"))
    for path in (folder / "press-4.token", folder / "fleet.d" / "press-5.token"):
        path.write_text(path.stem * 8)
        path.chmod(0o600)
    environ = {
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
    }
    authorities = Authorities()
    with Gateway(lambda: load([folder / "fleet.toml"], environ, authorities)) as gateway:
        yield Place(folder, gateway)


def gone(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def large(path: Path) -> None:
    os.truncate(path, 100 * 1_048_576)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def blank(path: Path) -> None:
    path.write_text("\n \r\n")


def nul(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def utf_16(path: Path) -> None:
    path.write_text(path.read_text(), "utf-16")


def mark(path: Path) -> None:
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("fleet.toml", gone, "there is no such file"),
        ("fleet.toml", folder, "the folder has no file *.toml"),
        ("fleet.toml", pipe, "it is a pipe, and nobody has written"),
        ("fleet.toml", loop, "Too many levels of symbolic links"),
        ("fleet.toml", large, "it is larger than"),
        ("fleet.toml", empty, "it is empty, and was not before"),
        ("fleet.toml", blank, "it is empty, and was not before"),
        ("fleet.toml", nul, "there is a NUL byte"),
        ("fleet.toml", utf_16, "not UTF-8"),
        ("fleet.toml", mark, "byte order mark"),
        ("fleet.d/site.toml", pipe, "it is a pipe, and nobody has written"),
        ("fleet.d/site.toml", loop, "Too many levels of symbolic links"),
        ("fleet.d/site.toml", empty, "it is empty, and was not before"),
        ("press-4.token", gone, "No such file"),
        ("press-4.token", folder, "Is a directory"),
        ("press-4.token", pipe, "is no file"),
        ("press-4.token", large, "larger than"),
        ("press-4.token", empty, "is empty"),
        ("press-4.token", nul, "access token"),
        ("press-4.token", mark, "is no text"),
    ],
)
def test_what_cannot_be_used_changes_nothing_and_is_one_line(
    place: Place, name: str, change: Callable[[Path], None], said: str
) -> None:
    path = place.folder / name
    good = path.read_bytes()
    change(path)
    (line,) = place.refused()
    assert said in line
    assert path.stem in line
    assert "press-4" * 8 not in line
    with pytest.raises(ConfigProblems, match="press-4" if "token" in name else path.name):
        place.gateway.read_files()
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(good)
    path.chmod(0o600)
    assert place.gateway.reload(WAIT_SECONDS).is_good
    assert place.names == ["press-4", "press-5"]


@pytest.mark.parametrize("target", ["fleet.d", "nowhere"])
def test_a_folder_beside_that_cannot_be_read_is_not_one_that_is_absent(
    place: Place, target: str
) -> None:
    """As where a disk is not mounted: its tunnels are not gone."""
    beside = place.folder / "fleet.d"
    beside.rename(place.folder / "aside")
    beside.symlink_to(target)
    (line,) = place.refused()
    assert f"{beside}: it cannot be read" in line


def test_a_folder_that_cannot_be_listed_is_not_one_without_files(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_folder: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuses)
    (line,) = place.refused()
    assert line.endswith("fleet.d: it cannot be read: Permission denied")


def test_a_folder_that_was_removed_has_no_tunnels(place: Place) -> None:
    shutil.rmtree(place.folder / "fleet.d")
    assert place.gateway.reload(WAIT_SECONDS).is_good
    assert place.names == ["press-4"]


def test_a_fleet_is_ended_by_a_comment(place: Place) -> None:
    (place.folder / "fleet.toml").write_text("# nothing\n")
    assert place.gateway.reload(WAIT_SECONDS).is_good
    (place.folder / "fleet.toml").write_text("")
    assert not place.gateway.reload(WAIT_SECONDS).is_good
    assert place.names == ["press-5"]


def test_other_ends_of_lines_change_nothing(place: Place) -> None:
    for name in ("fleet.toml", "press-4.token"):
        path = place.folder / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    difference = place.gateway.reload(WAIT_SECONDS).difference
    assert difference is not None
    assert difference.unchanged == ("press-4", "press-5")


def test_a_file_that_comes_out_of_a_pipe_is_read_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the shell gives the output of a program: `tunnelfleet check <(...)`."""
    monkeypatch.setattr(reading, "_PART_BYTES", 10)
    source, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as file:
            file.write(b"# nothing\n" * 2_000 + b"x = 1\n")
        (document,), problems = files.read_documents([Path(f"/dev/fd/{source}")])
    finally:
        os.close(source)
    assert document.data == {"x": 1}
    assert document.place(("x",)).endswith(":2001")
    assert problems == []
