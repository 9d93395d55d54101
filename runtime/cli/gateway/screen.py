"""Where a client command writes: a terminal with a width and color, or a pipe with neither.

Owns what is known of standard output, and how a line of pieces gets there. Nothing is written in
color into a pipe, with NO_COLOR, or to a terminal that is `dumb`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Final

from .columns import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .columns import Line

__all__ = ["has_color", "note", "say", "terminal_size", "write_json", "write_lines"]

DEFAULT_SIZE: Final = (80, 24)
"""Of a terminal that does not say."""
MIN_WIDTH: Final = 20


def terminal_size() -> tuple[int | None, int | None]:
    """Width and height of the terminal that standard output is; None if it is none."""
    if not _is_terminal():
        return None, None
    size = shutil.get_terminal_size(DEFAULT_SIZE)
    return max(size.columns, MIN_WIDTH), size.lines


def has_color() -> bool:
    """Whether standard output wants color (https://no-color.org)."""
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
