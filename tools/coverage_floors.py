"""Shows how much of each room the tests reach, and fails below a floor.

coverage json -o build/coverage.json
python tools/coverage_floors.py build/coverage.json    writes the table; 1 when a floor is not kept

A branch is one of the ways on from a line that has several. `coverage report` counts lines and
branches together, which is more; here each has a floor of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

WHOLE = ("proto", "actors/kernel")
"""Rooms of which every line and every branch is reached."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What has to be reached of some rooms, in percent."""

    lines: float
    branches: float


WHOLE_FLOOR = Floor(lines=100.0, branches=100.0)
REST_FLOOR = Floor(lines=96.5, branches=93.0)
"""A little below what stands, as a busy machine takes other branches."""


@dataclass(slots=True)
class Reached:
    """How much of some files is reached."""

    lines: int = 0
    reached_lines: int = 0
    branches: int = 0
    reached_branches: int = 0

    def add(self, summary: Mapping[str, int]) -> None:
        """Add one file, as coverage.py sums it up."""
        self.lines += summary["num_statements"]
        self.reached_lines += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.reached_branches += summary["covered_branches"]

    @property
    def line_percent(self) -> float:
        """Lines that are reached; 100 of none."""
        return 100.0 * self.reached_lines / self.lines if self.lines else 100.0

    @property
    def branch_percent(self) -> float:
        """Branches that are reached; 100 of none."""
        return 100.0 * self.reached_branches / self.branches if self.branches else 100.0

    def row(self, name: str) -> str:
        """Return a row of the table."""
        return (
            f"| {name} | {self.line_percent:.1f} % of {self.lines:,} "
            f"| {self.branch_percent:.1f} % of {self.branches:,} |"
        )


def room_of(file: str) -> str:
    """Return the room of a file: its first two folders at most."""
    return "/".join(PurePosixPath(file).parent.parts[:2])


def rooms_of(report: Mapping[str, Any]) -> dict[str, Reached]:
    """Sum up a report of `coverage json` by rooms."""
    rooms: dict[str, Reached] = defaultdict(Reached)
    for file, found in report["files"].items():
        rooms[room_of(file)].add(found["summary"])
    return dict(sorted(rooms.items()))


def total(rooms: Iterable[Reached]) -> Reached:
    """Sum up rooms."""
    found = Reached()
    for each in rooms:
        found.lines += each.lines
        found.reached_lines += each.reached_lines
        found.branches += each.branches
        found.reached_branches += each.reached_branches
    return found


def lacking(name: str, reached: Reached, floor: Floor) -> Iterator[str]:
    """What is below a floor."""
    for what, percent, least in (
        ("lines", reached.line_percent, floor.lines),
        ("branches", reached.branch_percent, floor.branches),
    ):
        if percent < least:
            yield f"{name}: {percent:.2f} % of the {what} are reached, {least:g} % have to be"


def main(arguments: list[str] | None = None) -> int:
    """Write the table; 1 when a floor is not kept."""
    parser = argparse.ArgumentParser(prog="coverage_floors.py", description=__doc__)
    parser.add_argument("report", type=Path, help="what `coverage json` has written")
    given = parser.parse_args(arguments)
    rooms = rooms_of(json.loads(given.report.read_text()))
    rest = total([each for room, each in rooms.items() if room not in WHOLE])
    print("| room | lines | branches |\n|---|---|---|")
    for room, reached in rooms.items():
        print(reached.row(f"`{room}/`"))
    print(rest.row(f"all but {' and '.join(f'`{each}/`' for each in WHOLE)}"))
    wrong = [f"{room}: nothing of it was measured" for room in WHOLE if room not in rooms]
    for room in WHOLE:
        wrong += lacking(room, rooms.get(room, Reached()), WHOLE_FLOOR)
    wrong += lacking("all other rooms", rest, REST_FLOOR)
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
