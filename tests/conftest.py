"""What holds for every test: a leaked thread fails it, a missing program skips it.

Property tests run the same examples everywhere, so that a failure is never a matter of luck.
Fixtures that several rooms use are here. They import what they need when they are used, so that the
tests of a room load no other room.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.programs import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.rig import Rig
    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.runtime import TunnelRuntime
    from tunnelfleet.runtime.service import TunnelService

settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=200)
settings.load_profile("fixed")

THREAD_EXIT_SECONDS = 30.0
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


def _is_no_slow_turn(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("slow turn")


@pytest.fixture(autouse=True)
def _no_slow_turns_in_the_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """A busy machine has slow turns in any test: only one that asks for them finds them logged."""
    if "slow_turns" in request.fixturenames:
        yield
        return
    logger = logging.getLogger("tunnelfleet.actors.kernel.dispatcher")
    logger.addFilter(_is_no_slow_turn)
    yield
    logger.removeFilter(_is_no_slow_turn)


@pytest.fixture
def slow_turns() -> None:
    """Slow turns are logged in this test."""


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_EXIT_SECONDS
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    leaked = [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not leaked, f"threads outlived their test: {leaked}"


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    from tunnelfleet.actors.kernel import Dispatcher

    with Dispatcher("test") as running:
        yield running


@pytest.fixture
def service() -> Iterator[TunnelService]:
    """A tunneling service without TLS."""
    from tunnelfleet.runtime.service import TunnelService

    with TunnelService(tls=False) as running:
        yield running


@pytest.fixture
def runtime() -> Iterator[TunnelRuntime]:
    from tunnelfleet.runtime import TunnelRuntime

    with TunnelRuntime() as running:
        yield running


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    from tests.support.wheel import build_wheel

    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def plain_rig() -> Iterator[Rig]:
    """Service (plain ws) and runtime, running."""
    from tests.support.rig import Rig

    with Rig(tls=False) as running:
        yield running


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


@pytest.fixture
def streams_from_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source begins with stream 1: what a test lets a peer say is written with its number."""
    from tunnelfleet.actors.tunnel import context

    monkeypatch.setattr(context, "first_stream_id", lambda: 1)
