"""Unix sockets of a gateway: their folders, permissions, and what is there already."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.listening import UnixListener, UnixPlace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN_GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "a.sock"


@contextlib.contextmanager
def listening(path: Path, **given: Any) -> Iterator[UnixListener]:
    listener = UnixListener(UnixPlace(path, **given))
    try:
        yield listener
    finally:
        listener.remove()
        listener.socket.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("given", "of_socket", "of_folder"),
    [
        ({}, 0o600, 0o700),
        ({"mode": 0o660}, 0o660, 0o750),
        ({"mode": 0o660, "group": OWN_GROUP}, 0o660, 0o750),
        ({"mode": 0o666}, 0o666, 0o755),
    ],
)
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_whoever_may_use_it_can_reach_it(
    path: Path, given: dict[str, Any], of_socket: int, of_folder: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        with listening(path, **given):
            assert (mode(path), mode(path.parent)) == (of_socket, of_folder)
    finally:
        os.umask(before)


def test_a_folder_that_is_there_stays_as_it_is(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    with listening(path):
        assert (mode(path), mode(path.parent)) == (0o600, 0o755)


def test_it_can_be_connected_to_and_goes(path: Path) -> None:
    with listening(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert not path.exists()


@pytest.mark.parametrize("is_listening", [True, False])
def test_what_is_there_already(path: Path, is_listening: bool) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        if is_listening:
            other.listen()
            with pytest.raises(ConfigError, match=r"a gateway listens on .* already"):
                UnixListener(UnixPlace(path))
            assert path.exists()
        else:
            with listening(path), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))


def test_one_whose_queue_is_full_listens(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
        other.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(path))
        with pytest.raises(ConfigError, match="already"):
            UnixListener(UnixPlace(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        (path.parent / "file").write_text("mine")
        path.symlink_to(path.parent / "file")
    with pytest.raises(ConfigError, match="no socket; remove it"):
        UnixListener(UnixPlace(path))
    assert path.exists()


def test_a_folder_that_everybody_can_write_to(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by everybody"):
        UnixListener(UnixPlace(path))
    # As the one for temporary files is: nobody can remove what another has made there.
    path.parent.chmod(0o1777)
    with listening(path):
        assert mode(path) == 0o600


def test_a_folder_of_somebody_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    owner = path.parent.stat().st_uid
    if owner == 0:
        os.chown(path.parent, 54_321, -1)
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        UnixListener(UnixPlace(path))


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no folder"):
        UnixListener(UnixPlace(tmp_path / "file" / "a.sock"))


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on .*name another path"):
        UnixListener(UnixPlace(tmp_path / ("x" * 120)))


def test_a_group_that_is_none(path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no group 'nobody-has-this'"):
        UnixListener(UnixPlace(path, group="nobody-has-this"))


def test_of_several_that_start_together_one_has_it(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    start = threading.Barrier(8)
    made: list[UnixListener] = []
    refused: list[ConfigError] = []

    def listen() -> None:
        start.wait()
        try:
            made.append(UnixListener(UnixPlace(path)))
        except ConfigError as error:
            refused.append(error)

    threads = [threading.Thread(target=listen) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for listener in made:
        listener.remove()
        listener.socket.close()
    assert (len(made), len(refused)) == (1, 7)


def test_a_link_where_everybody_may_write_is_no_folder(tmp_path: Path) -> None:
    """Whoever made it lets it lead to a socket of their own later, and is told tokens there."""
    shared, ours = tmp_path / "tmp", tmp_path / "ours"
    ours.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "run").symlink_to(ours)
    with pytest.raises(ConfigError, match="is no folder"):
        UnixListener(UnixPlace(shared / "run" / "a.sock"))
    (tmp_path / "own").symlink_to(ours)
    with listening(tmp_path / "own" / "a.sock"):
        assert mode(ours / "a.sock") == 0o600
