"""The live table of the demo, and the plain lines where there is no terminal.

Owns how the fleet looks at 80 columns and more. Must not know where the figures come from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol, Self, TextIO

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import counted
from tunnelfleet.runtime import figures

from .report import SEVERITY, DemoPhase, FleetSnapshot, TableRow

STATE_STYLES: Final = {
    TunnelState.CONNECTED: "green",
    TunnelState.CONNECTING: "cyan",
    TunnelState.DRAINING: "blue",
    TunnelState.BACKOFF: "yellow",
    TunnelState.STOPPED: "bright_black",
    TunnelState.QUARANTINED: "magenta",
    TunnelState.REFUSED: "bold red",
}
_RETRY: Final = re.compile(r"(?:; )?retry in [0-9.]+ s$")
STATE_SIGNS: Final = {TunnelState.CONNECTED: "●", TunnelState.CONNECTING: "◌"}
OTHER_SIGN: Final = "○"

FRAME_LINES: Final = 4
"""Lines that are neither rows nor summary: title, head, an empty one, the cursor's."""
MIN_ROWS: Final = 3
STATE_CELLS: Final = 12
"""The width of the longest usual state, so that the columns stay where they are."""
SEPARATOR: Final = " · "
SEPARATOR_TEXT: Final = Text(SEPARATOR)
BAR_CELLS: Final = 24
SPARK_CELLS: Final = 24
WIDE_COLUMNS: Final = 100
"""Narrower terminals do without the columns that the summary sums up: the last event is what
matters, and needs the room."""


def render(
    snapshot: FleetSnapshot, width: int, height: int, footer: Sequence[str] = ()
) -> RenderableType:
    """Draw a snapshot.

    Args:
        snapshot: what to draw.
        width: of the terminal, in cells.
        height: of the terminal, in lines; the picture is not higher unless `footer` alone is.
        footer: lines below the summary.
    """
    words = _summary(snapshot)
    summary = [line for each in words for line in _packed(each, width)]
    below = sum(max(1, -(-cell_len(line) // width)) for line in footer)
    if height - FRAME_LINES - len(summary) - below < MIN_ROWS:
        # The terminal is too small for all of it: a line of each kind.
        summary = [SEPARATOR_TEXT.join(each) for each in words]
    room = max(MIN_ROWS, height - FRAME_LINES - len(summary) - below)
    rows = pick_rows(snapshot.rows, room)
    parts: list[RenderableType] = [_title(snapshot, width), _table(rows, width)]
    if len(rows) < len(snapshot.rows):
        parts.append(_more(snapshot, rows))
    for line in summary:
        line.no_wrap, line.overflow = True, "ellipsis"
    parts += [Text(), *summary]
    # A command that is cut off cannot be pasted.
    parts += [Text("\n".join(_chopped(line, width))) for line in footer]
    return Group(*parts)


def _chopped(line: str, width: int) -> list[str]:
    return [line[at : at + width] for at in range(0, len(line), width)] or [""]


def pick_rows(rows: Sequence[TableRow], room: int) -> list[TableRow]:
    """Return the rows to show in `room` lines: by name, and when not all fit, trouble first."""
    if len(rows) <= room:
        return sorted(rows, key=lambda row: row.name)
    # One line is kept for the number of tunnels that are not shown.
    worst = sorted(rows, key=lambda row: (-SEVERITY[row.state], row.name))
    return worst[: max(1, room - 1)]


def _title(snapshot: FleetSnapshot, width: int) -> Text:
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(" tunnelfleet demo ", style="bold reverse")
    title.append("  ")
    if snapshot.phase is DemoPhase.RUNNING:
        title.append_text(_bar(snapshot))
    else:
        title.append(str(snapshot.phase), style="bold")
    title.append("   ")
    title.append(figures.human_rate(snapshot.bytes_per_second), style="bold cyan")
    title.append(" ")
    cells = min(SPARK_CELLS, max(0, width - title.cell_len))
    title.append(figures.sparkline(snapshot.history, cells), style="cyan")
    return title


def _bar(snapshot: FleetSnapshot) -> Text:
    part = min(1.0, snapshot.phase_seconds / snapshot.duration_seconds)
    done = round(part * BAR_CELLS)
    bar = Text("━" * done, style="green")
    bar.append("━" * (BAR_CELLS - done), style="bright_black")
    bar.append(f" {snapshot.phase_seconds:.0f} / {snapshot.duration_seconds:.0f} s")
    return bar


NARROW_COLUMNS: Final = frozenset({"Tunnel", "State", "Rate", "Last event"})


def _table(rows: Sequence[TableRow], width: int) -> Table:
    wide = width >= WIDE_COLUMNS
    gap = (0, 2 if wide else 1, 0, 0)
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold", padding=gap)
    heads = [head for head in _HEADS if wide or head in NARROW_COLUMNS]
    for head in heads:
        _add_column(table, head)
    for row in rows:
        cells = dict(zip(_HEADS, _cells(row, wide=wide), strict=True))
        table.add_row(*(cells[head] for head in heads))
    return table


def _add_column(table: Table, head: str) -> None:
    if head == "Last event":
        table.add_column(head, no_wrap=True, overflow="ellipsis", ratio=1)
    elif head == "State":
        table.add_column(head, no_wrap=True, min_width=STATE_CELLS)
    else:
        justify: JustifyMethod = "left" if head == "Tunnel" else "right"
        table.add_column(head, no_wrap=True, justify=justify)


_HEADS: Final = (
    "Tunnel",
    "State",
    "Streams",
    "Sent",
    "Received",
    "Rate",
    "Reconnects",
    "Resets",
    "Last event",
)


def _cells(row: TableRow, *, wide: bool) -> list[Text]:
    style = STATE_STYLES[row.state]
    quiet = "" if row.bytes_per_second else "bright_black"
    event = row.last_event if wide else shortened(row.last_event)
    return [
        Text(row.name, style="bold"),
        Text(f"{STATE_SIGNS.get(row.state, OTHER_SIGN)} {row.state}", style=style),
        Text(f"{row.streams}", style="" if row.streams else "bright_black"),
        Text(figures.human_bytes(row.sent_bytes)),
        Text(figures.human_bytes(row.received_bytes)),
        Text(figures.human_rate(row.bytes_per_second), style=quiet),
        _count(row.reconnects, "yellow"),
        _count(row.session_resets, "magenta"),
        Text(event, style="" if _is_fresh(row) else "bright_black"),
    ]


def shortened(event: str) -> str:
    """Return an event's text without the end's name and the time of the next try."""
    for prefix in ("source: ", "destination: "):
        event = event.removeprefix(prefix)
    return _RETRY.sub("", event)


def _count(number: int, style: str) -> Text:
    return Text(str(number), style=style if number else "bright_black")


FRESH_SECONDS: Final = 3.0
"""An event younger than this is shown brightly."""


def _is_fresh(row: TableRow) -> bool:
    return row.event_age_seconds < FRESH_SECONDS or row.state is not TunnelState.CONNECTED


def _more(snapshot: FleetSnapshot, shown: Sequence[TableRow]) -> Text:
    names = {row.name for row in shown}
    hidden = [row for row in snapshot.rows if row.name not in names]
    connected = sum(row.state is TunnelState.CONNECTED for row in hidden)
    text = f"… {len(hidden):,} more, {connected:,} of them connected"
    return Text(text, style="bright_black")


def _summary(snapshot: FleetSnapshot) -> list[list[Text]]:
    all_up = snapshot.connected == snapshot.tunnels
    tunnels = Text(
        f"{snapshot.connected} of {counted(snapshot.tunnels, 'tunnel')} connected",
        style="bold green" if all_up else "bold yellow",
    )
    if snapshot.mismatched_bytes:
        bytes_ = Text(f"✗ {counted(snapshot.mismatched_bytes, 'byte')} wrong", style="bold red")
    else:
        bytes_ = Text("✓ no byte wrong", style="bold green")
    return [
        _joined(
            tunnels,
            counted(snapshot.total("streams"), "stream"),
            counted(snapshot.total("connections"), "connection"),
            counted(snapshot.total("reconnects"), "reconnect"),
            counted(snapshot.total("session_resets"), "session reset"),
        ),
        _joined(
            bytes_,
            f"{figures.human_bytes(snapshot.verified_bytes)} verified",
            f"{figures.human_bytes(snapshot.total('sent_bytes'))} sent",
            f"{figures.human_bytes(snapshot.total('received_bytes'))} received",
        ),
        _joined(
            Text(f"{snapshot.exchanges_completed:,} transfers done"),
            f"{snapshot.exchanges_broken:,} broken by chaos",
            counted(snapshot.threads, "thread"),
            f"{figures.human_bytes(snapshot.rss_bytes)} of memory",
        ),
    ]


def _joined(first: Text, *others: str) -> list[Text]:
    return [first, *(Text(word) for word in others)]


def _packed(words: Sequence[Text], width: int) -> list[Text]:
    """Put words into as many lines as they need."""
    lines: list[Text] = []
    for word in words:
        if lines and lines[-1].cell_len + len(SEPARATOR) + word.cell_len <= width:
            lines[-1].append(SEPARATOR).append_text(word)
        else:
            lines.append(Text().append_text(word))
    return lines


def plain_line(snapshot: FleetSnapshot) -> str:
    """Return the snapshot as one line of text, for where there is no terminal."""
    clock = figures.human_seconds(snapshot.elapsed_seconds)
    phase = "" if snapshot.phase is DemoPhase.RUNNING else f"{snapshot.phase}; "
    words = (
        f"{snapshot.connected}/{snapshot.tunnels} connected",
        counted(snapshot.total("streams"), "stream"),
        f"{figures.human_bytes(snapshot.total('sent_bytes'))} sent",
        f"{figures.human_bytes(snapshot.total('received_bytes'))} received",
        figures.human_rate(snapshot.bytes_per_second),
        counted(snapshot.total("reconnects"), "reconnect"),
        counted(snapshot.total("session_resets"), "session reset"),
        f"{counted(snapshot.mismatched_bytes, 'byte')} wrong",
    )
    return f"[{clock:>6}] {phase}{', '.join(words)}"


PLAIN_SECONDS: Final = 2.0
"""The time between two progress lines where there is no terminal."""


class View(Protocol):
    """The output of the demo."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *exc_info: object) -> None:
        """End. What is on the screen stays there."""

    def update(self, snapshot: FleetSnapshot) -> None:
        """Show a snapshot."""

    def guide(self, lines: Sequence[str]) -> None:
        """Show from now on how to reach the tunnels."""


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
        self._phase: DemoPhase | None = None
        self._next_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.flush()

    def update(self, snapshot: FleetSnapshot) -> None:
        """Print a line when it is time."""
        if snapshot.phase is not self._phase:
            self._phase = snapshot.phase
        elif snapshot.elapsed_seconds < self._next_at or snapshot.phase is DemoPhase.KEEPING:
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
