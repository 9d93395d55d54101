from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from tunnelfleet.runtime.gateway import ReloadResult
from tunnelfleet.runtime.gateway.config import ConfigProblems, FleetConfig, GatewaySettings, Problem
from tunnelfleet.runtime.gateway.reloading import Loaded, ReloadQueue, loaded

CONFIG = FleetConfig(GatewaySettings(name="gw", admin="unix:x"))
PROBLEM = Problem("f.toml", 1, "tunnel", "it is wrong")


class Asker:
    """Stands for who waits for an answer."""

    def __init__(self) -> None:
        self.got: list[ReloadResult] = []

    def set(self, result: ReloadResult) -> None:
        self.got.append(result)


def test_who_asks_while_a_reading_goes_on_gets_the_next() -> None:
    queue = ReloadQueue()
    askers: Any = [Asker() for _ in range(4)]
    one, two, three = ReloadResult(None), ReloadResult(None), ReloadResult(None)
    assert queue.ask(askers[0])
    assert not queue.ask(askers[1])
    assert not queue.ask(askers[2])
    assert queue.answer(one)
    assert not queue.ask(askers[3])
    assert queue.answer(two)
    assert not queue.answer(three)
    assert [each.got for each in askers] == [[one], [two], [two], [three]]
    assert queue.ask(askers[0])


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (CONFIG, Loaded(CONFIG)),
        (ConfigProblems([PROBLEM]), Loaded(None, (PROBLEM,))),
        (
            MemoryError("so"),
            Loaded(None, (Problem("files", 1, "file", "they could not be read: so"),)),
        ),
    ],
)
def test_what_a_reading_has_found(outcome: FleetConfig | Exception, found: Loaded) -> None:
    future: Future[FleetConfig] = Future()
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    assert loaded(future) == found
