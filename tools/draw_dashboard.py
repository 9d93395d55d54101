"""Draws the dashboards' panels from a real run: docs/dashboard.png, docs/dashboard-tunnel.png.

    python tools/draw_dashboard.py [--seconds 90] [--tunnels 20]

It starts `tunnelfleet demo` with chaos and a Prometheus of its own, asks that one every panel's
query and draws the answers. Needs the programs `prometheus` and the packages of the group `dev`.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from grafana.panels import FLEET, TUNNEL, Board, Panel  # noqa: E402
from grafana.prometheus_process import Prometheus, free_port  # noqa: E402
from grafana.queries import plain  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = ROOT / "docs"
PROGRAM = "import sys; from tunnelfleet.runtime.cli import main; sys.exit(main())"
STEP_SECONDS = 1.0
RATE_INTERVAL = "5s"
WARM_UP_SECONDS = 8.0
LEGEND_LIMIT = 8
COLUMNS = 24
PICKED = "press-01 source|press-01 destination"
BACKGROUND, FACE, TEXT, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"
COLORS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}
PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0")


class Asked:
    """The answers to a board's queries over a stretch of time."""

    def __init__(self, prometheus: Prometheus, start: float, end: float) -> None:
        self._prometheus = prometheus
        self._start, self._end = start, end

    def series(self, panel: Panel) -> list[tuple[str, list[float], list[float]]]:
        """Legend, seconds since the start and values of each series of a panel."""
        found = []
        for target in panel.targets:
            expr = plain(target.expr.replace("$tunnel", PICKED), RATE_INTERVAL)
            for each in self._prometheus.query_range(expr, self._start, self._end, STEP_SECONDS):
                times = [float(moment) - self._start for moment, _value in each["values"]]
                values = [float(value) for _moment, value in each["values"]]
                found.append((legend(target.legend, each["metric"]), times, values))
        return found


def legend(template: str, labels: dict[str, str]) -> str:
    """Grafana's legend for a series."""
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def main() -> int:
    """Run the demo, ask and draw."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from a real run.")
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--tunnels", type=int, default=20)
    given = parser.parse_args()
    port = free_port()
    with Prometheus(f"127.0.0.1:{port}") as prometheus:
        start = time.time() + WARM_UP_SECONDS
        end = run_demo(port, given.seconds, given.tunnels, start + given.seconds)
        for board, name in ((FLEET, "dashboard.png"), (TUNNEL, "dashboard-tunnel.png")):
            draw(board, Asked(prometheus, start, end), DOCS / name)
    return 0


def run_demo(port: int, seconds: int, tunnels: int, end: float) -> float:
    """Run the demo until `end`, or its own end if that comes before; returns when it ended."""
    demo = subprocess.Popen(
        [
            *(sys.executable, "-c", PROGRAM, "demo", "--keep", "--admin", f"127.0.0.1:{port}"),
            *("--tunnels", str(tunnels), "--duration", str(seconds)),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        threading.Event().wait(end - time.time())
        if demo.poll() is not None:
            raise RuntimeError(f"the demo ended with status {demo.returncode}")
    finally:
        demo.terminate()
        demo.wait(30)
    return end


def draw(board: Board, asked: Asked, path: Path) -> None:
    """Draw a board as Grafana lays it out."""
    lines = layout(board)
    heights = [
        0.35 if isinstance(line, str) else 0.9 if line[0].kind == "stat" else 2.0 for line in lines
    ]
    figure = plt.figure(figsize=(18, 1.25 * sum(heights) + 1), facecolor=BACKGROUND)
    height = figure.get_figheight()
    figure.suptitle(board.title, color=TEXT, fontsize=16, x=0.04, y=1 - 0.1 / height, ha="left")
    grid = figure.add_gridspec(len(lines), COLUMNS, height_ratios=heights, hspace=0.62, wspace=2.2)
    for number, line in enumerate(lines):
        if isinstance(line, str):
            axes = figure.add_subplot(grid[number, :])
            axes.axis("off")
            axes.text(0, 0.2, line, color=TEXT, fontsize=13, weight="bold")
            continue
        left = 0
        for panel in line:
            axes = figure.add_subplot(grid[number, left : left + panel.width])
            draw_panel(axes, panel, asked.series(panel))
            left += panel.width
    figure.subplots_adjust(left=0.04, right=0.99, top=1 - 0.75 / height, bottom=0.8 / height)
    figure.savefig(path, dpi=75, facecolor=BACKGROUND, metadata={"Software": None})
    plt.close(figure)


def layout(board: Board) -> list[str | list[Panel]]:
    """Headings and lines of panels."""
    lines: list[str | list[Panel]] = []
    for row in board.rows:
        lines.append(row.title)
        line: list[Panel] = []
        for panel in row.panels:
            if line and sum(each.width for each in line) + panel.width > COLUMNS:
                lines.append(line)
                line = []
            line.append(panel)
        lines.append(line)
    return lines


def draw_panel(
    axes: Axes, panel: Panel, series: list[tuple[str, list[float], list[float]]]
) -> None:
    """Draw one panel."""
    axes.set_facecolor(FACE)
    axes.set_title(panel.title, color=TEXT, fontsize=10, loc="left")
    for spine in axes.spines.values():
        spine.set_color(GRID)
    axes.tick_params(colors=TEXT, labelsize=7)
    if panel.kind == "stat":
        draw_stat(axes, panel, series)
        return
    axes.grid(color=GRID, linewidth=0.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: human(value, panel.unit)))
    shown = [each for each in series if any(value > 0 for value in each[2])] or series
    shown.sort(key=lambda each: -max((v for v in each[2] if v == v), default=0.0))
    if panel.stacked and shown:
        times = max((each[1] for each in shown), key=len)
        rows = [dict(zip(each[1], each[2], strict=True)) for each in shown]
        stack = [[row.get(moment, 0.0) for moment in times] for row in rows]
        axes.stackplot(times, stack, labels=[each[0] for each in shown], colors=PALETTE, alpha=0.65)
    else:
        for number, (label, times, values) in enumerate(shown):
            color = PALETTE[number % len(PALETTE)]
            axes.plot(times, values, label=label, color=color, linewidth=1.1)
    axes.set_ylim(bottom=0)
    if shown and any(label for label, _times, _values in shown):
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[:LEGEND_LIMIT],
            labels[:LEGEND_LIMIT],
            fontsize=6,
            ncols=4,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            framealpha=0.0,
            facecolor=FACE,
            edgecolor=GRID,
            labelcolor=TEXT,
        )


def draw_stat(axes: Axes, panel: Panel, series: list[tuple[str, list[float], list[float]]]) -> None:
    """Draw the last value of each series."""
    axes.set_xticks([])
    axes.set_yticks([])
    latest = max((each[1][-1] for each in series if each[1]), default=0.0)
    last = [
        (label, v[-1]) for label, times, v in series if v and times[-1] >= latest - STEP_SECONDS
    ]
    color = TEXT
    for limit, name in panel.thresholds:
        if last and (limit is None or last[0][1] >= limit):
            color = COLORS[name]
    text = "\n".join(f"{label} {human(value, panel.unit)}".strip() for label, value in last[:4])
    size = 22 if len(last) == 1 and not last[0][0] else 11
    axes.text(
        0.5,
        0.5,
        text,
        color=color,
        fontsize=size,
        ha="center",
        va="center",
        transform=axes.transAxes,
    )


def human(value: float, unit: str) -> str:
    """A value with its unit, short."""
    if value != value:
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s" and value and abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    suffix = {"Bps": "B/s", "bytes": "B", "s": " s", "cps": "/s", "mps": "/s"}.get(unit, "")
    power = min(int(math.log10(abs(value)) // 3), 4) if abs(value) >= 1000 else 0
    return f"{value / 1000**power:.3g}{('', ' k', ' M', ' G', ' T')[power]}{suffix}"


if __name__ == "__main__":
    sys.exit(main())
