"""Two gateways that share a fleet: whose tunnel runs where, by files and by the API."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fleet import Files, wanted
from tests.support.stores import entry
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.gateway import Gateway, PutWanted, RemoveWanted
from tunnelfleet.runtime.gateway.api.context import ApiWishes
from tunnelfleet.runtime.gateway.api.operations import ApiProblem
from tunnelfleet.runtime.gateway.api.requests import Condition
from tunnelfleet.runtime.gateway.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer

LONG_SECONDS = 6 * WAIT_SECONDS
ANY = Condition()


class Shared:
    """A gateway and its files."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("s" * 32)
        self.files = Files(folder / name)
        self.files.settings = dataclasses.replace(
            self.files.settings,
            name=name,
            state=url,
            placement="postgres",
            lease_seconds=10.0,
            client_token_secret_file=secret,
        )
        self.gateway = Gateway(self.files, store=Store.of(self.files.settings))
        self._ask = self.gateway.ask
        self.heard: list[tuple[type[Any], str]] = []
        """What the fleet was told of single tunnels as the store has them, when it has answered."""
        self.before_api: Callable[[], object] = lambda: None
        """Called before the API's next message reaches the fleet."""
        self.gateway.ask = self.ask  # type: ignore[method-assign,assignment]

    def ask(self, message: Any, *more: Any) -> Any:
        """Ask FleetActor, as the gateway does."""
        is_store = threading.current_thread().name == "tunnelfleet-shared"
        if not is_store and isinstance(message, PutWanted | RemoveWanted):
            before, self.before_api = self.before_api, lambda: None
            before()
        try:
            return self._ask(message, *more)
        finally:
            if is_store and isinstance(message, PutWanted):
                self.heard.append((PutWanted, message.tunnel.name))
            elif is_store and isinstance(message, RemoveWanted):
                self.heard.append((RemoveWanted, message.name))

    @property
    def wishes(self) -> ApiWishes:
        """What clients of its API can do."""
        return ApiWishes(self.gateway)

    def owns(self, name: str) -> bool:
        """Whether the tunnel's shard is this gateway's."""
        return self.gateway.state.is_ours(name)

    def runs(self, name: str) -> bool:
        """Whether it has the tunnel running."""
        return name in self.gateway.state.running


@pytest.fixture
def database_name(postgres: PostgresServer) -> str:
    return postgres.new_database()


def share_all(gateways: tuple[Shared, ...]) -> bool:
    """Whether each has shards, and each shard is one gateway's."""
    shards = [each.gateway.state.shards for each in gateways]
    return all(shards) and sum(map(len, shards)) == 256


@pytest.fixture
def two(
    tmp_path: Path, postgres: PostgresServer, database_name: str
) -> Iterator[tuple[Shared, Shared]]:
    url = postgres.url(database_name)
    both = Shared(tmp_path, url, "one"), Shared(tmp_path, url, "two")
    with contextlib.ExitStack() as stack:
        for each in both:
            stack.enter_context(each.gateway)
        eventually(lambda: share_all(both), timeout_seconds=LONG_SECONDS)
        yield both


def name_of(owner: Shared) -> str:
    return next(name for name in (f"t{number}" for number in range(999)) if owner.owns(name))


def test_a_tunnel_runs_at_its_owner_whoever_was_asked(two: tuple[Shared, Shared]) -> None:
    one, other = two
    name = name_of(other)
    one.wishes.create(entry(name))
    eventually(lambda: other.runs(name), timeout_seconds=LONG_SECONDS)
    assert not one.runs(name)
    with pytest.raises(ApiProblem, match="added"):
        other.wishes.create(entry(name))
    one.wishes.put(name, entry(name, labels={"site": "lyon"}), ANY)
    eventually(
        lambda: other.gateway.state.running[name].tunnel.labels == {"site": "lyon"},
        timeout_seconds=LONG_SECONDS,
    )
    one.wishes.delete(name, ANY)
    eventually(lambda: not other.runs(name), timeout_seconds=LONG_SECONDS)


def test_it_can_be_changed_where_nothing_is_known_of_it(two: tuple[Shared, Shared]) -> None:
    one, other = two
    name = name_of(other)
    other.wishes.create(entry(name))
    eventually(lambda: other.runs(name), timeout_seconds=LONG_SECONDS)
    with pytest.raises(ApiProblem, match="another gateway"):
        one.wishes.create(entry(name))
    one.wishes.replace_token(name, "n" * 60, None)
    eventually(
        lambda: other.gateway.state.running[name].tunnel.access_token == "n" * 60,
        timeout_seconds=LONG_SECONDS,
    )
    one.wishes.delete(name, ANY)
    eventually(lambda: not other.runs(name), timeout_seconds=LONG_SECONDS)


def test_the_store_wins_over_a_message_that_comes_late(two: tuple[Shared, Shared]) -> None:
    """What one gateway's API tells is overtaken by a change at the other one."""
    one, other = two
    name = name_of(one)

    def deleted_elsewhere() -> None:
        other.wishes.delete(name, ANY)
        eventually(lambda: (RemoveWanted, name) in one.heard, timeout_seconds=LONG_SECONDS)

    def put_elsewhere() -> None:
        one.heard.clear()
        other.wishes.create(entry(name, labels={"by": "other"}))
        eventually(lambda: (PutWanted, name) in one.heard, timeout_seconds=LONG_SECONDS)

    one.before_api = deleted_elsewhere
    one.wishes.create(entry(name))
    eventually(
        lambda: one.gateway.state.wish(name) is None and not one.runs(name),
        timeout_seconds=LONG_SECONDS,
    )

    one.wishes.create(entry(name))
    eventually(lambda: one.runs(name), timeout_seconds=LONG_SECONDS)
    one.before_api = put_elsewhere
    one.wishes.delete(name, ANY)
    eventually(
        lambda: one.runs(name) and one.gateway.state.running[name].tunnel.labels == {"by": "other"},
        timeout_seconds=LONG_SECONDS,
    )


def test_what_was_added_moves_with_its_shard(two: tuple[Shared, Shared]) -> None:
    one, other = two
    names = [name_of(each) for each in two]
    for name in names:
        one.wishes.create(entry(name))
    other.gateway.leave(WAIT_SECONDS)
    eventually(lambda: all(map(one.runs, names)), timeout_seconds=LONG_SECONDS)
    eventually(lambda: not other.gateway.state.running, timeout_seconds=LONG_SECONDS)


def test_the_files_of_the_owner_count(two: tuple[Shared, Shared]) -> None:
    one, other = two
    name = name_of(other)
    tunnel = wanted(name)
    one.files.tunnels = {name: tunnel}
    one.gateway.reload()
    # Wanted by the files of who does not own it: it runs nowhere until the owner's say so too.
    assert not one.owns(name)
    assert not one.runs(name)
    assert not other.runs(name)
    labelled = dataclasses.replace(tunnel, labels={"of": "other"})
    other.files.tunnels = {name: labelled}
    other.gateway.reload()
    eventually(lambda: other.runs(name), timeout_seconds=LONG_SECONDS)
    assert other.gateway.state.running[name].tunnel == labelled
    # When it is one's turn, its own files count.
    other.gateway.leave(WAIT_SECONDS)
    eventually(lambda: one.runs(name), timeout_seconds=LONG_SECONDS)
    assert one.gateway.state.running[name].tunnel == tunnel


def test_tunnels_run_again_after_the_rows_of_the_fleet_were_lost(
    two: tuple[Shared, Shared], postgres: PostgresServer, database_name: str
) -> None:
    one, other = two
    name = name_of(other)
    one.wishes.create(entry(name))
    eventually(lambda: other.runs(name), timeout_seconds=LONG_SECONDS)
    epochs = [each.gateway.state.epoch for each in two]
    tables = "tunnelfleet_fleet, tunnelfleet_gateways, tunnelfleet_shards"
    postgres.run(database_name, f"TRUNCATE {tables}")

    def is_shared_anew() -> bool:
        now = [each.gateway.state.epoch for each in two]
        are_later = all(new > old for new, old in zip(now, epochs, strict=True))
        return are_later and share_all(two)

    eventually(is_shared_anew, timeout_seconds=LONG_SECONDS)
    eventually(
        lambda: all(each.runs(name) == each.owns(name) for each in two),
        timeout_seconds=LONG_SECONDS,
    )
    # What is changed from now on is heard of as well.
    one.wishes.delete(name, ANY)
    eventually(lambda: not one.runs(name) and not other.runs(name), timeout_seconds=LONG_SECONDS)
