"""What many schedules came to, as JSON, and as the tables of docs/reliability.md.

The tables stand between two marks; `make chaos RECORD=yes` writes them, and a test holds that they
are those of the JSON beside this file. A record says of which code and of which seeds it is: a run
that was interrupted goes on where it ended, and a run of other code begins a new record.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from .results import Result

ROOT: Final = Path(__file__).parent.parent.parent
RECORD: Final = Path(__file__).with_name("record.json")
DOCUMENT: Final = ROOT / "docs" / "reliability.md"
PRODUCT: Final = ("actors", "package", "proto", "runtime")
"""The folders of the code that a record is of; the suite may get better meanwhile."""
BEGIN: Final = "<!-- generated from tests/chaos/record.json: make chaos RECORD=yes -->"
END: Final = "<!-- end of what is generated -->"


@dataclass
class Sums:
    """The sums over many schedules.

    Attributes:
        seeds: those of the schedules, as pairs of a first and a last one.
    """

    schedules: int = 0
    violations: int = 0
    verified_bytes: int = 0
    survived: Counter[str] = field(default_factory=Counter)
    crashed: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    tolerated: Counter[str] = field(default_factory=Counter)
    seeds: list[list[int]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Sums:
        """Return the sums of a record; what it has beside them is left out."""
        names = {each.name for each in fields(cls)}
        values: dict[str, Any] = {
            key: Counter(value) if isinstance(value, dict) else value
            for key, value in found.items()
            if key in names
        }
        return cls(**values)

    def has(self, seed: int) -> bool:
        """Whether the schedule of a seed is among them."""
        return any(first <= seed <= last for first, last in self.seeds)

    def add(self, result: Result) -> None:
        """Take in one schedule."""
        self.schedules += 1
        self._add_seed(result.seed)
        self.violations += bool(result.violations)
        self.verified_bytes += result.verified_bytes
        self.survived += Counter({str(key): value for key, value in result.survived.items()})
        self.endings += result.endings
        self.tolerated += result.tolerated
        for (actor, message), count in result.crashed.items():
            self.crashed[f"{actor} at {message}"] += count

    def _add_seed(self, seed: int) -> None:
        if self.seeds and self.seeds[-1][1] == seed - 1:
            self.seeds[-1][1] = seed
        else:
            self.seeds.append([seed, seed])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            key: dict(sorted(value.items())) if isinstance(value, Counter) else value
            for key, value in vars(self).items()
        }


def tables(record: dict[str, Any]) -> str:
    """Return the tables of a record, in Markdown.

    Args:
        record: the runs by their name, each the sums and what belongs to them.
    """
    parts = []
    for name, run in record.items():
        parts += [
            f"### {name}",
            "",
            (
                f"{run['schedules']:,} schedules of {run['date']} ({run['what']}): "
                f"{run['violations']} with a violated invariant. "
                f"{sum(run['endings'].values()):,} conversations, "
                f"{run['verified_bytes']:,} bytes compared at their place."
            ),
            "",
            *_rows("fault", "survived", run["survived"]),
            *_rows("what client and server saw of the end", "conversations", run["endings"]),
            *_rows("documented exception", "seen", run["tolerated"]),
        ]
        if run["crashed"]:
            classes: Counter[str] = Counter()
            kinds: Counter[str] = Counter()
            for key, count in run["crashed"].items():
                classes[key.partition(" at ")[0]] += count
                kinds[key.partition(" at ")[0]] += 1
            parts += ["| actor | exceptions | at so many kinds of messages |", "|---|---:|---:|"]
            parts += [f"| {each} | {classes[each]:,} | {kinds[each]} |" for each in sorted(classes)]
            parts += [""]
    return "\n".join(parts).rstrip() + "\n"


def _rows(first: str, second: str, counts: dict[str, int]) -> list[str]:
    if not counts:
        return []
    head = [f"| {first} | {second} |", "|---|---:|"]
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return [*head, *(f"| {name} | {count:,} |" for name, count in ordered), ""]


def document(text: str, record: dict[str, Any]) -> str:
    """Return the document with the tables of a record between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(record)}\n{END}{after}"


def read_record() -> dict[str, Any]:
    """Return what was recorded."""
    found: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return found


def code_of(root: Path = ROOT) -> str:
    """Return a digest of the product's code: a record is of one code."""
    digest = hashlib.sha256()
    for folder in PRODUCT:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def recorded(name: str, code: str) -> Sums:
    """Return the sums that were recorded under a name of this code, so that a run can go on."""
    run = read_record().get(name, {})
    return Sums.from_dict(run) if run.get("code") == code else Sums()


def write_record(name: str, sums: Sums, what: str, date: str, code: str) -> None:
    """Record a run under its name, and write the document's tables anew."""
    record = read_record()
    record[name] = {"date": date, "what": what, "code": code, **sums.to_dict()}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    DOCUMENT.write_text(document(DOCUMENT.read_text(), record))
