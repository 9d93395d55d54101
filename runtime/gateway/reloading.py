"""When the files of a gateway are read again: they have changed, or somebody asks.

Owns the thread that watches folders (editors write aside and rename, and Kubernetes swaps a link),
and the order of readings: one at a time, and whoever asks while one goes on gets the next, because
what they are about may have changed after it began. It reads no file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from watchfiles import watch

from tunnelfleet.actors.kernel import Reply

from .config import ConfigProblems, FleetConfig, Problem

if TYPE_CHECKING:
    from .messages import ReloadResult

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """The files were read: what they say, or what is wrong with them."""

    config: FleetConfig | None
    problems: tuple[Problem, ...] = ()


def loaded(future: Future[FleetConfig]) -> Loaded:
    """Return what a reading that is over has found."""
    try:
        return Loaded(future.result())
    except ConfigProblems as error:
        return Loaded(None, error.problems)
    except Exception as error:
        # A mistake of ours must not end the fleet; whoever asked is told.
        logger.exception("reading the files failed")
        return Loaded(None, (Problem("files", 1, "file", f"they could not be read: {error}"),))


class ReloadQueue:
    """Who waits for a reading."""

    def __init__(self) -> None:
        self._present: list[Reply] = []
        """For the reading that goes on; there is none while this is empty."""
        self._next: list[Reply] = []

    def ask(self, reply: Reply) -> bool:
        """Wait for a reading that begins now or later; return whether it has to begin now."""
        if self._present:
            self._next.append(reply)
            return False
        self._present.append(reply)
        return True

    def answer(self, result: ReloadResult) -> bool:
        """Answer those whose reading is over; return whether the next has to begin now."""
        answered, self._present, self._next = self._present, self._next, []
        for reply in answered:
            reply.set(result)
        return bool(self._present)


LOOK_MILLISECONDS = 1_000
"""How often the thread looks whether other folders are to be watched."""
START_SECONDS = 10.0
"""How long the beginning waits until changes are noticed, on a busy machine."""
CLOSE_SECONDS = 5.0
RETRY_SECONDS = 2.0


class FileWatcher:
    """Calls back when one of the files has changed. A context manager.

    Args:
        files: the present ones, folders among them; called on the watcher's thread.
        on_change: called on the watcher's thread; changes that come together are one call.
    """

    def __init__(
        self, files: Callable[[], Iterable[Path]], on_change: Callable[[], object]
    ) -> None:
        self._files = files
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-watch", daemon=True)
        self.is_watching = threading.Event()
        """Set when a change from now on is noticed."""

    def __enter__(self) -> Self:
        self._thread.start()
        # What changes before that is not noticed. Without a folder there is nothing to wait for.
        if folders_of(self._files()):
            self.is_watching.wait(START_SECONDS)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        begins_anew = False
        while not self._stop.is_set():
            try:
                self._watch(folders_of(self._files()), begins_anew=begins_anew)
            except (OSError, RuntimeError) as error:
                logger.warning("the files cannot be watched: %s", error)
                self._stop.wait(RETRY_SECONDS)
            begins_anew = True

    def _watch(self, folders: frozenset[Path], *, begins_anew: bool) -> None:
        """Until other folders are to be watched, or the end.

        Args:
            folders: what to watch.
            begins_anew: something may have changed while nothing was watched.
        """
        if not folders:
            self._stop.wait(LOOK_MILLISECONDS / 1_000)
            return
        watched = _identities(folders)
        changes = watch(
            *folders,
            stop_event=self._stop,
            rust_timeout=LOOK_MILLISECONDS,
            yield_on_timeout=True,
            recursive=False,
            raise_interrupt=False,
        )
        for found in changes:
            self.is_watching.set()
            files = frozenset(self._files())
            if begins_anew or any(matters(Path(name), files) for _change, name in found):
                begins_anew = False
                self._on_change()
            # A folder is watched still when another one has taken its place.
            if _identities(folders_of(files)) != watched:
                return


def _identities(folders: Iterable[Path]) -> frozenset[tuple[Path, int, int]]:
    """Return the folders, each with what tells it from another one in its place."""
    found = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            status = folder.stat()
            found.add((folder, status.st_dev, status.st_ino))
    return frozenset(found)


def folders_of(files: Iterable[Path]) -> frozenset[Path]:
    """Return the folders to watch: of each file, of what it links to, and of the links between."""
    folders: set[Path] = set()
    known: dict[Path, frozenset[Path]] = {}
    for path in files:
        folders |= {each.parent for each in _links(path.absolute(), known)}
        for each in _places(path):
            folders.add(each if each.is_dir() else each.parent)
    return frozenset(each for each in folders if each.is_dir())


def _places(path: Path) -> tuple[Path, Path]:
    """Where a file is named, and where it is."""
    # `Path.resolve` raises where links lead in a circle.
    return path.absolute(), Path(os.path.realpath(path))


_CERTIFICATE = re.compile(r"\.(pem|crt|cer|[0-9]+)")
"""The end of a name in a folder of authorities."""


def matters(path: Path, files: frozenset[Path]) -> bool:
    """Whether a change of `path` is one of the configuration; other files may live beside it."""
    if path.suffix == ".toml" or path.name.startswith(".."):
        return not (path.name.startswith(".") and path.suffix == ".toml")
    is_certificate = _CERTIFICATE.fullmatch(path.suffix) is not None
    known: dict[Path, frozenset[Path]] = {}
    for each in files:
        places = _places(each)
        if path in places or (is_certificate and path.parent in places):
            return True
        if path in _links(each.absolute(), known):
            return True
    return False


MAX_LINKS = 40
"""Of one path; a kernel follows no more."""


def _links(
    path: Path, known: dict[Path, frozenset[Path]], left: int = MAX_LINKS
) -> frozenset[Path]:
    """Return the links that the way to a file leads over: whoever swaps one gives another file."""
    if path in known or path == path.parent or left == 0:
        return known.get(path, frozenset())
    found = _links(path.parent, known, left)
    try:
        target = Path(os.path.realpath(path.parent)) / path.readlink()
    except OSError:
        # It is no link, or is not there.
        pass
    else:
        found |= {path} | _links(Path(os.path.normpath(target)), known, left - 1)
    known[path] = found
    return found
