"""Noticing that the files of a gateway have changed.

Owns the thread that watches, and which changes matter. Folders are watched, not files: editors
write aside and rename, and Kubernetes swaps a link. It reads nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from watchfiles import watch

LOOK_MILLISECONDS = 1_000
"""How often the thread looks whether other folders are to be watched."""
START_SECONDS = 10.0
"""How long the beginning waits until changes are noticed, on a busy machine."""
CLOSE_SECONDS = 5.0
RETRY_SECONDS = 2.0

logger = logging.getLogger(__name__)


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
            if folders_of(files) != folders:
                return


def folders_of(files: Iterable[Path]) -> frozenset[Path]:
    """Return the folders to watch: of each file, and of what it links to."""
    folders: set[Path] = set()
    for path in files:
        for each in (path.absolute(), path.resolve()):
            folder = each if each.is_dir() else each.parent
            if folder.is_dir():
                folders.add(folder)
    return frozenset(folders)


def matters(path: Path, files: frozenset[Path]) -> bool:
    """Whether a change of `path` is one of the configuration; other files may live beside it."""
    if path.suffix == ".toml" or path.name.startswith(".."):
        return not (path.name.startswith(".") and path.suffix == ".toml")
    return any(path in (each.absolute(), each.resolve()) for each in files)
