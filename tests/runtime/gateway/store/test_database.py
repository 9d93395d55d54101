"""What can be wrong with a database: real ones, and one clear message for each."""

from __future__ import annotations

import os
import re
import resource
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.stores import closing, entry, make_store, opened, opening
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.store.database import Database
from tunnelfleet.runtime.gateway.store.errors import StoreError, Trouble
from tunnelfleet.runtime.gateway.store.migrations import MIGRATIONS, grant, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def refusal(url: str) -> str:
    """What a gateway says that does not start with this state; one printable line."""
    store = make_store(url)
    with pytest.raises(ConfigError) as caught:
        store.open()
    text = str(caught.value)
    assert text.isprintable()
    assert "Traceback" not in text
    store.close()
    return text


@pytest.fixture
def fleet_url(postgres: PostgresServer) -> str:
    """A state of PostgreSQL at the newest version, its owner's."""
    return postgres.new_state()


# -- the URL


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://h/d", "sqlite:////PATH or postgresql://HOST/DATABASE"),
        ("nonsense", "sqlite:////PATH or postgresql://HOST/DATABASE"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("postgresql://u:hunter2@h/d", "does not belong into the URL"),
        ("postgresql://h/d?password=hunter2", "does not belong into the URL"),
        ("postgresql://h/d?sslpassword=hunter2", "does not belong into the URL"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'tunnelfleet\[postgres\]'"):
        Database("postgresql://h/d")


# -- SQLite


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.db"
    before = os.umask(0)
    try:
        with opened(f"sqlite:///{path}") as store:
            store.note(opening(1))
            assert store.audit()
            files = sorted(path.parent.iterdir())
            assert [each.stat().st_mode & 0o777 for each in files] == [0o600] * len(files)
            assert len(files) == 3, "with its journal"
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_can_read_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.db"
    path.touch(mode=0o644)
    with opened(f"sqlite:///{path}"):
        assert f"others can read {path}; run: chmod o-rwx {path}" in caplog.text


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.symlink_to(tmp_path / "elsewhere.db")
    assert "leads nowhere" in refusal(f"sqlite:///{path}")
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_file_that_cannot_be_looked_at(tmp_path: Path) -> None:
    path = tmp_path / ("s" * 300)
    # Since Python 3.14 it counts as one that is not there, and cannot be made.
    wanted = rf"cannot (use|write) {path}: File name too long; name another place"
    assert re.search(wanted, refusal(f"sqlite:///{path}"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot make the folder" in refusal(f"sqlite:///{tmp_path / 'file' / 'state.db'}")


def test_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("this is the wrong file\n" * 100)
    assert "damaged or no database: file is not a database" in refusal(f"sqlite:///{path}")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    assert "cannot open the state" in refusal(f"sqlite:///{tmp_path}")


def test_a_file_that_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with opened(f"sqlite:///{path}"):
        pass
    assert "is read-only" in refusal(f"sqlite:///file:{path}?mode=ro&uri=true")


def test_a_newer_state(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with opened(f"sqlite:///{path}"):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO tunnelfleet_schema VALUES (99, 0.0, 'a later one')")
    connection.close()
    text = refusal(f"sqlite:///{path}")
    assert f"it is at version 99, and this program knows {MIGRATIONS[-1].number}" in text
    assert "run the newer tunnelfleet" in text


def test_a_file_that_another_process_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.store.database.BUSY_SECONDS", 0.05)
    path = tmp_path / "state.db"
    with opened(f"sqlite:///{path}") as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="held by another process") as caught:
            store.save_tunnel("a", entry("a"))
        assert caught.value.trouble is Trouble.BUSY
        holder.rollback()
        holder.close()
        store.save_tunnel("a", entry("a"))


def test_two_that_make_the_log_of_a_file_at_once_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself fails then at once, however long its own time to wait is."""
    path = tmp_path / "state.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            other.rollback()

    monkeypatch.setattr("tunnelfleet.runtime.gateway.store.database.time.sleep", pause)
    with opened(f"sqlite:///{path}") as store:
        assert store.is_ready
    assert len(pauses) == 3
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_a_log_that_cannot_be_made_in_time_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.store.database.BUSY_SECONDS", 0.05)
    path = tmp_path / "state.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with opened(f"sqlite:///{path}") as store:
        assert not store.is_ready
    other.close()


FULL_DISK = """
import resource, sys, threading
from tests.support.stores import closing, entry, make_store, opening
from tunnelfleet.runtime.gateway.store import StoreError, writer
from tests.support.waiting import eventually

writer.RETRY_SECONDS = writer.MAX_RETRY_SECONDS = 0.05
writer.QUEUE_RECORDS = 1_000
store = make_store(sys.argv[1])
store.open()
store.save_tunnel("a", entry("a"))
store.note(opening(1))
assert len(store.audit()) == 1
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
number = 1
while store._writer.stands_since is None:
    number += 1
    store.note(opening(number, peer="x" * 200))
    store._writer.flush(0.01)
try:
    for _ in range(1_000):
        store.save_tunnel("b", entry("b", labels={"x": "y" * 150}))
except StoreError as error:
    print(error.trouble.value)
for extra in range(2_000):
    store.note(opening(100_000 + extra))
assert store._writer.dropped > 900
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
eventually(lambda: store._writer.stands_since is None)
store.note(closing(1))
record = [each for each in store.audit() if each["connection_id"] == 1]
store.save_tunnel("c", entry("c"))
store.close()
print(sorted(set(store.load_tunnels()) | {"a", "c"}), store.collect is not None)
"""


def test_a_full_disk_stops_the_audit_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "full"
    assert done.stderr.count("the audit has stopped, and tunnels go on: the disk takes") == 1
    assert done.stderr.count("the audit goes on after") == 1
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    names = connection.execute("SELECT name FROM tunnelfleet_tunnels ORDER BY name").fetchall()
    connection.close()
    assert {("a",), ("c",)} <= set(names)


# -- PostgreSQL


def test_nobody_listens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(f"postgresql://gateway@/fleet?host={tmp_path}") as store:
        assert "cannot be reached" in caplog.text
        assert "is the server up, and the address right?" in caplog.text
        assert not store.is_ready
        with pytest.raises(StoreError) as caught:
            store.audit()
        assert caught.value.trouble is Trouble.NOT_READ


def test_a_password_comes_from_the_environment(
    postgres: PostgresServer, fleet_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = fleet_url.partition("?")[0].rpartition("/")[2]
    database = Database(fleet_url)
    grant(database, "locked")
    database.close()
    url = postgres.url(name, "locked")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    text = refusal(url)
    assert "refuses the login" in text
    assert "PGPASSWORD" in text
    monkeypatch.setenv("PGPASSWORD", "wrong")
    text = refusal(url)
    assert "password authentication failed" in text
    assert "wrong" not in text
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with opened(url) as store:
        assert store.is_ready
    monkeypatch.delenv("PGPASSWORD")
    passfile = tmp_path / "pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text(f"*:*:{name}:locked:{PASSWORD}\n")
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    with opened(url) as store:
        assert store.is_ready


def test_a_role_with_no_rights_on_an_empty_database(postgres: PostgresServer) -> None:
    text = refusal(postgres.url(postgres.new_database(), "gateway"))
    assert f"it has no tables yet, and version {MIGRATIONS[-1].number} is needed" in text
    assert "tunnelfleet migrate --state URL --grant ROLE" in text


def test_a_role_with_no_rights_on_the_tables(postgres: PostgresServer, fleet_url: str) -> None:
    url = fleet_url.replace("owner@", "gateway@")
    assert "this role may not use the tables" in refusal(url)
    name = fleet_url.partition("?")[0].rpartition("/")[2]
    for table in ("tunnelfleet_schema", "tunnelfleet_audit"):
        postgres.run(name, f"GRANT SELECT ON {table} TO gateway")
    text = refusal(url)
    assert "it lacks SELECT on tunnelfleet_tunnels" in text
    assert "INSERT on tunnelfleet_audit" in text


def test_a_role_that_may_only_read_and_write(fleet_url: str) -> None:
    database = Database(fleet_url)
    grant(database, "gateway")
    database.close()
    with opened(fleet_url.replace("owner@", "gateway@")) as store:
        store.save_tunnel("a", entry("a"))
        store.note(opening(1))
        store.note(closing(1))
        assert len(store.audit()) == 1
        assert store.forget_tunnel("a").was_there


def test_an_older_state_that_the_role_may_not_change(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(postgres.new_database())
    database = Database(url)
    migrate(database, MIGRATIONS[:1])
    database.close()
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.run(name, "GRANT SELECT ON tunnelfleet_schema TO gateway")
    text = refusal(url.replace("owner@", "gateway@"))
    assert f"it is at version 1, and version {MIGRATIONS[-1].number} is needed" in text


def test_a_server_that_takes_no_writes(postgres: PostgresServer, fleet_url: str) -> None:
    name = fleet_url.partition("?")[0].rpartition("/")[2]
    postgres.run("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "is read-only: the server takes no writes" in refusal(fleet_url)


def test_a_database_that_is_not_there(postgres: PostgresServer) -> None:
    text = refusal(postgres.url("nowhere"))
    assert "there is no state at postgresql://owner@/nowhere" in text
    assert 'database "nowhere" does not exist' in text
    assert "make what is missing, or change the URL" in text


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("service=nosuch", 'definition of service "nosuch" not found'),
        ("sslmode=sometimes", 'invalid sslmode value: "sometimes"'),
        ("colour=blue", 'invalid connection option "colour"'),
    ],
)
def test_what_libpq_does_not_understand(query: str, text: str) -> None:
    assert f"{text}; make what is missing, or change the URL" in refusal(f"postgresql:///?{query}")


def test_a_role_that_is_not_there(postgres: PostgresServer, fleet_url: str) -> None:
    text = refusal(fleet_url.replace("owner@", "nobody_here@"))
    assert 'role "nobody_here" does not exist' in text


def test_the_url_is_shown_as_it_was_written(postgres: PostgresServer) -> None:
    assert Database(url := postgres.url("a")).where.startswith(url.partition("?")[0])


@pytest.fixture(autouse=True)
def _limits_as_before() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before


def test_a_connection_that_is_in_use_when_all_are_closed_is_closed_after_it(
    postgres: PostgresServer,
) -> None:
    url = postgres.url(postgres.new_database())
    database = Database(url)
    with database.reading() as connection:
        driver: Any = connection.connection.driver_connection
        database.close()
        assert connection.execute(text("SELECT 1")).scalar() == 1
    assert driver.closed
    with database.writing() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    database.close()
