"""What can be wrong with the state of a gateway, in words for its operator.

Owns the kinds of trouble with a database, how they are told apart, and one message for each: what
is wrong, where, and what to do. No message has a password, a statement or a value of one.
"""

from __future__ import annotations

import sqlite3
from enum import Enum
from typing import Any

from sqlalchemy import exc
from sqlalchemy.exc import SQLAlchemyError

from tunnelfleet.proto import TunnelError, printable


class Trouble(Enum):
    """What is wrong with a state."""

    UNREACHABLE = "unreachable"
    PASSWORD = "password"  # noqa: S105 - a kind of trouble
    READ_ONLY = "read-only"
    FULL = "full"
    BUSY = "busy"
    CANNOT_OPEN = "cannot open"
    MISSING = "missing"
    """There is no such database or role, or libpq finds its own settings wrong."""
    DAMAGED = "damaged"
    FORBIDDEN = "forbidden"
    OUTDATED = "outdated"
    """The tables have to be made or changed, and this role may not."""
    NEWER = "newer"
    BAD_DATA = "bad data"
    """The database does not take these values, whatever is done about it."""
    NOT_READ = "not read"
    """The database has not been reached since the start, so nothing is known of its content."""
    OTHER = "other"

    @property
    def may_pass(self) -> bool:
        """Whether the trouble can go away without a change of the configuration."""
        return self in _PASSING


_PASSING = frozenset({Trouble.UNREACHABLE, Trouble.FULL, Trouble.BUSY})


class StoreError(TunnelError):
    """The state of a gateway cannot be read or written; its text says what to do.

    Args:
        trouble: what is wrong.
        text: for people.
    """

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text)
        self.trouble = trouble


_TEXTS = {
    Trouble.UNREACHABLE: (
        "the state at {where} cannot be reached: {cause}; is the server up, and the address right?"
    ),
    Trouble.PASSWORD: (
        "the state at {where} refuses the login: {cause}; "
        "the password comes from ~/.pgpass (PGPASSFILE) or PGPASSWORD"
    ),
    Trouble.READ_ONLY: "the state at {where} is read-only: {cause}; name one that can be written",
    Trouble.FULL: "the disk takes nothing more of the state at {where}: {cause}; make room for it",
    Trouble.BUSY: "the state at {where} is held by another process: {cause}; try again later",
    Trouble.CANNOT_OPEN: (
        "cannot open the state at {where}: {cause}; "
        "is the folder there, and may this user write to it?"
    ),
    Trouble.MISSING: (
        "there is no state at {where}: {cause}; make what is missing, or change the URL"
    ),
    Trouble.DAMAGED: (
        "the state at {where} is damaged or no database: {cause}; "
        "move it away, or put a copy in its place"
    ),
    Trouble.FORBIDDEN: (
        "this role may not use the tables of the state at {where}: {cause}; "
        "have their owner run: tunnelfleet migrate --state URL --grant ROLE"
    ),
    Trouble.OUTDATED: (
        "the tables of the state at {where} have to be made or changed, and this role may not: "
        "{cause}; have their owner run: tunnelfleet migrate --state URL --grant ROLE"
    ),
    Trouble.NEWER: (
        "the state at {where} is newer than this program: {cause}; "
        "run the newer tunnelfleet, or name another state"
    ),
    Trouble.BAD_DATA: "the state at {where} does not take what is to be written: {cause}",
    Trouble.NOT_READ: "the state at {where} has not been reached since the start: {cause}",
    Trouble.OTHER: "the state at {where} cannot be used: {cause}",
}

_SQLITE = (
    ("SQLITE_FULL", Trouble.FULL),
    ("SQLITE_IOERR", Trouble.FULL),
    ("SQLITE_READONLY", Trouble.READ_ONLY),
    ("SQLITE_BUSY", Trouble.BUSY),
    ("SQLITE_LOCKED", Trouble.BUSY),
    ("SQLITE_CANTOPEN", Trouble.CANNOT_OPEN),
    ("SQLITE_PERM", Trouble.CANNOT_OPEN),
    ("SQLITE_NOTADB", Trouble.DAMAGED),
    ("SQLITE_CORRUPT", Trouble.DAMAGED),
)
"""The beginnings of the names of SQLite's errors. A disk that fails is most often a full one."""

_POSTGRES = (
    ("28", Trouble.PASSWORD),
    ("3D", Trouble.MISSING),
    ("53100", Trouble.FULL),
    ("25006", Trouble.READ_ONLY),
    ("42501", Trouble.FORBIDDEN),
    ("08", Trouble.UNREACHABLE),
    ("57P", Trouble.UNREACHABLE),
    ("53", Trouble.BUSY),
    ("55P03", Trouble.BUSY),
    ("57014", Trouble.BUSY),
    ("40", Trouble.BUSY),
    ("22", Trouble.BAD_DATA),
    ("23", Trouble.BAD_DATA),
)
"""The beginnings of SQLSTATE, Appendix A of PostgreSQL's manual."""

_LOGIN_WORDS = ("password", "pg_hba.conf", "authentication", "SASL")
"""libpq gives a refused login no SQLSTATE, only the server's words."""
_MISSING_WORDS = ('" does not exist', "definition of service", "invalid ", "certificate file")
"""Of the server about a database or a role, and of libpq about a service or an option."""


MAX_CAUSE_CHARACTERS = 300
"""How much of what a database says a message repeats."""


def make_error(trouble: Trouble, where: str, cause: str) -> StoreError:
    """Make the error for a kind of trouble.

    Args:
        trouble: what is wrong.
        where: the state's URL as it may be shown.
        cause: what the database says, or what was found.
    """
    cause = printable(cause, MAX_CAUSE_CHARACTERS).rstrip(".") or trouble.value
    return StoreError(trouble, _TEXTS[trouble].format(where=where, cause=cause))


def explain(error: SQLAlchemyError, where: str) -> StoreError:
    """Turn an error of the library into one of ours.

    Args:
        error: of SQLAlchemy, or of a driver in its clothes.
        where: the state's URL as it may be shown.
    """
    if isinstance(error, exc.TimeoutError):
        return make_error(Trouble.BUSY, where, "all connections to it are in use")
    original: Any = getattr(error, "orig", None)
    if original is None:
        return make_error(Trouble.OTHER, where, type(error).__name__)
    # The first line: what follows repeats the statement, or gives hints for others.
    cause = next(iter(str(original).strip().splitlines()), "")
    return make_error(_trouble(error, original, str(original)), where, cause)


def _trouble(error: SQLAlchemyError, original: Any, text: str) -> Trouble:
    if isinstance(original, sqlite3.Error):
        name = getattr(original, "sqlite_errorname", "") or ""
        return _first(_SQLITE, name) or _by_class(error)
    state = getattr(original, "sqlstate", None)
    if state:
        return _first(_POSTGRES, state) or _by_class(error)
    if any(word in text for word in _LOGIN_WORDS):
        return Trouble.PASSWORD
    if any(word in text for word in _MISSING_WORDS):
        return Trouble.MISSING
    if isinstance(error, exc.OperationalError | exc.InterfaceError):
        return Trouble.UNREACHABLE
    return _by_class(error)


def _first(table: tuple[tuple[str, Trouble], ...], name: str) -> Trouble | None:
    return next((trouble for start, trouble in table if name.startswith(start)), None)


def _by_class(error: SQLAlchemyError) -> Trouble:
    is_data = isinstance(error, exc.DataError | exc.IntegrityError)
    return Trouble.BAD_DATA if is_data else Trouble.OTHER
