"""The directory of a fleet on Ray as an actor: many ask at once, and some wait for news."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ray_records import Shelf, ray_plan
from tests.support.waiting import until
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest, RequestKind
from tunnelfleet.runtime.ray_fleet import directory as directories
from tunnelfleet.runtime.ray_fleet.book import Asker
from tunnelfleet.runtime.ray_fleet.directory import Directory
from tunnelfleet.runtime.ray_fleet.keeper import NoFleetError, NotTheDirectoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

JOIN = LeaseRequest(RequestKind.JOIN, serial=1)
ONE = Asker("group-0", "run")


def play(scenario: Callable[[Directory, Shelf], Coroutine[Any, Any, None]]) -> list[str]:
    """Play with a directory; what it said when another one counted."""
    replaced: list[str] = []
    shelf = Shelf()
    made = Directory("tunnelfleet", shelf, lambda: replaced.append("replaced"))
    try:
        asyncio.run(scenario(made, shelf))
    finally:
        made._thread.shutdown()
    return replaced


def test_it_answers_for_the_fleet_that_was_declared() -> None:
    async def scenario(directory: Directory, _shelf: Shelf) -> None:
        with pytest.raises(NoFleetError):
            await directory.status()
        change = await directory.declare(ray_plan("a", "b", groups=2).to_bytes())
        assert (change.added, change.groups) == (2, (0, 2))
        assert (await directory.lease(ONE, JOIN)).answer.epoch == 1
        assert b'"a"' in await directory.plan()
        await directory.dismiss("group-1")
        (first, second) = (await directory.status())["groups"]
        assert (first["is_wanted"], second["is_wanted"]) == (True, False)
        await directory.restore()
        assert all(each["is_wanted"] for each in (await directory.status())["groups"])
        assert await directory.end() == ["group-0", "group-1"]

    assert play(scenario) == []


def test_who_watches_hears_of_a_change_and_of_one_that_it_has_missed_at_once() -> None:
    async def scenario(directory: Directory, _shelf: Shelf) -> None:
        await directory.declare(ray_plan("a").to_bytes())
        known = directory._keeper.changes
        watching = asyncio.create_task(directory.watch(known))
        await asyncio.sleep(0)
        assert not watching.done()
        await directory.declare(ray_plan("a", "b").to_bytes())
        news = await watching
        assert news > known
        assert await directory.watch(known) == news

    play(scenario)


def test_who_watches_in_vain_is_told_so_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "WATCH_SECONDS", 0.01)

    async def scenario(directory: Directory, _shelf: Shelf) -> None:
        await directory.declare(ray_plan("a").to_bytes())
        known = directory._keeper.changes
        assert await directory.watch(known) == known

    play(scenario)


def test_one_that_another_has_replaced_answers_nothing_and_ends() -> None:
    async def scenario(directory: Directory, shelf: Shelf) -> None:
        await directory.declare(ray_plan("a").to_bytes())
        shelf.put("turn", b"7")
        with pytest.raises(NotTheDirectoryError):
            await directory.lease(ONE, JOIN)

    assert play(scenario) == ["replaced"]


def test_more_than_it_can_take_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "MAX_WAITING", 2)

    async def scenario(directory: Directory, shelf: Shelf) -> None:
        await directory.declare(ray_plan("a").to_bytes())
        shelf.gate = threading.Event()
        waiting = [asyncio.create_task(directory.status()) for _ in range(2)]
        await until(lambda: directory._waiting == 2)
        with pytest.raises(TunnelError, match="too many requests wait"):
            await directory.status()
        shelf.gate.set()
        assert [each["groups_wanted"] for each in await asyncio.gather(*waiting)] == [1, 1]
        assert (await directory.status())["groups_wanted"] == 1

    play(scenario)
