"""Where a gateway keeps what it makes itself, unless it is told otherwise.

Owns the folders that systemd and the XDG base directories give, and how files there are made: for
their owner alone, never through a link. Files that an operator names are read elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tunnelfleet.proto import ConfigError

NAME = "tunnelfleet"
ADMIN_SOCKET = "admin.sock"
ASIDE_BYTES = 8
"""How many random bytes the name of a file has while it is written."""


def admin_socket(environ: Mapping[str, str]) -> Path:
    """Where the admin API listens unless it is told otherwise, for the gateway and its clients."""
    return runtime_folder(environ) / ADMIN_SOCKET


def runtime_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder for sockets, gone after a reboot."""
    given = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    xdg = environ.get("XDG_RUNTIME_DIR")
    if xdg:
        return Path(xdg) / NAME
    uid = os.getuid()
    if uid == 0:
        return Path("/run") / NAME
    # Anybody could have made the folder: whoever listens there looks whose it is.
    open_to_all = Path("/tmp")  # noqa: S108  # nosec B108
    return open_to_all / f"{NAME}-{uid}"


def state_folder(environ: Mapping[str, str], state: str | None = None) -> Path:
    """Return the folder for what survives a restart.

    Args:
        environ: the environment.
        state: the URL of the state, if one is given: a file of SQLite has its folder.
    """
    if state is not None:
        parts = urlsplit(state)
        # sqlite:///relative and sqlite:////absolute, as SQLAlchemy writes them.
        if parts.scheme == "sqlite" and len(parts.path) > 1:
            return Path(unquote(parts.path[1:])).parent
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    xdg = environ.get("XDG_STATE_HOME")
    if xdg:
        return Path(xdg) / NAME
    try:
        return Path.home() / ".local" / "state" / NAME
    except RuntimeError:
        # A container with a user of its own, who has no home.
        return Path("/var/lib") / NAME


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter, if it is not there.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {folder}: {error.strerror}; name another one, "
            "or set STATE_DIRECTORY"
        ) from None


def create_private_file(path: Path, content: bytes) -> bool:
    """Make a file with this content, whole or not at all, for its owner alone.

    Returns:
        False if there is something of this name already: nothing has happened then.

    Raises:
        ConfigError: it cannot be made.
    """
    make_private_folder(path.parent)
    # Not by the process's number, which is always the same in a container: what a killed one has
    # left there would be in the way for ever.
    aside = path.with_name(f".{path.name}.{os.urandom(ASIDE_BYTES).hex()}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A link, and not a rename: it fails where something has the name, a link included.
            os.link(aside, path)
        except FileExistsError:
            return False
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        advice = "make room" if error.errno == errno.ENOSPC else "name another place"
        raise ConfigError(f"cannot write {path}: {error.strerror}; {advice}") from None
    return True


def open_at_once(path: str, flags: int) -> int:
    """Open a file and wait for nobody; an `opener` of `open`."""
    return os.open(path, flags | os.O_NONBLOCK)
