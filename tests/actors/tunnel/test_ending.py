"""How far the end of a tunnel has come, and who is to be told."""

from __future__ import annotations

from typing import Any

from tunnelfleet.actors.tunnel.context import Ending, EndingPhase
from tunnelfleet.actors.tunnel.messages import Quiesce

ASKER: Any = object()
SECOND: Any = object()


def test_a_tunnel_runs_until_it_is_told_to_end() -> None:
    ending = Ending()
    assert ending.is_running
    assert ending.asker is None


def test_it_drains_once() -> None:
    ending = Ending()
    assert [ending.drain(), ending.drain()] == [True, False]
    assert ending.phase is EndingPhase.DRAINING
    assert not ending.is_running
    assert ending.asker is None, "nobody waits for a drain"


def test_a_stop_is_harder_than_a_drain_and_the_first_asker_is_told() -> None:
    ending = Ending()
    ending.drain()
    assert ending.stop(Quiesce(ASKER, 5.0))
    assert not ending.stop(Quiesce(SECOND, 5.0))
    assert ending.phase is EndingPhase.STOPPING
    assert ending.asker is ASKER


def test_what_stops_does_not_drain() -> None:
    ending = Ending()
    ending.stop(Quiesce(ASKER, 5.0))
    assert not ending.drain()
    assert ending.phase is EndingPhase.STOPPING
