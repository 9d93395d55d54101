"""Real programs that tests run: finding them, running them with a deadline, a private sshd.

Owns nothing of tunnels. A missing program skips the test, except where CI is set: there it must be
installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.sockets import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SYSTEM_PACKAGES = Path(__file__).parent.parent.parent / "tools" / "system-packages"
RUN_SECONDS = 120.0
START_SECONDS = 120.0
END_SECONDS = 30.0


def listed_programs() -> frozenset[str]:
    """The programs that `make test` installs where it may: tests drive no others."""
    lines = run_program([SYSTEM_PACKAGES, "--list"]).stdout.decode().splitlines()
    return frozenset(line.split()[0] for line in lines)


def require_program(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI is set.

    A test can name its programs by the marker `programs` too.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        text = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(f"{text}, and CI must have it")
        pytest.skip(text)
    return path


def run_program(
    command: Sequence[str | Path],
    *,
    timeout_seconds: float = RUN_SECONDS,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return what it wrote; a failure shows its stderr."""
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=timeout_seconds,
        env=None if env is None else {**os.environ, **env},
        check=False,
    )
    errors = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {errors}"
    return done


@contextlib.contextmanager
def running_program(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | None = subprocess.PIPE,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A program that runs while the block does; terminated at its end, and killed if it lingers."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=None if env is None else {**os.environ, **env},
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_SECONDS)
        if process.stdout is not None:
            process.stdout.close()


def wait_for_port(port: int, process: subprocess.Popen[str], host: str = "127.0.0.1") -> None:
    """Wait until a program listens; fails with what it wrote when it ends instead."""
    deadline, pause = time.monotonic() + START_SECONDS, threading.Event()
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), START_SECONDS):
            return
        if process.poll() is not None:
            output = process.stdout.read() if process.stdout is not None else ""
            pytest.fail(f"{process.args!r} ended with {process.returncode}: {output}")
        assert time.monotonic() < deadline, f"nobody listens on port {port}"
        pause.wait(0.02)


@dataclass(frozen=True)
class Sshd:
    """A private OpenSSH server with its own host key and port, and one key that may log in.

    Whoever runs the tests is the user.

    Attributes:
        port: where it listens, on 127.0.0.1.
        folder: where its files are; nothing of the user's own configuration is used.
    """

    port: int
    folder: Path

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path) -> Iterator[Self]:
        """Run one in `folder`."""
        sshd = require_program("sshd")
        for program in ("ssh", "scp", "ssh-keygen"):
            require_program(program)
        server = cls(free_port(), folder)
        server._write_files()
        if os.geteuid() == 0:
            # Debian's sshd wants its privilege separation directory; its service would make it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = folder / "sshd.log"
        command = [sshd, "-D", "-E", str(log), "-f", str(folder / "sshd_config")]
        with running_program(command, stdout=subprocess.DEVNULL) as process:
            try:
                wait_for_port(server.port, process)
            except BaseException:
                print(log.read_text() if log.exists() else "sshd wrote no log")
                raise
            yield server

    def _write_files(self) -> None:
        keygen = [require_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f"]
        run_program([*keygen, self.folder / "host_key"])
        run_program([*keygen, self.folder / "user_key"])
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")
        host_key = (self.folder / "host_key.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"private-sshd {host_key[0]} {host_key[1]}\n")
        (self.folder / "sshd_config").write_text(
            "\n".join(
                [
                    f"ListenAddress 127.0.0.1:{self.port}",
                    f"HostKey {self.folder / 'host_key'}",
                    f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
                    f"PidFile {self.folder / 'sshd.pid'}",
                    "StrictModes no",
                    "UsePAM no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "PermitRootLogin prohibit-password",
                    "Subsystem sftp internal-sftp",
                    "MaxStartups 100",
                    "",
                ]
            )
        )

    def options(self) -> list[str]:
        """Options of ssh and scp that make them use this server's keys and nothing else."""
        return [
            *("-F", "none"),
            *("-i", str(self.folder / "user_key")),
            *("-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}"),
            *("-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "HostKeyAlias=private-sshd"),
            *("-o", "StrictHostKeyChecking=yes"),
            *("-o", "IdentitiesOnly=yes"),
            *("-o", "BatchMode=yes"),
            *("-o", "ConnectTimeout=10"),
        ]

    def ssh(
        self, port: int, *command: str, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command over ssh through `port` of 127.0.0.1."""
        ssh = [require_program("ssh"), *self.options(), "-p", str(port)]
        return run_program([*ssh, "127.0.0.1", *command], stdin=stdin)

    def scp(self, port: int, source: str | Path, target: str | Path) -> None:
        """Copy a file with scp through `port`; the remote side is written `remote(path)`."""
        scp = [require_program("scp"), "-q", *self.options(), "-P", str(port)]
        run_program([*scp, source, target])

    @staticmethod
    def remote(path: Path) -> str:
        """How scp names a file on the server's side."""
        return f"127.0.0.1:{path}"
