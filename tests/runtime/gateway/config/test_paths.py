from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.config.paths import (
    admin_socket,
    create_private_file,
    runtime_folder,
    state_folder,
)


@pytest.mark.parametrize(
    ("environ", "state", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, None, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x"}, None, "/x/tunnelfleet"),
        ({}, None, str(Path.home() / ".local/state/tunnelfleet")),
        ({"STATE_DIRECTORY": "/a"}, "sqlite:////srv/t.db", "/srv"),
        ({"STATE_DIRECTORY": "/a"}, "sqlite:///here/t.db", "here"),
        ({"STATE_DIRECTORY": "/a"}, "sqlite://", "/a"),
        ({"STATE_DIRECTORY": "/a"}, "postgresql://host/db", "/a"),
    ],
)
def test_where_the_state_is(environ: dict[str, str], state: str | None, folder: str) -> None:
    assert state_folder(environ, state) == Path(folder)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert state_folder({}) == Path("/var/lib/tunnelfleet")


def test_where_sockets_are() -> None:
    assert runtime_folder({"RUNTIME_DIRECTORY": "/run/t", "XDG_RUNTIME_DIR": "/x"}) == Path(
        "/run/t"
    )
    assert runtime_folder({"XDG_RUNTIME_DIR": "/x"}) == Path("/x/tunnelfleet")


@pytest.mark.parametrize(
    ("uid", "folder"), [(0, Path("/run/tunnelfleet")), (1000, Path("/tmp") / "tunnelfleet-1000")]
)
def test_where_they_are_without_a_session(
    uid: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    assert admin_socket({"STATE_DIRECTORY": "/s"}) == folder / "admin.sock"


def test_a_file_is_made_once_and_never_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert create_private_file(path, b"one")
    assert not create_private_file(path, b"two")
    assert path.read_bytes() == b"one"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert not create_private_file(link, b"three")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot make the folder"):
        create_private_file(tmp_path / "file" / "state" / "secret", b"x")


def test_what_a_killed_process_of_the_same_number_left_is_not_in_the_way(tmp_path: Path) -> None:
    for name in (f".file.{os.getpid()}", ".file.1"):
        (tmp_path / name).touch()
    assert create_private_file(tmp_path / "file", b"one")
