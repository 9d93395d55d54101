"""The programs that a quickstart runs: the devices with their services, and the gateway.

Owns how each is started, asked and ended, and that none outlives the quickstart, however that one
ends: the kernel is told so by `PR_SET_PDEATHSIG` of prctl(2). A few lines of Python stand between,
as a process with threads may run nothing of its own between fork and exec.
"""

from __future__ import annotations

import html
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelState
from tunnelfleet.version import PROGRAM

_LAUNCHER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):  # else it has gone in the meantime
    os.execv(sys.argv[2], sys.argv[2:])
"""


def owned(command: Sequence[str]) -> list[str]:
    """The command, to be run by the calling thread, that gets SIGTERM when this thread has ended.

    Args:
        command: a program by its whole path, and its arguments.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


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
                """Log nothing: what a device is asked is nobody's business here."""

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
    """Return the paths of sshd and ssh-keygen; None if one of them is not installed."""
    found = [
        shutil.which(name) or shutil.which(name, path=EXTRA_PATH) for name in ("sshd", "ssh-keygen")
    ]
    sshd, keygen = found
    return None if sshd is None or keygen is None else (sshd, keygen)


def quoted(path: Path) -> str:
    """Return a path as sshd_config(5) and ssh_config(5) take one with blanks."""
    return f'"{path}"'


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
            ("IdentityFile", quoted(self._folder / "user_key")),
            ("IdentitiesOnly", "yes"),
            ("UserKnownHostsFile", quoted(self._folder / "known_hosts")),
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
            f"HostKey {quoted(self._folder / 'host_key')}\n"
            f"AuthorizedKeysFile {quoted(self._folder / 'user_key.pub')}\n"
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


MAX_ERROR_LINES: Final = 5
QUIET_LEVELS: Final = frozenset({"debug", "info"})
"""Of its log: what it says so is no reason for its end."""
ERROR: Final = f"{PROGRAM}: "
"""How the line begins by which a command says why it has failed."""


@dataclass(frozen=True, slots=True)
class Try:
    """A command to try, and what it shows."""

    command: str
    shows: str


GATEWAY_STOP_SECONDS: Final = 15.0
"""How long the gateway may take to end; more than the drain of the quickstart's fleet."""


class GatewayProcess:
    """Runs `tunnelfleet up`. Use it as a context manager.

    Args:
        fleet: its file.
        folder: for its log, its socket and its state.
    """

    def __init__(self, fleet: Path, folder: Path) -> None:
        self._fleet = fleet
        self._folder = folder
        self._changed = threading.Condition()
        self._listening: dict[tuple[str, str], str] = {}
        self._connected: set[str] = set()
        self._said: list[str] = []
        self._has_ended = False
        self.url = ""
        """The URL of the gateway's pages, without a path."""

    def __enter__(self) -> Self:
        environ = {
            **os.environ,
            "RUNTIME_DIRECTORY": str(self._folder),
            "STATE_DIRECTORY": str(self._folder),
        }
        # A group of its own: Ctrl-C in the terminal is for whoever started this.
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            owned(
                [sys.executable, "-m", "tunnelfleet", "up", "--watch", "--json", str(self._fleet)]
            ),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="log of the gateway")
        self._reader.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for number, seconds in ((signal.SIGTERM, GATEWAY_STOP_SECONDS), (signal.SIGKILL, None)):
            if self._process.poll() is None:
                self._process.send_signal(number)
            try:
                self._process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        self._reader.join(GATEWAY_STOP_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._has_ended, seconds)

    def wait_ready(
        self, wanted: set[tuple[str, str]], seconds: float
    ) -> dict[tuple[str, str], str]:
        """Wait until it listens for these services of these tunnels, which are connected.

        Returns:
            The addresses.

        Raises:
            TunnelError: it has ended, or is not ready in time.
        """
        names = {name for name, _service_id in wanted}

        def is_ready() -> bool:
            return bool(self.url) and wanted <= self._listening.keys() and names <= self._connected

        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or is_ready(), seconds)
            if is_ready() and not self._has_ended:
                return dict(self._listening)
            said = "; ".join(self._reasons())
        raise TunnelError(f"the gateway does not come up: {said or 'it says nothing'}")

    def _reasons(self) -> list[str]:
        """Why it has ended, if it has said so, else what it last warned of."""
        last = [text.removeprefix(ERROR) for text in self._said if text.startswith(ERROR)]
        return last or self._said

    def command(self, *arguments: str, by_path: bool = False) -> str:
        """Return a command of this very program that asks this gateway, for a shell.

        Args:
            arguments: of the program, without the gateway.
            by_path: name the program by its path also where PATH leads to it.
        """
        beside = Path(sys.executable).with_name("tunnelfleet")
        words = [str(beside)] if beside.exists() else [sys.executable, "-m", "tunnelfleet"]
        found = shutil.which("tunnelfleet")
        if found is not None and Path(found) == beside and not by_path:
            words = ["tunnelfleet"]
        gateway = f"unix:{self._folder / 'admin.sock'}"
        return shlex.join([*words, *arguments, "--gateway", gateway])

    def tries(self) -> list[Try]:
        """Commands that show what it does."""
        return [Try(self.command("ls"), "its tunnels; also: top, show press-1, connections, audit")]

    def _read(self) -> None:
        assert self._process.stderr is not None
        with (self._folder / "gateway.log").open("wb") as log, self._process.stderr as lines:
            for line in lines:
                log.write(line)
                log.flush()
                try:
                    found = json.loads(line)
                except ValueError:
                    found = {"event": "log", "message": line.decode(errors="replace").strip()}
                self._take(found)
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _take(self, found: dict[str, Any]) -> None:
        with self._changed:
            match found.get("event"):
                case "metrics":
                    self.url = found["url"]
                case "listener_opened":
                    key = found["tunnel"], found["service_id"]
                    self._listening[key] = found["address"]
                case "tunnel_state_changed" if found["state"] == TunnelState.CONNECTED:
                    self._connected.add(found["tunnel"])
                case _ if found.get("level") not in QUIET_LEVELS:
                    said = [*self._said, str(found.get("message", ""))]
                    self._said = said[-MAX_ERROR_LINES:]
            self._changed.notify_all()
