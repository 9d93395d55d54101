"""The live table: a snapshot as something that rich can draw.

Owns colours, columns, and what is left out when the terminal is small. Pure: the same snapshot and
size give the same picture; must not know a terminal, a clock or a tunnel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tunnelfleet.actors.stats import TunnelState

from .snapshot import SEVERITY, FleetSnapshot, Phase, TunnelRow
from .units import counted, human_bytes, human_rate, human_seconds, sparkline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

STATE_STYLES: Final = {
    TunnelState.CONNECTED: "green",
    TunnelState.CONNECTING: "cyan",
    TunnelState.DRAINING: "blue",
    TunnelState.BACKOFF: "yellow",
    TunnelState.STOPPED: "bright_black",
    TunnelState.QUARANTINED: "magenta",
    TunnelState.REFUSED: "bold red",
}
STATE_SIGNS: Final = {TunnelState.CONNECTED: "●", TunnelState.CONNECTING: "◌"}
OTHER_SIGN: Final = "○"

FRESH_SECONDS: Final = 3.0
"""An event younger than this is shown brightly."""
FRAME_LINES: Final = 7
"""Lines that are not rows: title, head, an empty one, three of summary, the cursor's."""
MIN_ROWS: Final = 3
STATE_CELLS: Final = 12
"""Of the longest usual state, so that the columns stay where they are."""
BAR_CELLS: Final = 24
SPARK_CELLS: Final = 24
WIDE_COLUMNS: Final = 100
"""Narrower terminals do without the columns that say least."""


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
    room = max(MIN_ROWS, height - FRAME_LINES - len(footer))
    rows = pick_rows(snapshot.rows, room)
    parts: list[RenderableType] = [_title(snapshot, width), _table(rows, width)]
    if len(rows) < len(snapshot.rows):
        parts.append(_more(snapshot, rows))
    parts += _summary(snapshot)
    parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in footer]
    return Group(*parts)


def pick_rows(rows: Sequence[TunnelRow], room: int) -> list[TunnelRow]:
    """Return the rows to show in `room` lines: by name, and when not all fit, trouble first."""
    if len(rows) <= room:
        return sorted(rows, key=lambda row: row.name)
    # One line less: it says how many more there are.
    worst = sorted(rows, key=lambda row: (-SEVERITY[row.state], row.name))
    return worst[: max(1, room - 1)]


def _title(snapshot: FleetSnapshot, width: int) -> Text:
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(" tunnelfleet demo ", style="bold reverse")
    title.append("  ")
    if snapshot.phase is Phase.RUNNING:
        title.append_text(_bar(snapshot))
    else:
        title.append(str(snapshot.phase), style="bold")
    title.append("   ")
    title.append(human_rate(snapshot.bytes_per_second), style="bold cyan")
    title.append(" ")
    cells = min(SPARK_CELLS, max(0, width - title.cell_len))
    title.append(sparkline(snapshot.history, cells), style="cyan")
    return title


def _bar(snapshot: FleetSnapshot) -> Text:
    part = min(1.0, snapshot.phase_seconds / snapshot.duration_seconds)
    done = round(part * BAR_CELLS)
    bar = Text("━" * done, style="green")
    bar.append("━" * (BAR_CELLS - done), style="bright_black")
    bar.append(f" {snapshot.phase_seconds:.0f} / {snapshot.duration_seconds:.0f} s")
    return bar


def _table(rows: Sequence[TunnelRow], width: int) -> Table:
    wide = width >= WIDE_COLUMNS
    gap = (0, 2 if wide else 1, 0, 0)
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold", padding=gap)
    table.add_column("Tunnel", no_wrap=True)
    table.add_column("State", no_wrap=True, min_width=STATE_CELLS)
    table.add_column("Streams", justify="right", no_wrap=True)
    table.add_column("Sent", justify="right", no_wrap=True)
    table.add_column("Received", justify="right", no_wrap=True)
    table.add_column("Rate", justify="right", no_wrap=True)
    table.add_column("Reconnects", justify="right", no_wrap=True)
    if wide:
        table.add_column("Resets", justify="right", no_wrap=True)
    table.add_column("Last event", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells if wide else cells[:7] + cells[8:]))
    return table


def _cells(row: TunnelRow) -> list[Text]:
    style = STATE_STYLES[row.state]
    quiet = "" if row.bytes_per_second else "bright_black"
    return [
        Text(row.name, style="bold"),
        Text(f"{STATE_SIGNS.get(row.state, OTHER_SIGN)} {row.state}", style=style),
        Text(f"{row.streams}", style="" if row.streams else "bright_black"),
        Text(human_bytes(row.sent_bytes)),
        Text(human_bytes(row.received_bytes)),
        Text(human_rate(row.bytes_per_second), style=quiet),
        _count(row.reconnects, "yellow"),
        _count(row.session_resets, "magenta"),
        Text(row.last_event, style="" if _is_fresh(row) else "bright_black"),
    ]


def _count(number: int, style: str) -> Text:
    return Text(str(number), style=style if number else "bright_black")


def _is_fresh(row: TunnelRow) -> bool:
    return row.event_age_seconds < FRESH_SECONDS or row.state is not TunnelState.CONNECTED


def _more(snapshot: FleetSnapshot, shown: Sequence[TunnelRow]) -> Text:
    names = {row.name for row in shown}
    hidden = [row for row in snapshot.rows if row.name not in names]
    connected = sum(row.state is TunnelState.CONNECTED for row in hidden)
    text = f"… {len(hidden):,} more, {connected:,} of them connected"
    return Text(text, style="bright_black")


def _summary(snapshot: FleetSnapshot) -> list[Text]:
    all_up = snapshot.connected == snapshot.tunnels
    tunnels = Text(
        f"\n{snapshot.connected} of {counted(snapshot.tunnels, 'tunnel')} connected",
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
            f"{human_bytes(snapshot.verified_bytes)} verified",
            f"{human_bytes(snapshot.total('sent_bytes'))} sent",
            f"{human_bytes(snapshot.total('received_bytes'))} received",
        ),
        _joined(
            Text(f"{snapshot.exchanges_completed:,} transfers done"),
            f"{snapshot.exchanges_broken:,} broken by chaos",
            counted(snapshot.threads, "thread"),
            f"{human_bytes(snapshot.rss_bytes)} of memory",
        ),
    ]


def _joined(first: Text, *others: str) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis").append_text(first)
    return line.append("".join(f" · {word}" for word in others))


def plain_line(snapshot: FleetSnapshot) -> str:
    """Return the snapshot as one line of text, for where there is no terminal."""
    clock = human_seconds(snapshot.elapsed_seconds)
    phase = "" if snapshot.phase is Phase.RUNNING else f"{snapshot.phase}; "
    words = (
        f"{snapshot.connected}/{snapshot.tunnels} connected",
        counted(snapshot.total("streams"), "stream"),
        f"{human_bytes(snapshot.total('sent_bytes'))} sent",
        f"{human_bytes(snapshot.total('received_bytes'))} received",
        human_rate(snapshot.bytes_per_second),
        counted(snapshot.total("reconnects"), "reconnect"),
        counted(snapshot.total("session_resets"), "session reset"),
        f"{snapshot.mismatched_bytes} bytes wrong",
    )
    return f"[{clock:>6}] {phase}{', '.join(words)}"
