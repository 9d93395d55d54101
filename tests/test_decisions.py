"""The records of decisions are complete, and the index lists them as they are."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "decisions"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
STATUS = re.compile(r"in effect|decided, being built|decided, not built yet|replaced by (\d+)")
ROW = re.compile(r"^\| (\d+) \| \[(.+)\]\((.+)\) \| (.+) \| (.+) \|$", re.MULTILINE)


def head(path: Path) -> tuple[str, str, str, str]:
    """Number, title, date and status of a record."""
    found = re.match(r"# (\d+)\. (.+)\n\n- Date: (.+)\n- Status: (.+)\n\n", path.read_text())
    assert found, "a record begins as the template does"
    number, title, date, status = found.groups()
    return number, title, date, status


def test_their_numbers_are_in_a_row() -> None:
    numbers = [int(path.name[:4]) for path in RECORDS]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 10


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_date_status_and_its_three_parts(path: Path) -> None:
    number, _title, date, status = head(path)
    assert int(number) == int(path.name[:4])
    datetime.date.fromisoformat(date)
    known = STATUS.fullmatch(status)
    assert known, f"{status!r} is none of the statuses of the template"
    assert known[1] is None or 0 < int(known[1]) <= len(RECORDS)
    _head, *parts = path.read_text().split("\n## ")
    assert [part.splitlines()[0] for part in parts] == ["Context", "Decision", "Consequences"]
    assert all(len(part.splitlines()) > 1 for part in parts)


def test_the_index_lists_them() -> None:
    listed = [
        (number, title, file, date, status)
        for number, title, file, date, status in ROW.findall((FOLDER / "README.md").read_text())
    ]
    expected = []
    for path in RECORDS:
        number, title, date, status = head(path)
        expected.append((number, title, path.name, date, status))
    assert listed == expected
