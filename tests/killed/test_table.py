"""No class of actors is left out."""

from __future__ import annotations

from tests.support.killed import core_cases, crew, demanded, forwarded, gate_cases, notified
from tests.support.killed.killing import actor_classes

TABLES = (core_cases, gate_cases, crew, demanded, forwarded, notified)


def test_each_class_is_killed_at_each_message() -> None:
    """Each file holds that each message of its classes has a case."""
    killed = [each for table in TABLES for each in table.CLASSES]
    assert sorted(each.__name__ for each in killed) == [
        each.__name__ for each in sorted(actor_classes(), key=lambda each: each.__name__)
    ]


def test_how_many_pairs_there_are_is_told() -> None:
    from pathlib import Path

    pairs = sum(len(table.CASES) for table in TABLES)
    text = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    assert f"{pairs} pairs" in text
