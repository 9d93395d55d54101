"""What holds for every test: a leaked thread fails it, a missing program skips it."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.e2e.programs import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator

THREAD_EXIT_SECONDS = 5.0
GROUP_DEPTH = 2
"""A group of tests is named by so many folders below `tests`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long") is not None]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("programs"):
        for name in mark.args:
            require_program(name)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands set up the project's logger; the next test finds it as if none had run."""
    logger = logging.getLogger("tunnelfleet")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    logger.propagate = before[1]
    logger.handlers[:] = before[2]


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_EXIT_SECONDS
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    leaked = [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not leaked, f"threads outlived their test: {leaked}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each group of tests took, the longest first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, int] = defaultdict(int)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folders = report.nodeid.split("::")[0].split("/")[1:-1]
                group = "/".join(folders[:GROUP_DEPTH]) or "."
                seconds[group] += report.duration
                counts[group] += report.when == "call"
    if len(seconds) > 1:
        terminalreporter.section("time of each group")
        for group in sorted(seconds, key=lambda each: -seconds[each]):
            terminalreporter.write_line(f"{seconds[group]:7.1f} s {counts[group]:6d}  {group}")
