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
import stat
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
        self._trouble = ""
        self.is_watching = threading.Event()
        """Set when a change from now on is noticed."""

    def __enter__(self) -> Self:
        self._thread.start()
        # What changes before that is not noticed. Without a folder there is nothing to wait for.
        if Ways(self._files()).folders:
            self.is_watching.wait(START_SECONDS)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        begins_anew = False
        while not self._stop.is_set():
            try:
                self._watch(Ways(self._files()), begins_anew=begins_anew)
            except (OSError, RuntimeError) as error:
                self._say(str(error))
                self._stop.wait(RETRY_SECONDS)
            begins_anew = True

    def _say(self, trouble: str) -> None:
        """Say why nothing is watched, once; an empty text when it is again."""
        if trouble and trouble != self._trouble:
            hint = "until they can be, SIGHUP has them read; is fs.inotify.max_user_watches enough?"
            logger.warning("the files cannot be watched: %s (%s)", trouble, hint)
        elif self._trouble and not trouble:
            logger.info("the files are watched again")
        self._trouble = trouble

    def _watch(self, ways: Ways, *, begins_anew: bool) -> None:
        """Until other folders are to be watched, or the end.

        Args:
            ways: what to watch.
            begins_anew: something may have changed while nothing was watched.
        """
        # A folder is watched still when another one has taken its place.
        watched = ways.identities()
        folders = ways.folders
        if not folders:
            self._stop.wait(LOOK_MILLISECONDS / 1_000)
            return
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
            self._say("")
            files = frozenset(self._files())
            # Where nothing has changed no link has either: thousands of files are not looked at.
            present = Ways(files) if found or files != ways.files else ways
            if begins_anew or any(
                ways.matters(Path(name)) or present.matters(Path(name)) for _change, name in found
            ):
                begins_anew = False
                self._on_change()
            if present.folders != folders or present.identities() != watched:
                return
            ways = present


_CERTIFICATE = re.compile(r"\.(pem|crt|cer|[0-9]+)")
"""The end of a name in a folder of authorities."""
MAX_LINKS = 40
"""Of one path; a kernel follows no more."""


class Ways:
    """Where the files of a configuration lie, and what leads to them, at one moment.

    Thousands of files lie in a few folders, and each folder is looked at once.

    Args:
        files: folders among them.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = frozenset(files)
        self._names: set[Path] = set()
        """Of files and folders, of what they link to, and of the links on the way."""
        self._own_folders: set[Path] = set()
        """Those of `files`."""
        self._around: set[Path] = set()
        """What to watch; some may not be there yet."""
        self._links_to: dict[Path, frozenset[Path]] = {}
        self._real: dict[Path, Path] = {}
        for path in self.files:
            self._add(path.absolute())

    @property
    def folders(self) -> frozenset[Path]:
        """What to watch: the folder of each file, of what it links to, of the links between."""
        return frozenset(each for each in self._around if _is_folder(each))

    def identities(self) -> frozenset[tuple[Path, int, int]]:
        """Return the folders that are there now, with what tells one from another in its place."""
        found = set()
        for folder in self._around:
            with contextlib.suppress(OSError):
                status = folder.stat()
                found.add((folder, status.st_dev, status.st_ino))
        return frozenset(found)

    def matters(self, path: Path) -> bool:
        """Whether a change of `path` is one of the configuration; others may live beside it."""
        if path.suffix == ".toml" or path.name.startswith(".."):
            return not (path.name.startswith(".") and path.suffix == ".toml")
        if _CERTIFICATE.fullmatch(path.suffix) and path.parent in self._own_folders:
            return True
        return path in self._names

    def _add(self, path: Path) -> None:
        links = self._links(path, MAX_LINKS)
        if path.parent not in self._real:
            self._real[path.parent] = _real(path.parent)
        real = _real(path) if path in links else self._real[path.parent] / path.name
        for place in {path, real}:
            self._names.add(place)
            if _is_folder(place):
                self._own_folders.add(place)
                self._around.add(place)
            else:
                self._around.add(place.parent)
        self._names |= links
        self._around |= {each.parent for each in links}

    def _links(self, path: Path, left: int) -> frozenset[Path]:
        """The links that the way to a file leads over: whoever swaps one gives another file."""
        if path == path.parent or left == 0:
            return frozenset()
        found = self._links_to.get(path.parent)
        if found is None:
            found = self._links_to[path.parent] = self._links(path.parent, left)
        try:
            target = path.readlink()
        except OSError:
            # It is no link, or is not there.
            return found
        target = Path(os.path.normpath(_real(path.parent) / target))
        return found | {path} | self._links(target, left - 1)


def _is_folder(path: Path) -> bool:
    """`Path.is_dir` raises where the way may not be gone."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _real(path: Path) -> Path:
    """Return where a path leads. `Path.resolve` raises where that is in a circle."""
    return Path(os.path.realpath(path))
