"""Two gateways never run on one folder of state."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.process import LOCK_NAME, state_lock

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import sys
from pathlib import Path
from tunnelfleet.runtime.gateway.process import state_lock
with state_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_and_the_other_is_told_by_whom(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with state_lock(folder):
        with pytest.raises(ConfigError) as caught, state_lock(folder):
            pass
        assert f"another gateway (process {os.getpid()}) runs with the state in {folder}" in str(
            caught.value
        )
        with state_lock(tmp_path / "another"):
            pass
    with state_lock(folder):
        pass
    assert stat.S_IMODE((folder / LOCK_NAME).stat().st_mode) == 0o600


def test_a_disk_that_takes_nothing_keeps_no_gateway_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with (
        state_lock(tmp_path),
        pytest.raises(ConfigError, match="another gateway runs"),
        state_lock(tmp_path),
    ):
        pass


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match=str(holder.pid)), state_lock(tmp_path):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait(30)
    with state_lock(tmp_path):
        pass


def test_a_folder_in_which_nothing_can_be_written_is_no_trouble(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with state_lock(file / "below"):
        pass


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / LOCK_NAME).symlink_to(target)
    with state_lock(tmp_path / "state"):
        pass
    assert not target.exists()
