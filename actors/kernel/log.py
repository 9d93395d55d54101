"""A logger that cannot harm who logs.

Handlers are the host's, and may raise anything: a full disk, a closed stream, `SystemExit`. On a
dispatcher's thread that would end an actor by half, or the thread with every actor on it. So
everything below the command line logs through `get_logger`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def contained() -> Iterator[None]:
    """Drop what is raised within, save what is to end the program and came on the main thread."""
    try:
        yield
    # There is nobody left to tell.
    except Exception:  # noqa: BLE001, S110  # nosec B110
        pass
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            raise


_STACK_LEVEL = 3
"""Above this module's own two frames is whoever logs."""


class SafeLogger:
    """A `logging.Logger` whose handlers' exceptions go no further.

    On the main thread a `KeyboardInterrupt` or `SystemExit` does: there it comes from somebody who
    wants the program to end.

    Args:
        name: of the logger.
    """

    __slots__ = ("failures", "logger")

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)
        self.failures = 0
        """Roughly how many lines were lost because a handler raised."""

    def _log(self, level: int, message: str, args: tuple[object, ...], exc_info: Any) -> None:
        if not self.logger.isEnabledFor(level):
            return
        self.failures += 1
        with contained():
            self.logger.log(level, message, *args, exc_info=exc_info, stacklevel=_STACK_LEVEL)
            self.failures -= 1

    def debug(self, message: str, *args: object) -> None:
        """Log a line that helps to find a fault."""
        self._log(logging.DEBUG, message, args, None)

    def warning(self, message: str, *args: object) -> None:
        """Log a line that somebody should look at."""
        self._log(logging.WARNING, message, args, None)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        """Log an error together with the exception."""
        self._log(logging.ERROR, message, args, exc_info)

    def exception(self, message: str, *args: object) -> None:
        """Log an error together with the exception that is being handled."""
        self._log(logging.ERROR, message, args, exc_info=True)


def get_logger(name: str) -> SafeLogger:
    """Return the logger of a module; `name` is its `__name__`."""
    return SafeLogger(name)
