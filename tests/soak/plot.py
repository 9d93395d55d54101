"""What a soak looks like: each figure against time, as SVG, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot

from tests.soak.slopes import WARM_UP_SHARE
from tests.soak.soak import series

if TYPE_CHECKING:
    from pathlib import Path

SIZE_INCHES = (8.0, 12.0)
FIGURES = (
    "rss MiB",
    "pss MiB",
    "heap MiB",
    "blocks",
    "descriptors",
    "threads",
    "actors",
    "turn %",
)
MAX_POINTS = 60


def plot(report: dict[str, Any], path: Path) -> Path:
    """Draw the samples of a report."""
    samples = report["samples"][:: max(1, len(report["samples"]) // MAX_POINTS)]
    figure, rows = pyplot.subplots(len(FIGURES), sharex=True, figsize=SIZE_INCHES)
    for axes, name in zip(rows, FIGURES, strict=True):
        for process in ("gateway", "service"):
            points = series(samples, f"{process} {name}")
            if points:
                axes.plot(
                    [at / 60 for at, _ in points], [value for _, value in points], label=process
                )
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.axvspan(0, samples[-1]["seconds"] / 60 * WARM_UP_SHARE, alpha=0.08)
        axes.grid(visible=True, alpha=0.3)
    rows[0].legend(fontsize="small", loc="lower right")
    rows[-1].set_xlabel("minutes; what is shaded is the warm-up")
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "tunnelfleet"}):
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return path
