"""`make bench`: every benchmark, as a table on stderr and one JSON object on stdout.

Each run is added to a history that is not committed, of which `--plot` draws the ratios. The method
is in docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from . import (
    carry_bench,
    history,
    idle_bench,
    kernel_bench,
    load_bench,
    pacing_bench,
    start_bench,
    storm_bench,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Results = dict[str, dict[str, float]]


def kernel() -> Results:
    """Message cost and memory of an actor, beside pykka's ThreadingActor."""
    return {"kernel (us, bytes)": kernel_bench.measure_all()}


def carry(*, quick: bool) -> Results:
    """One connection through two runtimes and the service, beside two socat."""
    if quick:
        return carry_bench.run(megabytes=50, round_trips=500, rounds=1)
    return carry_bench.run(megabytes=200, round_trips=2_000, rounds=7)


def fleet(*, quick: bool) -> Results:
    """A shared fleet's store."""
    # It needs PostgreSQL, which the others do not.
    fleet_bench = importlib.import_module("tests.bench.fleet_bench")
    with tempfile.TemporaryDirectory() as folder:
        found = fleet_bench.run(Path(folder), tunnels=10_000 if quick else 1_000_000)
    return {"store of a shared fleet": found}


def _optional(module: str, name: str, **arguments: Any) -> Callable[[], Results]:
    def run() -> Results:
        found = importlib.import_module(f"tests.bench.{module}")
        return {name: found.run(**arguments)}

    return run


def sections(*, quick: bool) -> dict[str, Callable[[], Results]]:
    """Every section by name."""
    return {
        "kernel": kernel,
        "carry": lambda: carry(quick=quick),
        "pacing": lambda: pacing_bench.run(seconds=4.0 if quick else 20.0),
        "start": lambda: start_bench.run(rounds=1 if quick else 11),
        "idle": lambda: (
            idle_bench.run(tunnels=100, scrapes=2) if quick else idle_bench.run(tunnels=1_000)
        ),
        "storm": lambda: (
            storm_bench.run(tunnels=100, idle_seconds=0)
            if quick
            else storm_bench.run(tunnels=10_000)
        ),
        "load": lambda: load_bench.run(quick=quick),
        "api": _optional("api_bench", "API", messages=20_000 if quick else 200_000),
        "metrics": _optional("metrics_bench", "metrics"),
        "fleet": lambda: fleet(quick=quick),
    }


def show(console: Console, results: Results) -> None:
    """Print a table a row a figure."""
    table = Table("benchmark", "figure", "value", title="tunnelfleet")
    for name, figures in results.items():
        for number, (figure, value) in enumerate(figures.items()):
            table.add_row(name if number == 0 else "", figure, str(value))
        table.add_section()
    console.print(table)


def plot(parser: argparse.ArgumentParser, path: Path) -> None:
    """Draw what was measured, and what pacing does."""
    try:
        runs = history.read(path)
    except (OSError, ValueError) as error:
        parser.error(f"nothing to draw, measure first: {error}")
    plots = importlib.import_module("tests.bench.plots")
    made = [*plots.plot_history(runs, path.parent), plots.plot_pacing(path.parent / "pacing.svg")]
    print(plots.names(made))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=")
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--only", action="append", help="a section; may be repeated")
    parser.add_argument(
        "--history", type=Path, default=history.HISTORY, help="where runs are kept (%(default)s)"
    )
    parser.add_argument(
        "--plot", action="store_true", help="draw the history beside it, and measure nothing"
    )
    given = parser.parse_args()
    if given.plot:
        plot(parser, given.history)
        return
    console = Console(stderr=True)
    results: Results = {}
    every = sections(quick=given.quick)
    unknown = set(given.only or ()) - set(every)
    if unknown:
        parser.error(f"no section {sorted(unknown)}: there are {', '.join(every)}")
    for name, run in every.items():
        if given.only and name not in given.only:
            continue
        console.print(f"measuring {name} ...")
        results |= run()
    show(console, results)
    history.append(given.history, results)
    json.dump(results, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
