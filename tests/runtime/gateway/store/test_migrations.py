"""The way of a database to the version of the program, on both kinds."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import inspect, select

from tunnelfleet.runtime.gateway.store.database import METADATA, SCHEMA, Database
from tunnelfleet.runtime.gateway.store.errors import StoreError
from tunnelfleet.runtime.gateway.store.migrations import (
    MIGRATIONS,
    Migration,
    migrate,
    read_version,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NEWEST = MIGRATIONS[-1].number


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An empty one."""
    made = Database(url)
    made.prepare()
    yield made
    made.close()


def version(database: Database) -> int:
    with database.reading() as connection:
        return read_version(connection)


def test_they_are_numbered_from_one() -> None:
    assert [each.number for each in MIGRATIONS] == list(range(1, NEWEST + 1))


def test_an_empty_database_gets_all(database: Database) -> None:
    assert version(database) == 0
    assert migrate(database) == MIGRATIONS
    assert version(database) == NEWEST
    assert migrate(database) == ()


def test_each_version_gets_what_it_lacks(database: Database) -> None:
    for number in range(1, NEWEST + 1):
        assert [each.number for each in migrate(database, MIGRATIONS[:number])] == [number]
    with database.reading() as connection:
        rows = connection.execute(select(SCHEMA).order_by(SCHEMA.c.version)).all()
    assert [row.version for row in rows] == list(range(1, NEWEST + 1))
    assert all("tunnelfleet" in row.program for row in rows)


def test_they_lead_to_the_tables_that_the_statements_know(database: Database) -> None:
    migrate(database)
    with database.reading() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == {table.name for table in METADATA.sorted_tables}
        for table in METADATA.sorted_tables:
            columns = {each["name"]: each["nullable"] for each in found.get_columns(table.name)}
            # SQLite takes the key of a table for nullable, and it is not.
            keys = {column.name for column in table.primary_key}
            assert columns.keys() == {column.name for column in table.columns}
            for column in table.columns:
                if column.name not in keys:
                    assert columns[column.name] == column.nullable, column
            assert set(found.get_pk_constraint(table.name)["constrained_columns"]) == keys
            indexes = {
                (each["name"], tuple(each["column_names"]), bool(each["unique"]))
                for each in found.get_indexes(table.name)
            }
            assert indexes == {
                (each.name, tuple(column.name for column in each.columns), bool(each.unique))
                for each in table.indexes
            }


def test_one_that_fails_leaves_all_as_it_was(database: Database) -> None:
    migrate(database, MIGRATIONS[:1])
    broken = Migration(4, "broken", lambda _is_sqlite: ("CREATE TABLE half (a TEXT)", "NONSENSE"))
    with pytest.raises(StoreError):
        migrate(database, (*MIGRATIONS, broken))
    assert version(database) == 1
    with database.reading() as connection:
        names = inspect(connection).get_table_names()
    assert "half" not in names
    assert "tunnelfleet_audit" not in names


START = """
import sys
from tests.support.stores import make_store
store = make_store(sys.argv[1], gateway=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
store.open()
print(store.is_ready, flush=True)
store.close()
"""


def test_two_start_at_once_on_an_empty_database(url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, url, f"gw-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate(timeout=200)
            assert (out, process.returncode) == ("True\n", 0), err
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    database = Database(url)
    try:
        assert version(database) == NEWEST
    finally:
        database.close()
