"""What the directory of a fleet on Ray remembers, over records that a test holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.ray_records import Shelf, ray_plan
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.placement.lease import LeaseRequest, RequestKind
from tunnelfleet.runtime.ray_fleet.book import Asker
from tunnelfleet.runtime.ray_fleet.keeper import (
    DirectoryKeeper,
    NoFleetError,
    NotTheDirectoryError,
)
from tunnelfleet.runtime.ray_fleet.plan import FleetPlan

SECRET = b"s" * 40
JOIN = LeaseRequest(RequestKind.JOIN, serial=1)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def keeper(shelf: Shelf, now: float = 0.0) -> DirectoryKeeper:
    return DirectoryKeeper(shelf, clock=lambda: now)


def test_another_directory_knows_what_the_one_before_has_answered(shelf: Shelf) -> None:
    first = keeper(shelf)
    first.declare(ray_plan("a", "b", groups=2).to_bytes())
    reply = first.lease(Asker("group-0", "run"), JOIN)
    assert reply.answer.epoch == 1

    second = keeper(shelf, now=100.0)
    status = second.status()
    assert status["turn"] == 2
    assert status["plan_version"] == 1
    assert [each["group"] for each in status["groups"]] == ["group-0", "group-1"]
    assert FleetPlan.of_bytes(second.plan()) == replace(ray_plan("a", "b", groups=2), version=1)
    beat = LeaseRequest(RequestKind.BEAT, epoch=1, serial=2)
    assert second.lease(Asker("group-0", "run"), beat).answer.epoch == 1


def test_a_directory_that_was_frozen_answers_nothing_more(shelf: Shelf) -> None:
    first = keeper(shelf)
    first.declare(ray_plan("a").to_bytes())
    keeper(shelf).status()
    for ask in (
        first.status,
        lambda: first.lease(Asker("group-0", "run"), JOIN),
        lambda: first.declare(ray_plan("b").to_bytes()),
    ):
        with pytest.raises(NotTheDirectoryError):
            ask()
    assert list(keeper(shelf).status()["tunnels"]) == ["a"]


def test_nothing_is_answered_that_could_not_be_written(shelf: Shelf) -> None:
    first = keeper(shelf)
    first.declare(ray_plan("a").to_bytes())
    shelf.is_away = True
    with pytest.raises(ConnectionError):
        first.lease(Asker("group-0", "run"), JOIN)
    shelf.is_away = False
    # A life that nobody was told of does no harm.
    assert first.lease(Asker("group-0", "run"), JOIN._replace(serial=2)).answer.epoch == 2
    assert keeper(shelf).status()["groups"][0]["epoch"] == 2


def test_a_directory_begins_when_the_records_are_there(shelf: Shelf) -> None:
    shelf.is_away = True
    late = keeper(shelf)
    with pytest.raises(ConnectionError):
        late.status()
    shelf.is_away = False
    with pytest.raises(NoFleetError):
        late.status()
    assert late.declare(ray_plan("a").to_bytes()).version == 1


def test_the_same_plan_again_is_no_new_one(shelf: Shelf) -> None:
    only = keeper(shelf)
    assert only.declare(ray_plan("a").to_bytes()).version == 1
    again = only.declare(ray_plan("a").to_bytes())
    assert (again.added, again.changed, again.removed, again.version) == (0, 0, 0, 1)
    other = only.declare(ray_plan("a", "b", groups=2, connect_rate=50.0).to_bytes())
    assert (other.added, other.version, other.groups) == (1, 2, (1, 2))
    assert other.at_next_start == ("connect_rate",)
    assert [name for name in shelf.found if name.startswith("plan/")] == ["plan/2"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (ray_plan("a", shards=128), "shards is 256 in the fleet that runs, and 128"),
        (ray_plan("a", lease_seconds=5.0), "lease_seconds is 10.0 in the fleet that runs, and 5.0"),
        (ray_plan("a", secret=b"t" * 40), "client_token_secret_file"),
    ],
)
def test_what_a_fleet_cannot_become_is_refused(shelf: Shelf, other: FleetPlan, says: str) -> None:
    only = keeper(shelf)
    only.declare(ray_plan("a").to_bytes())
    with pytest.raises(ConfigError, match=says):
        only.declare(other.to_bytes())
    assert only.status()["plan_version"] == 1


def test_a_fleet_that_was_ended_can_begin_as_another(shelf: Shelf) -> None:
    only = keeper(shelf)
    only.declare(ray_plan("a", groups=2).to_bytes())
    assert only.end() == ["group-0", "group-1"]
    assert only.declare(ray_plan("b", shards=128).to_bytes()).version == 2
    assert only.status()["shards"] == 128


def test_a_group_is_dismissed_and_wanted_again(shelf: Shelf) -> None:
    keeper = DirectoryKeeper(shelf)
    keeper.declare(ray_plan("a", groups=2).to_bytes())
    keeper.dismiss("group-1")
    # Also another directory knows it.
    other = DirectoryKeeper(shelf)
    assert wanted_groups(other) == ["group-0"]
    other.restore()
    assert wanted_groups(other) == ["group-0", "group-1"]


def test_the_same_plan_again_brings_a_dismissed_group_back(shelf: Shelf) -> None:
    keeper = DirectoryKeeper(shelf)
    version = keeper.declare(ray_plan("a", groups=2).to_bytes()).version
    keeper.dismiss("group-0")
    assert keeper.declare(ray_plan("a", groups=2).to_bytes()).version == version
    assert wanted_groups(keeper) == ["group-0", "group-1"]


def test_the_only_group_is_not_dismissed(shelf: Shelf) -> None:
    keeper = DirectoryKeeper(shelf)
    keeper.declare(ray_plan("a").to_bytes())
    with pytest.raises(ConfigError, match="the only group"):
        keeper.dismiss("group-0")


def wanted_groups(keeper: DirectoryKeeper) -> list[str]:
    return [each["group"] for each in keeper.status()["groups"] if each["is_wanted"]]
