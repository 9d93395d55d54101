"""What client commands write: tables that fit a width, to a terminal or into a pipe.

Owns what is known of standard output, which columns are left out when there is no room, and where
text is cut. A terminal has a width and perhaps color; a pipe has neither, and gets every column in
full. `NO_COLOR` and a terminal that is `dumb` mean no color.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tunnelfleet.proto import printable

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
    full = [
        max([len(column.title), *(len(row[number].text) for row in table)])
        for number, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    widths = full
    if width is not None:
        # A column without a value anywhere says nothing.
        shown = [
            number
            for number in shown
            if not columns[number].rank or any(row[number].text for row in table) or not table
        ]
        while _least(columns, full, shown) > width and any(columns[each].rank for each in shown):
            # Columns of one rank say something together only.
            highest = max(columns[each].rank for each in shown)
            shown = [each for each in shown if columns[each].rank < highest]
        widths = _fit(columns, full, shown, width)
    head = [Styled(column.title, "bold") for column in columns]
    lines = [
        _line([(row[each], widths[each], columns[each]) for each in shown])
        for row in [head, *table]
    ]
    return lines if width is None else [cut_line(line, width) for line in lines]


MAX_CELL_CHARACTERS: Final = 2_000
"""The longest value in a pipe, where nothing is cut for want of room."""


def _piece(cell: Cell) -> Styled:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return Styled(printable(text, MAX_CELL_CHARACTERS), style)


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
    lines += [rest] if rest else []
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
