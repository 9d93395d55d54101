"""The log of a gateway: text or JSON, with time and tunnel, within a rate, never in the way.

Owns the forms of a line, how often the same thing is said, and the thread that writes: whoever logs
never waits for whoever reads. An `extra` of `tunnel` names the tunnel; one of `event` and `fields`
makes an object of its own with `--json`. The functions at the end are what FleetActor says.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from tunnelfleet.actors.kernel import label_here
from tunnelfleet.runtime import ListenerClosed, ListenerOpened, TunnelState, TunnelStateChanged

from .reconcile import RunPhase

if TYPE_CHECKING:
    from .config import Problem
    from .messages import ReloadResult

MAX_QUEUED_LINES: Final = 10_000
MAX_LINE_LENGTH: Final = 2_000
LINES_A_WINDOW: Final = 10
"""Lines of one kind about one tunnel in a window; the others are counted and left out.

Not of events with `--json`: what programs follow is complete.
"""
WINDOW_SECONDS: Final = 10.0
MAX_KINDS: Final = 20_000
CLOSE_SECONDS: Final = 2.0
"""How long the end waits for the lines to be taken."""


class _Window(NamedTuple):
    began: float
    lines: int
    left_out: int


class RateLimit:
    """Lets so many lines of a kind through, in each window of time.

    Args:
        lines: in a window.
        seconds: the length of a window.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        lines: int = LINES_A_WINDOW,
        seconds: float = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._windows: collections.OrderedDict[object, _Window] = collections.OrderedDict()

    def admit(self, kind: object) -> int | None:
        """Ask for a line of this kind.

        Returns:
            None to leave it out; else how many of its kind were left out before it.
        """
        now = self._clock()
        began, lines, left_out = self._windows.pop(kind, _Window(now, 0, 0))
        told = 0
        if now - began >= self._seconds:
            began, lines, told, left_out = now, 0, left_out, 0
        is_admitted = lines < self._lines
        self._windows[kind] = _Window(began, lines + 1, left_out + (not is_admitted))
        if len(self._windows) > MAX_KINDS:
            self._windows.popitem(last=False)
        return told if is_admitted else None

    def admit_record(self, record: logging.LogRecord) -> int | None:
        """Return the same for a line of the log; those that tell an error are not counted."""
        if record.levelno >= logging.ERROR:
            return 0
        return self.admit((record.name, record.msg, getattr(record, "tunnel", None)))


LOGGER: Final = "tunnelfleet"
"""Only the project's own, and warnings of libraries: websocket-client's log shows request headers
at lower levels, and those hold tokens."""


class GatewayLog(logging.Handler):
    """Sends the project's log to a stream, from a thread of its own. A context manager.

    Args:
        stream: where to.
        as_json: one JSON object a line, in place of text.
        level: of the least important lines.
    """

    def __init__(self, stream: TextIO, *, as_json: bool, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._stream = stream
        self._as_json = as_json
        self._limit = RateLimit()
        self._lines: collections.deque[str] = collections.deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._writer = threading.Thread(target=self._write, name="tunnelfleet-log", daemon=True)
        self.dropped = 0
        """Lines that nobody took in time."""

    def __enter__(self) -> GatewayLog:
        self._writer.start()
        logger = logging.getLogger(LOGGER)
        self._before = (logger.level, logger.propagate, list(logger.handlers))
        # In the place of the command line's own: each line is written once, in one form.
        logger.handlers[:] = [self]
        # Those who follow the events get what is told in the ordinary case, however quiet the log.
        logger.setLevel(min(self.level, logging.INFO))
        logger.propagate = False
        # What libraries warn of, and nobody takes, would stand between the lines in another form.
        self._last_resort, logging.lastResort = logging.lastResort, self
        return self

    def __exit__(self, *_exc_info: object) -> None:
        logging.lastResort = self._last_resort
        logger = logging.getLogger(LOGGER)
        level, logger.propagate, logger.handlers[:] = self._before
        logger.setLevel(level)
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._writer.join(CLOSE_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Put the line where the thread finds it; never waits."""
        try:
            name_tunnel(record)
            left_out = 0 if self._as_json and is_whole(record) else self._limit.admit_record(record)
            if left_out is None:
                return
            self.put((json_line if self._as_json else text_line)(record, left_out))
        except Exception:  # noqa: BLE001 - a line that cannot be written must harm nobody
            self.dropped += 1

    def put(self, line: str) -> None:
        """Write a line as it is."""
        with self._changed:
            if len(self._lines) >= MAX_QUEUED_LINES:
                self.dropped += 1
                return
            self._lines.append(line)
            self._changed.notify()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._is_closing)
                if not self._lines:
                    return
                text = "".join(f"{line}\n" for line in self._lines)
                self._lines.clear()
            try:
                self._write_out(text)
            except (OSError, ValueError):
                # The reader has gone: that is no reason to end, and there is nobody to tell.
                self.dropped += text.count("\n")

    def _write_out(self, text: str) -> None:
        try:
            descriptor = self._stream.fileno()
        except OSError:
            self._stream.write(text)
            return
        # Past the stream's own buffer: what is left in that makes the interpreter fail at its end.
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            left = left[os.write(descriptor, left) :]


def is_whole(record: logging.LogRecord) -> bool:
    """Return whether programs have to be told each of its kind.

    Of what happens to the fleet none may be missing: a state that is left out would be a wrong one
    for ever. What strangers can cause as often as they like, an `extra` of `by_stranger`, is no
    such event.
    """
    return hasattr(record, "event") and not getattr(record, "by_stranger", False)


def text_line(record: logging.LogRecord, left_out: int = 0) -> str:
    """Return a line for people: time, level, tunnel, text."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    tunnel = getattr(record, "tunnel", None)
    about = f"{_printable(tunnel)}: " if tunnel else ""
    if record.name.partition(".")[0] != LOGGER:
        about = f"{record.name}: {about}"
    more = f" ({left_out} more like it were left out)" if left_out else ""
    text = _printable(_message(record))
    return f"{when}.{int(record.msecs):03d}Z {record.levelname.lower():<7} {about}{text}{more}"


def name_tunnel(record: logging.LogRecord) -> None:
    """Note which tunnel a record is about, if it does not say.

    Handlers run where the line is logged: in a turn of that tunnel.
    """
    if not hasattr(record, "tunnel"):
        record.tunnel = label_here() or None


def json_line(record: logging.LogRecord, left_out: int = 0) -> str:
    """Return the same for programs."""
    return json.dumps(event_object(record, left_out))


def event_object(record: logging.LogRecord, left_out: int = 0) -> dict[str, Any]:
    """Return what `json_line` writes, as an object."""
    found: dict[str, Any] = {
        "event": getattr(record, "event", "log"),
        "time": round(record.created, 3),
        "level": record.levelname.lower(),
        "logger": record.name,
    }
    tunnel = getattr(record, "tunnel", None)
    if tunnel:
        found["tunnel"] = tunnel
    found |= getattr(record, "fields", {})
    found["message"] = _message(record)[:MAX_LINE_LENGTH]
    if left_out:
        found["left_out"] = left_out
    return found


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        trace = logging.Formatter().formatException(record.exc_info)
        text = f"{text}\n{trace}"
    return text


def _printable(text: str) -> str:
    """On one line, whatever a peer has put into it."""
    line = "".join(c if c.isprintable() else " | " if c == "\n" else " " for c in text)
    return line if len(line) <= MAX_LINE_LENGTH else line[: MAX_LINE_LENGTH - 3] + "..."


TROUBLE = frozenset({TunnelState.REFUSED, TunnelState.QUARANTINED})

logger = logging.getLogger(__name__)


def log_state(event: TunnelStateChanged, phase: RunPhase | None) -> None:
    """A tunnel has another state."""
    level = logging.WARNING if event.state in TROUBLE else logging.INFO
    is_another_try = event.state is TunnelState.CONNECTING and event.reason
    if phase is RunPhase.STOPPING or is_another_try:
        # The way down, whose end is told; a try after a failure, which was told with its delay.
        level = logging.DEBUG
    text = f"{event.state}: {event.reason}" if event.reason else str(event.state)
    fields = {"state": event.state.value, "reason": event.reason}
    extra = {"tunnel": event.tunnel, "event": "tunnel_state_changed", "fields": fields}
    logger.log(level, "%s", text, extra=extra)


def log_listener(event: ListenerOpened) -> None:
    """A source listens."""
    fields = {"service_id": event.service_id, "address": str(event.address)}
    extra = {"tunnel": event.tunnel, "event": "listener_opened", "fields": fields}
    logger.info("%s listening on %s", event.service_id, event.address, extra=extra)


def log_listener_closed(event: ListenerClosed) -> None:
    """A source does not listen any more, or cannot; it tries again."""
    if not event.reason:
        return
    fields = {"service_id": event.service_id, "reason": event.reason}
    extra = {"tunnel": event.tunnel, "event": "listener_closed", "fields": fields}
    logger.warning("%s not listening: %s", event.service_id, event.reason, extra=extra)


LOGGED_PROBLEMS = 8
"""Mistakes in the files that the log shows; `check` shows all, and a reload answers them."""


def log_problems(problems: Sequence[Problem]) -> None:
    """What is wrong with the files, or worth a look."""
    for problem in problems[:LOGGED_PROBLEMS]:
        logger.log(logging.ERROR if problem.is_error else logging.WARNING, "%s", problem)
    if len(problems) > LOGGED_PROBLEMS:
        more = len(problems) - LOGGED_PROBLEMS
        logger.warning("and %d more like that: `tunnelfleet check` shows all", more)


def log_end(name: str) -> None:
    """A tunnel has ended, and its name is free."""
    logger.info("ended", extra={"tunnel": name, "event": "tunnel_ended"})


def log_reload(result: ReloadResult) -> None:
    """The files were read again."""
    if result.difference is None:
        logger.error(
            "the files have mistakes, and nothing was changed", extra={"event": "reload_failed"}
        )
        log_problems(result.problems)
        return
    logger.info(
        "the files are taken over: %s",
        result.difference,
        extra={"event": "reloaded", "fields": result.difference.to_json()},
    )
    log_problems(result.problems)
    for name in result.needs_restart:
        logger.warning("gateway.%s has changed; it is taken over at the next start", name)
