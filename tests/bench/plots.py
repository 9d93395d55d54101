"""What the history and the simulation look like, as SVG, by matplotlib of the development group."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot

from tests.support.simulated_link import SimulatedLink
from tunnelfleet.actors.tunnel.in_flight import InFlight

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SIZE_INCHES = (8.0, 3.6)
SIMULATED_SECONDS = 30.0
DRAWN = 3
"""Of so many messages one is drawn."""
SPREAD = (" least", " most")


def plot_history(runs: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw each ratio over the runs, with its spread: a file a pair."""
    pairs = sorted({name for run in runs for name in run["results"] if " / " in name})
    return [_plot_pair(runs, name, folder) for name in pairs]


def _plot_pair(runs: list[dict[str, Any]], name: str, folder: Path) -> Path:
    measured = [run for run in runs if name in run["results"]]
    figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
    latest = measured[-1]["results"][name]
    for key in [each for each in latest if not each.endswith(SPREAD)]:
        rows = [(at, run["results"][name]) for at, run in enumerate(measured)]
        rows = [(at, row) for at, row in rows if key in row]
        values = [row[key] for _at, row in rows]
        ends = [[row.get(key + end, row[key]) for _at, row in rows] for end in SPREAD]
        below = [value - least for value, least in zip(values, ends[0], strict=True)]
        above = [most - value for value, most in zip(values, ends[1], strict=True)]
        places = [at for at, _row in rows]
        axes.errorbar(places, values, [below, above], marker="o", capsize=3, label=key)
    axes.set_xticks(range(len(measured)), [run["commit"][-9:] for run in measured], rotation=30)
    axes.set_title(name)
    return _save(figure, axes, folder / f"{re.sub(r'[^a-z]+', '-', name)}.svg")


def plot_pacing(path: Path) -> Path:
    """Draw how long messages stand in a throttled service, with pacing and without, simulated."""
    figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
    for label, in_flight in (("not paced", InFlight(None)), ("paced by pings", InFlight(0.1))):
        link = SimulatedLink(
            lambda now: 50_000.0 if 10.0 <= now < 20.0 else 100_000.0,
            0.02,
            200_000,
            in_flight=in_flight,
        ).run(SIMULATED_SECONDS)
        drawn = link.relayed[::DRAWN]
        axes.plot([each.at for each in drawn], [each.seconds for each in drawn], label=label)
    axes.set_yscale("log")
    axes.set_xlabel("seconds; the service lets 100 kB/s pass, and 50 kB/s from 10 to 20")
    axes.set_ylabel("seconds in the service")
    return _save(figure, axes, path)


def _save(figure: Any, axes: Any, path: Path) -> Path:
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same picture is the same file: no date, and names of parts that do not change.
    with mpl.rc_context({"svg.hashsalt": "tunnelfleet"}):
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return path


def names(paths: Iterable[Path]) -> str:
    """The files, for people."""
    return ", ".join(str(path) for path in paths)
