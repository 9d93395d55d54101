"""The terminal of client commands: tables that fit a width, and waiting for a key.

Owns what is known of standard output, which columns are left out when there is no room, where text
is cut, and how a terminal is set while single keys are read. A pipe has neither width nor color and
gets every column in full. `NO_COLOR` and a terminal that is `dumb` mean no color.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tunnelfleet.proto import printable
from tunnelfleet.runtime.cli.errors import STOP_SIGNALS, deliver_signals
from tunnelfleet.runtime.cli.output import SIGNAL_SECONDS

_ESCAPES: Final = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\x1b[H": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1b[4~": "end",
}


def read_keys(typed: str) -> list[str]:
    """Return the keys in what a terminal sent; sequences that mean nothing here are left out."""
    keys: list[str] = []
    while typed:
        found = next((each for each in _ESCAPES if typed.startswith(each)), None)
        if found is not None:
            keys.append(_ESCAPES[found])
            typed = typed[len(found) :]
        elif typed.startswith("\x1b"):
            typed = typed[_unknown_length(typed) :]
        else:
            keys.append(typed[0])
            typed = typed[1:]
    return keys


def _unknown_length(typed: str) -> int:
    """Return how long an unknown sequence is: up to its last byte, a letter or a tilde."""
    ends = (at for at, c in enumerate(typed[2:], 3) if c.isalpha() or c == "~")
    return next(ends, len(typed))


KEY_BYTES: Final = 64


class Waiting:
    """Waits for keys, for a signal, or for the time; puts the terminal back as it was."""

    def __init__(self, *, reads_keys: bool) -> None:
        self._reads_keys = reads_keys and sys.stdin is not None and sys.stdin.isatty()
        self._stack = contextlib.ExitStack()
        self.is_over = False

    def __enter__(self) -> Waiting:
        self._wakes, self._wake = os.pipe()
        self._stack.callback(os.close, self._wakes)
        self._stack.callback(os.close, self._wake)
        self._stack.enter_context(
            deliver_signals([*STOP_SIGNALS, signal.SIGWINCH], self._on_signal)
        )
        if self._reads_keys:
            self._stack.enter_context(_single_keys(sys.stdin.fileno()))
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def _on_signal(self, number: signal.Signals) -> None:
        if number in STOP_SIGNALS:
            if self.is_over:
                # The gateway holds up its answer; whoever asks twice does not wait for it.
                raise KeyboardInterrupt
            self.is_over = True
        os.write(self._wake, b"x")

    def keys(self, seconds: float) -> list[str]:
        """Wait; returns the keys that were pressed."""
        watched = [self._wakes, *([sys.stdin.fileno()] if self._reads_keys else [])]
        ends_at = time.monotonic() + seconds
        ready: list[int] = []
        while not self.is_over and not ready:
            left = ends_at - time.monotonic()
            # A signal that comes just before the wait wakes nobody.
            ready, _, _ = select.select(watched, [], [], max(0.0, min(left, SIGNAL_SECONDS)))
            if left <= 0:
                break
        if self.is_over:
            return []
        if self._wakes in ready:
            os.read(self._wakes, KEY_BYTES)
        if not self._reads_keys or sys.stdin.fileno() not in ready:
            return []
        typed = os.read(sys.stdin.fileno(), KEY_BYTES)
        if not typed:
            # The terminal has gone.
            self.is_over = True
        return read_keys(typed.decode("utf-8", "replace"))


@contextlib.contextmanager
def _single_keys(descriptor: int) -> Iterator[None]:
    """A terminal that gives each key at once and does not show it."""
    import termios  # noqa: PLC0415
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


GAP: Final = "  "


class Styled(NamedTuple):
    """Text in one style; styles are those of rich, and empty where there is no color."""

    text: str
    style: str = ""


Line = tuple[Styled, ...]
Cell = Styled | str


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        title: at its head.
        rank: the columns with the highest rank are left out first when there is no room; 0 stays.
        min_width: it is not made narrower than that.
        is_right: numbers end at the same place.
        stretches: it takes what the others leave, and is cut when that is not enough.
    """

    title: str
    rank: int = 0
    min_width: int = 0
    is_right: bool = False
    stretches: bool = False


def _longest(table: Sequence[Sequence[Styled]], columns: int) -> list[int]:
    """The length of the longest cell of each column."""
    return [max((len(row[at].text) for row in table), default=0) for at in range(columns)]


def _of_rows(
    rows: Sequence[Sequence[Styled]],
    widths: Sequence[int],
    columns: Sequence[Column],
    shown: Sequence[int],
) -> list[Line]:
    return [_of_row(row, widths, columns, shown) for row in rows]


def lay_out(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> list[Line]:
    """Return a table, its head first.

    Args:
        columns: from left to right.
        rows: one cell for each column.
        width: of the terminal in characters; None leaves out and cuts nothing.
    """
    table = [[_piece(cell) for cell in row] for row in rows]
    longest = _longest(table, len(columns))
    full = [max(len(column.title), longest[at]) for at, column in enumerate(columns)]
    head = [Styled(column.title, "bold") for column in columns]
    shown = list(range(len(columns)))
    if width is None:
        return _of_rows([head, *table], full, columns, shown)
    # A column without a value anywhere says nothing.
    telling = [at for at in shown if longest[at] or not columns[at].rank]
    shown = _with_room(columns, full, telling if table else shown, width)
    widths = _fit(columns, full, shown, width)
    lines = _of_rows([head, *table], widths, columns, shown)
    return [cut_line(line, width) for line in lines]


def _of_row(
    row: Sequence[Styled], widths: Sequence[int], columns: Sequence[Column], shown: Sequence[int]
) -> Line:
    return _line([(row[each], widths[each], columns[each]) for each in shown])


MAX_CELL_CHARACTERS: Final = 2_000
"""The longest value in a pipe, where nothing is cut for want of room."""


def _piece(cell: Cell) -> Styled:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return Styled(printable(text, MAX_CELL_CHARACTERS), style)


def _with_room(
    columns: Sequence[Column], full: Sequence[int], shown: list[int], width: int
) -> list[int]:
    """Return the columns that there is room for."""
    while _least(columns, full, shown) > width and any(columns[each].rank for each in shown):
        # Columns of one rank say something together only.
        highest = max(columns[each].rank for each in shown)
        shown = [each for each in shown if columns[each].rank < highest]
    return shown


def _least(columns: Sequence[Column], full: Sequence[int], shown: Sequence[int]) -> int:
    needed = [min(full[each], _floor(columns[each], full[each])) for each in shown]
    return sum(needed) + len(GAP) * (len(shown) - 1)


def _floor(column: Column, full: int) -> int:
    return max(column.min_width, len(column.title)) if column.stretches else full


def _fit(
    columns: Sequence[Column], full: Sequence[int], shown: Sequence[int], width: int
) -> list[int]:
    """Give the columns that stretch what the others leave, a little to each in turn."""
    widths = list(full)
    elastic = [each for each in shown if columns[each].stretches]
    for each in elastic:
        widths[each] = min(full[each], _floor(columns[each], full[each]))
    room = width - sum(widths[each] for each in shown) - len(GAP) * (len(shown) - 1)
    while room > 0 and (growing := [each for each in elastic if widths[each] < full[each]]):
        for each in growing[:room]:
            widths[each] += 1
        room -= len(growing[:room])
    return widths


def _line(cells: Sequence[tuple[Styled, int, Column]]) -> Line:
    pieces: list[Styled] = []
    for number, (piece, width, column) in enumerate(cells):
        text = cut(piece.text, width)
        padding = " " * (width - len(text))
        is_last = number == len(cells) - 1
        if column.is_right:
            pieces.append(Styled(padding))
        pieces.append(Styled(text, piece.style))
        if not column.is_right and not is_last:
            pieces.append(Styled(padding))
        if not is_last:
            pieces.append(Styled(GAP))
    return tuple(piece for piece in pieces if piece.text)


ELLIPSIS: Final = "…"


def cut(text: str, width: int) -> str:
    """Return the text in at most so many characters; a cut one ends with an ellipsis."""
    return text if len(text) <= width else text[: max(0, width - 1)] + ELLIPSIS[:width]


def cut_line(line: Line, width: int) -> Line:
    """Return the line in at most so many characters."""
    if sum(len(piece.text) for piece in line) <= width:
        return line
    pieces: list[Styled] = []
    left = width
    for piece in line:
        pieces.append(Styled(cut(piece.text, left), piece.style))
        left -= len(pieces[-1].text)
        if len(piece.text) > len(pieces[-1].text) or pieces[-1].text != piece.text:
            break
        if left == 0:
            pieces[-1] = Styled(cut(piece.text + " ", len(piece.text)), piece.style)
            break
    return tuple(pieces)


def wrap(text: str, width: int | None, indent: int = 0) -> list[str]:
    """The text in lines of at most so many characters, broken at blanks where there are some.

    Args:
        text: on one line.
        width: None leaves it on one line.
        indent: of the lines behind the first, which begin behind something else.
    """
    if width is None or len(text) <= width - indent:
        return [text]
    room = max(1, width - indent)
    lines: list[str] = []
    rest = text
    while len(rest) > room:
        at = rest.rfind(" ", 1, room + 1)
        end = at if at > 0 else room
        lines.append(rest[:end])
        rest = rest[end:].lstrip(" ")
    if rest or not lines:
        lines.append(rest)
    return [lines[0], *(" " * indent + line for line in lines[1:])]


def plain(line: Line) -> str:
    """Return the line without styles."""
    return "".join(piece.text for piece in line).rstrip()


DEFAULT_SIZE: Final = (80, 24)
"""The size of a terminal that does not tell its own."""
MIN_WIDTH: Final = 20


def terminal_size() -> tuple[int | None, int | None]:
    """Return width and height of the terminal that standard output is; None if it is none."""
    if not _is_terminal():
        return None, None
    size = shutil.get_terminal_size(DEFAULT_SIZE)
    return max(size.columns, MIN_WIDTH), size.lines


def has_color() -> bool:
    """Return whether standard output wants color (https://no-color.org)."""
    return (
        _is_terminal()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") not in ("", "dumb")
    )


def write_lines(lines: Iterable[Line]) -> None:
    """Write lines to standard output."""
    if has_color():
        # Half of the time that a short command takes, and only a terminal needs it.
        from rich.console import Console  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        console = Console(highlight=False, soft_wrap=True)
        for line in lines:
            text = Text(no_wrap=True, end="\n")
            for piece in line:
                text.append(piece.text, piece.style or None)
            console.print(text, soft_wrap=True)
        return
    say("\n".join(plain(line) for line in lines))


def write_json(value: Any) -> None:
    """Write an answer for a program: one JSON value on one line."""
    say(json.dumps(value))


def note(text: str) -> None:
    """Say something beside the answer, on standard error."""
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """Write a text and the end of its line to standard output, at once."""
    if sys.stdout is None:
        # Closed by whoever started the program: nobody wants the answer.
        return
    encoding = sys.stdout.encoding or "utf-8"
    # A reason may have characters that the terminal's encoding lacks.
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()
