"""OpenSSH through tunnels: commands, copies of 50 MB each way, many logins at once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB, blocks, digest
from tunnelfleet.runtime import ANY_SERVICE, ProtocolVersion, TcpAddress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.programs import Sshd
    from tests.support.rig import Rig

COPY_BYTES = 50 * MIB
SESSIONS = 6


def write_file(path: Path, seed: int) -> str:
    """Fill a file; returns its SHA-256."""
    with path.open("wb") as file:
        for block in blocks(COPY_BYTES, seed):
            file.write(block)
    return digest(blocks(COPY_BYTES, seed))


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest(iter(lambda: file.read(MIB), b""))


@pytest.mark.parametrize(
    ("version", "service_id"), [(ProtocolVersion.V3, "SSH"), (ProtocolVersion.V1, ANY_SERVICE)]
)
class TestOpenSSH:
    def test_a_command(
        self, rig: Rig, sshd: Sshd, version: ProtocolVersion, service_id: str
    ) -> None:
        pair = rig.pair({service_id: TcpAddress("127.0.0.1", sshd.port)}, version=version)
        done = sshd.ssh(pair.tcp().port, "tr a-z A-Z; echo said on stderr >&2", stdin=b"hello")
        assert done.stdout == b"HELLO"
        assert b"said on stderr" in done.stderr

    def test_scp_of_50_mb_up_and_down(
        self, rig: Rig, sshd: Sshd, tmp_path: Path, version: ProtocolVersion, service_id: str
    ) -> None:
        pair = rig.pair({service_id: TcpAddress("127.0.0.1", sshd.port)}, version=version)
        port = pair.tcp().port
        original, copy, back = (tmp_path / name for name in ("original", "copy", "back"))
        sha256 = write_file(original, seed=int(version))
        sshd.scp(port, original, sshd.remote(copy))
        assert file_digest(copy) == sha256
        sshd.scp(port, sshd.remote(copy), back)
        assert file_digest(back) == sha256


def test_many_sessions_at_once(rig: Rig, sshd: Sshd) -> None:
    """V3: each ssh is one connection of the same stream."""
    pair = rig.pair({"SSH": TcpAddress("127.0.0.1", sshd.port)})
    contents = [random.Random(number).randbytes(200_000) for number in range(SESSIONS)]

    def copy(content: bytes) -> bytes:
        return sshd.ssh(pair.tcp().port, "cat", stdin=content).stdout

    with ThreadPoolExecutor(SESSIONS) as pool:
        assert list(pool.map(copy, contents)) == contents
    status = pair.source.status()
    assert (status.streams_opened, status.connections_opened) == (1, SESSIONS)


def test_the_exit_status_of_the_command_comes_through(rig: Rig, sshd: Sshd) -> None:
    pair = rig.pair({"SSH": TcpAddress("127.0.0.1", sshd.port)})
    with pytest.raises(AssertionError, match="ended with 42"):
        sshd.ssh(pair.tcp().port, "exit 42")
