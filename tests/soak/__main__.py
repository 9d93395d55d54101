"""`make soak`: run it, write `soak.json` and `soak.svg`, and say whether all slopes are flat."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.plot import plot
from tests.soak.soak import Plan, Soak
from tunnelfleet.runtime.memory import settle_malloc

MINUTE_SECONDS = 60.0


def main() -> int:
    """Run what the command line asks for; 1 if a slope is not flat."""
    parser = argparse.ArgumentParser(prog="make soak ARGS=")
    parser.add_argument("--minutes", type=float, default=30.0, help="of trouble (%(default)s)")
    parser.add_argument("--tunnels", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all choices (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/soak"), help="of the results (%(default)s)"
    )
    given = parser.parse_args()
    if not given.minutes > 0 or given.tunnels < 1:
        parser.error("--minutes and --tunnels must be more than 0")
    # As `tunnelfleet up` does: the service and the devices are in this process.
    settle_malloc()
    console = Console(stderr=True)
    plan = Plan(given.minutes * MINUTE_SECONDS, given.tunnels, seed=given.seed)
    # A short path: those of Unix sockets have little room.
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        report = Soak(plan, Path(folder), console.print).run()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "soak.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    table = Table("figure", "mean", "% an hour", "interval", "at most", "flat")
    for name, each in report["slopes"].items():
        interval = f"{each['low']:+.1f} to {each['high']:+.1f}"
        mean, percent = f"{each['mean']:.1f}", f"{each['percent']:+.1f}"
        table.add_row(name, mean, percent, interval, f"{each['bound']:g}", str(each["flat"]))
    console.print(table)
    console.print(report["counts"])
    print(path, plot(report, given.folder / "soak.svg"))
    return 0 if all(each["flat"] for each in report["slopes"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
