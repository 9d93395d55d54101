"""What stands behind the tunnels of a quickstart: a web server for each device, and a real sshd.

Owns these servers and their files. They listen on loopback alone, and the sshd lets in one key,
which is made for it; without OpenSSH there is none.
"""

from __future__ import annotations

import html
import os
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tunnelfleet.proto import TunnelError

from .owned import owned

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Sshd", "WebServer", "find_sshd"]

START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.05
REQUEST_SECONDS: Final = 30.0
"""How long a client of a web server may take for its request."""
EXTRA_PATH: Final = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where sshd is, also for users whose PATH does not say so."""


class WebServer:
    """Says which device it is. Use it as a context manager.

    Args:
        device: its name.
    """

    def __init__(self, device: str) -> None:
        name = html.escape(device)
        body = f"<!doctype html><title>{name}</title><h1>Hello from {name}</h1>\n".encode()

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Nothing: what a device is asked is nobody's business here."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name=f"web server of {device}"
        )

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join(STOP_SECONDS)
        self._server.server_close()


def find_sshd() -> tuple[str, str] | None:
    """The paths of sshd and ssh-keygen; None if one of them is not installed."""
    found = [
        shutil.which(name) or shutil.which(name, path=EXTRA_PATH) for name in ("sshd", "ssh-keygen")
    ]
    sshd, keygen = found
    return None if sshd is None or keygen is None else (sshd, keygen)


class Sshd:
    """A private OpenSSH server for the user who runs this. Use it as a context manager.

    Args:
        folder: for its keys and its configuration; it has to be there and be private.
        programs: what `find_sshd` found.

    Raises:
        TunnelError: on entering, it does not start.
    """

    def __init__(self, folder: Path, programs: tuple[str, str]) -> None:
        self._folder = folder
        self._sshd, self._keygen = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    @property
    def client_options(self) -> list[tuple[str, str]]:
        """Options of ssh that make it use the key, and know the server."""
        return [
            ("IdentityFile", str(self._folder / "user_key")),
            ("IdentitiesOnly", "yes"),
            ("UserKnownHostsFile", str(self._folder / "known_hosts")),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("HostKeyAlias", "tunnelfleet-quickstart"),
            ("StrictHostKeyChecking", "yes"),
        ]

    def __enter__(self) -> Self:
        for name in ("host_key", "user_key"):
            command = [
                self._keygen,
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                str(self._folder / name),
            ]
            # The programs are those that the user's PATH names.
            subprocess.run(  # noqa: S603
                command, check=True, capture_output=True, timeout=START_SECONDS
            )
        host_key = (self._folder / "host_key.pub").read_text()
        (self._folder / "known_hosts").write_text(f"tunnelfleet-quickstart {host_key}")
        if os.geteuid() == 0:
            # Where Debian's sshd puts its unprivileged part; the service of the system makes it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._port = _free_port()
        config = self._folder / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{self._port}\n"
            f"HostKey {self._folder / 'host_key'}\n"
            f"AuthorizedKeysFile {self._folder / 'user_key.pub'}\n"
            f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\n"
        )
        log = self._folder / "sshd.log"
        # A group of its own: Ctrl-C in the terminal is for whoever started this.
        self._process = subprocess.Popen(  # noqa: S603 - see above
            owned([self._sshd, "-D", "-E", str(log), "-f", str(config)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait(log)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _wait(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
            except OSError:
                pass
            else:
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip() if log.exists() else ""
                self.__exit__(None, None, None)
                raise TunnelError(f"sshd does not start: {said or 'it says nothing'}")
            time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
