"""What a command writes: its log, and its lines on a thread of their own.

Owns the queue of texts in front of standard output or standard error, its bound, and the end of it:
a pipe that nobody reads would block whoever writes into it, the answer to SIGTERM or a dispatcher.
Here it costs lines, which are counted. Owns the form of the log's lines too, which is localproxy's.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self, TextIO, TypeVar, cast

from tunnelfleet.proto import counted

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
    # Imported here, so that `tunnelfleet version` does not load the actors.
    from tunnelfleet.actors.kernel import label_here  # noqa: PLC0415

    # A handler runs on the thread that logs, in the turn of an actor, and must not block.
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


_Item = TypeVar("_Item")


MAX_WAITING_CHARACTERS: Final = 1_048_576
"""How much may wait for the reader. What comes beyond it is dropped and counted."""
CLOSE_SECONDS: Final = 2.0
"""How long the end of a command waits for the reader."""
SIGNAL_SECONDS: Final = 0.25
"""How late a waiting main thread may notice a signal."""
WRITE_BYTES: Final = select.PIPE_BUF
"""A pipe that is ready for writing takes so many bytes without blocking."""
JOIN_CHARACTERS: Final = 65_536


def _lost_line(count: int) -> str:
    return counted(count, "line", "was", "were") + " not written: the output is too slow"


class LineOutput:
    """Stands for a stream. Writing to it never blocks and never fails.

    Use it as a context manager: its end writes what waits, within `CLOSE_SECONDS`.

    Args:
        stream: where to; None if the process has none.
        lost_line: makes the line that says how many lines were dropped before it.
        on_reader_gone: called once, on the thread, when nobody can read any more.
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        lost_line: Callable[[int], str] = _lost_line,
        on_reader_gone: Callable[[], object] = lambda: None,
    ) -> None:
        self._stream = stream
        self._lost_line = lost_line
        self._on_reader_gone = on_reader_gone
        self._fd = _descriptor_of(stream)
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._waiting_characters = 0
        self._untold_lines = 0
        """How many texts were dropped since the reader was last told."""
        self._ends_at: float | None = None
        self.dropped_lines = 0
        self.reader_gone = stream is None
        self._wakes, self._wake = os.pipe()
        self._thread: threading.Thread | None = None
        """It starts with the first text: few programs write errors."""

    # -- what a text stream has

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor. Raises OSError if it has none."""
        if self._fd is None:
            raise OSError("this stream has no descriptor")
        return self._fd

    def flush(self) -> None:
        """Do nothing: texts are written as soon as the reader takes them."""

    def write(self, text: str) -> int:
        """Queue a text to be written, or drop it if too much waits. Any thread."""
        with self._changed:
            is_full = self._waiting_characters + len(text) > MAX_WAITING_CHARACTERS
            if is_full or self.reader_gone or self._ends_at is not None:
                lines = max(text.count("\n"), 1)
                self.dropped_lines += lines
                self._untold_lines += lines
            else:
                self._tell_untold()
                self._append(text)
                self._wake_thread()
        return len(text)

    def as_text(self) -> TextIO:
        """Return itself, for callers that want a `TextIO` and only write."""
        return cast("TextIO", self)

    def _append(self, text: str) -> None:
        self._waiting.append(text)
        self._waiting_characters += len(text)

    def _wake_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="tunnelfleet-output", daemon=True)
            thread.start()
            self._thread = thread
        self._changed.notify()

    def _tell_untold(self) -> None:
        if self._untold_lines and not self.reader_gone:
            self._append(self._lost_line(self._untold_lines) + "\n")
            self._untold_lines = 0

    # -- its end

    def close(self) -> None:
        """Write what waits, as far as the reader takes it within the time. Safe to call twice."""
        with self._changed:
            if self._ends_at is not None:
                return
            self._tell_untold()
            self._ends_at = time.monotonic() + CLOSE_SECONDS
            thread = self._thread
            self._changed.notify()
        os.write(self._wake, b"x")
        if thread is not None:
            thread.join()
        os.close(self._wake)
        os.close(self._wakes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    # -- the thread

    def _run(self) -> None:
        while (text := self._take()) is not None:
            try:
                is_written = self._write_out(text)
            except (OSError, ValueError):
                # EPIPE of a pipe, EIO of a terminal, ValueError of a stream that was closed.
                self.reader_gone = True
                with self._changed:
                    self._waiting.clear()
                    self._waiting_characters = 0
                self._on_reader_gone()
                continue
            if not is_written:
                return

    def _take(self) -> str | None:
        """Wait for texts and return them; None when it is closed and nothing waits."""
        with self._changed:
            while not self._waiting:
                if self._ends_at is not None:
                    return None
                self._tell_untold()
                if not self._waiting:
                    self._changed.wait()
            texts: list[str] = []
            characters = 0
            while self._waiting and characters < JOIN_CHARACTERS:
                texts.append(self._waiting.popleft())
                characters += len(texts[-1])
            return "".join(texts)

    def _write_out(self, text: str) -> bool:
        """Write a text; return False if there was not enough time."""
        if self._fd is None:
            assert self._stream is not None
            self._stream.write(text)
            self._stream.flush()
            self._taken(len(text))
            return True
        # This bypasses the stream's buffer, which the interpreter would flush at its end, and hang.
        left = memoryview(text.encode(self.encoding, "backslashreplace"))
        while left:
            if not self._wait_until_writable():
                return False
            try:
                left = left[os.write(self._fd, left[:WRITE_BYTES]) :]
            except BlockingIOError:
                continue
        self._taken(len(text))
        return True

    def _taken(self, characters: int) -> None:
        with self._changed:
            self._waiting_characters -= characters

    def _wait_until_writable(self) -> bool:
        """Wait for the reader, and at the end of the command only for a bounded time."""
        assert self._fd is not None
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        if self._ends_at is None:
            poller.register(self._wakes, select.POLLIN)
            if self._fd in dict(poller.poll()):
                return True
            poller.unregister(self._wakes)
        assert self._ends_at is not None
        left_seconds = max(self._ends_at - time.monotonic(), 0.0)
        return bool(poller.poll(left_seconds * 1_000))


def _descriptor_of(stream: TextIO | None) -> int | None:
    try:
        return stream.fileno() if stream is not None else None
    except (OSError, ValueError):
        return None


@contextmanager
def outputs(*, as_json: bool, goes_on: str) -> Iterator[tuple[LineOutput, LineOutput]]:
    """Standard output and standard error of a command.

    Args:
        as_json: what standard output gets are JSON objects, one a line.
        goes_on: what does not end when nobody reads standard output any more, in words.
    """

    def lost_object(count: int) -> str:
        return f'{{"event": "lines_lost", "count": {count}}}'

    with LineOutput(sys.stderr) as err:
        gone = f"note: nobody reads standard output any more; {goes_on} goes on\n"
        with LineOutput(
            sys.stdout,
            lost_line=lost_object if as_json else _lost_line,
            on_reader_gone=lambda: err.write(gone),
        ) as out:
            yield out, err


def take(inbox: queue.SimpleQueue[_Item]) -> _Item:
    """Wait for the next item of a main thread's inbox that signal handlers feed, too.

    A signal that comes while Python is about to block wakes nobody: its handler runs when the main
    thread returns to the interpreter, so it has to return now and then.
    """
    while True:
        try:
            return inbox.get(timeout=SIGNAL_SECONDS)
        except queue.Empty:
            continue


def write_line(stream: TextIO | None, line: str) -> None:
    """Write a last line, and wait for nobody longer than `CLOSE_SECONDS`."""
    with LineOutput(stream) as output:
        output.write(line + "\n")
