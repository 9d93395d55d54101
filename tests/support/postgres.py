"""A PostgreSQL of one's own for tests: in a temporary folder, reached by a Unix socket alone.

The server refuses to run as root, so it runs as somebody else then. There are three roles: `owner`
owns each database, `gateway` has no rights but those it is granted, and `locked` needs a password.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest

from tests.support.programs import require_program
from tunnelfleet.runtime.gateway.store.database import Database
from tunnelfleet.runtime.gateway.store.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_SECONDS = 120.0
READY = "database system is ready to accept connections"
PASSWORD = "correct horse"
HBA = """
local all locked scram-sha-256
local all all trust
"""
NOBODY = "nobody"


def server_programs() -> Path:
    """The folder with initdb and postgres; Debian keeps it off the PATH."""
    require_program("psql")
    folders = [Path(found).resolve().parent for found in filter(None, [shutil.which("initdb")])]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    text = "psql is installed, and no server beside it: install postgresql"
    if os.environ.get("CI"):
        pytest.fail(f"{text}, and CI must have it")
    pytest.skip(text)


def as_whom() -> dict[str, Any]:
    """Arguments of Popen: root lets somebody else run it."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(NOBODY)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class PostgresServer:
    """A running server.

    Args:
        folder: its own, of whoever runs it.
        programs: where initdb and postgres are.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[Self]:
        """A server while the block runs."""
        programs = server_programs()
        folder = Path(tempfile.mkdtemp(prefix="tunnelfleet-pg-"))
        try:
            whom = as_whom()
            if whom:
                os.chown(folder, whom["user"], whom["group"])
            server = cls(folder, programs)
            server._make()
            server.start()
            try:
                server.run("postgres", "CREATE ROLE owner LOGIN", "CREATE ROLE gateway LOGIN")
                server.run("postgres", f"CREATE ROLE locked LOGIN PASSWORD '{PASSWORD}'")
                yield server
            finally:
                # At once: nobody needs what a checkpoint would write.
                server.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(folder)

    def _make(self) -> None:
        data = str(self.folder / "data")
        subprocess.run(
            [
                *(str(self._programs / "initdb"), "--no-sync", "--username=postgres"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "-D", data),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=WAIT_SECONDS,
            **as_whom(),
        )
        (self.folder / "data" / "pg_hba.conf").write_text(HBA)

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "log_destination": "stderr",
            "logging_collector": "off",
            "max_connections": "60",
        }
        self._process = subprocess.Popen(
            [
                *(str(self._programs / "postgres"), "-D", str(self.folder / "data")),
                *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **as_whom(),
        )
        assert self._process.stderr is not None
        seen = []
        for line in self._process.stderr:
            seen.append(line)
            if READY in line:
                break
        else:
            raise AssertionError(f"PostgreSQL did not start: {seen}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: connections are cut."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            # What it still says is read, so that it is not held up.
            process.communicate(timeout=WAIT_SECONDS)

    def url(self, database: str, role: str = "owner") -> str:
        """The URL of a database, as in the key `state`."""
        return f"postgresql://{role}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """An empty database of `owner`; returns its name."""
        name = f"fleet{next(self._numbers)}"
        self.run("postgres", f"CREATE DATABASE {name} OWNER owner")
        return name

    def new_state(self) -> str:
        """The URL of a state at the newest version, its owner's."""
        url = self.url(self.new_database())
        database = Database(url)
        migrate(database)
        database.close()
        return url

    def run(self, database: str, *statements: str) -> list[Any]:
        """Run statements as the superuser; return the rows of the last."""
        rows: list[Any] = []
        where = f"host={self.folder} user=postgres dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
                rows = cursor.fetchall() if cursor.description else []
        return rows
