"""Where the demo shows itself: a terminal, or lines of text.

Owns the output stream while the demo runs. Must not know what the snapshots mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, Self

from rich.console import Console
from rich.live import Live

from .snapshot import Phase
from .table import plain_line, render

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from .snapshot import FleetSnapshot

PLAIN_SECONDS: Final = 2.0
"""Between two progress lines where there is no terminal."""


class View(Protocol):
    """What the demo needs of its output."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *exc_info: object) -> None:
        """End; what is on the screen stays."""

    def update(self, snapshot: FleetSnapshot) -> None:
        """Show a snapshot."""

    def guide(self, lines: Sequence[str]) -> None:
        """Show how to reach the tunnels, from now on."""


def make_view(stream: TextIO) -> View:
    """Return the view that suits `stream`: a live table on a terminal, else progress lines."""
    console = Console(file=stream, highlight=False)
    return TerminalView(console) if console.is_terminal else PlainView(stream)


class TerminalView:
    """A live table.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._guide: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def update(self, snapshot: FleetSnapshot) -> None:
        """Draw the table anew."""
        width, height = self._console.size
        self._live.update(render(snapshot, width, height, self._guide), refresh=True)

    def guide(self, lines: Sequence[str]) -> None:
        """Keep `lines` below the table, and those that were given before."""
        self._guide = (*self._guide, "", *lines)


class PlainView:
    """A progress line every `PLAIN_SECONDS` of the demo, and one when its phase changes.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._phase: Phase | None = None
        self._next_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.flush()

    def update(self, snapshot: FleetSnapshot) -> None:
        """Print a line when it is time."""
        if snapshot.phase is not self._phase:
            self._phase = snapshot.phase
        elif snapshot.elapsed_seconds < self._next_at or snapshot.phase is Phase.KEEPING:
            return
        self._next_at = snapshot.elapsed_seconds + PLAIN_SECONDS
        self._print(plain_line(snapshot))

    def guide(self, lines: Sequence[str]) -> None:
        """Print `lines`."""
        for line in lines:
            self._print(line)

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
