"""The log of the commands: lines with time, process, level and tunnel on stderr.

Owns the form of the lines, which is localproxy's, and where they go while a command runs. Only the
project's own loggers: websocket-client's log shows request headers, and those hold the tokens.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGER = "tunnelfleet"

_FORMAT = "[%(asctime)s.%(msecs)03d]{%(process)d}[%(levelname)s] %(label)s%(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S"


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes the lines.

    Args:
        stream: where to; None for what is stderr at the time, which a live table may have replaced.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        logging.Handler.__init__(self)
        self._stream = stream
        self.setFormatter(logging.Formatter(_FORMAT, _TIME))
        self.addFilter(_add_tunnel)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where the lines go."""
        return self._stream if self._stream is not None else sys.stderr


def _add_tunnel(record: logging.LogRecord) -> bool:
    # `tunnelfleet version` does not pay for actors.
    from tunnelfleet.actors.kernel import label_here  # noqa: PLC0415

    # Handlers run where the line is logged: in the turn of the actor that has something to say.
    label = label_here()
    record.label = f"{label}: " if label else ""
    return True


@contextmanager
def log_lines(level: int = logging.WARNING, stream: TextIO | None = None) -> Iterator[None]:
    """Write the project's log while a command runs.

    Args:
        level: from which on.
        stream: where to; None for stderr.
    """
    logger = logging.getLogger(LOGGER)
    before = logger.level, logger.propagate, list(logger.handlers)
    try:
        start(level, stream)
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.handlers[:] = before[2]


def start(level: int, stream: TextIO | None = None) -> logging.Handler:
    """Write the project's log to `stream` from `level` on, instead of where it went before.

    Returns:
        The handler, for whoever wants to remove it again.
    """
    logger = logging.getLogger(LOGGER)
    for handler in [each for each in logger.handlers if isinstance(each, LogHandler)]:
        logger.removeHandler(handler)
    made = LogHandler(stream)
    logger.addHandler(made)
    logger.setLevel(level)
    logger.propagate = False
    return made
