"""A change in the state that the fleet has not taken is undone, unless a newer one is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway_api import OTHER_TOKEN, ApiRig, api_entry
from tests.support.stores import TOKEN, entry, opened
from tunnelfleet.proto import TunnelClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tunnelfleet.runtime.gateway.store import Store, TunnelChange

CHANGES: dict[str, Callable[[Store], TunnelChange]] = {
    "replaced": lambda store: store.save_tunnel("a", entry("a", labels={"n": "2"})),
    "removed": lambda store: store.forget_tunnel("a"),
}
LATER: dict[str, Callable[[Store], object]] = {
    "replaced": lambda store: store.save_tunnel("a", entry("a", labels={"n": "3"})),
    "replaced by the same": lambda store: store.save_tunnel("a", entry("a", labels={"n": "2"})),
    "removed": lambda store: store.forget_tunnel("a"),
}


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with opened(url) as made:
        yield made


def labels_of(store: Store, name: str) -> dict[str, str] | None:
    found = store.find_tunnel(name)
    return None if found is None else dict(found.labels)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_row_is_as_it_was(
    store: Store, change: Callable[[Store], TunnelChange], is_there: bool
) -> None:
    if is_there:
        store.save_tunnel("a", entry("a", labels={"n": "1"}))
    made = change(store)
    assert made.was_there is is_there
    assert store.take_back(made)
    assert labels_of(store, "a") == ({"n": "1"} if is_there else None)
    if is_there:
        found = store.find_tunnel("a")
        assert found is not None
        assert found.access_token == f"{TOKEN}-a"


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_what_is_newer_than_a_replacement_stays(
    store: Store, later: Callable[[Store], object]
) -> None:
    store.save_tunnel("a", entry("a", labels={"n": "1"}))
    made = CHANGES["replaced"](store)
    later(store)
    newer = labels_of(store, "a")
    assert not store.take_back(made)
    assert labels_of(store, "a") == newer


def test_what_was_added_after_a_removal_stays(store: Store) -> None:
    store.save_tunnel("a", entry("a", labels={"n": "1"}))
    made = CHANGES["removed"](store)
    LATER["replaced"](store)
    assert not store.take_back(made)
    assert labels_of(store, "a") == {"n": "3"}


REQUESTS: dict[str, tuple[str, str, Any]] = {
    "put": ("PUT", "/v1/tunnels/b", api_entry("b", labels={"n": "2"})),
    "delete": ("DELETE", "/v1/tunnels/b", None),
    "token": ("POST", "/v1/tunnels/b/token", {"access_token": OTHER_TOKEN}),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
class TestApi:
    def test_another_gateway_s_change_in_the_meantime_stays(
        self,
        url: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        request_: tuple[str, str, Any],
    ) -> None:
        with opened(url) as store, ApiRig(tmp_path / "api", store=store) as rig:
            rig.client.ask("POST", "/v1/tunnels", api_entry("b", labels={"n": "1"}))

            def is_late(_message: object, _seconds: float = 0.0) -> None:
                store.save_tunnel("b", api_entry("b", labels={"n": "3"}))
                raise TunnelClosed("it is being started again")

            monkeypatch.setattr(rig.gateway, "ask", is_late)
            rig.client.ask(*request_).problem(503, "unavailable")
            assert labels_of(store, "b") == {"n": "3"}

    def test_a_tunnel_that_another_gateway_runs_is_as_it_was(
        self,
        postgres: PostgresServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        request_: tuple[str, str, Any],
    ) -> None:
        """This one knows of it from the store alone."""
        url = postgres.url(postgres.new_database())
        with (
            opened(url, is_shared=True) as store,
            ApiRig(tmp_path / "api", store=store) as rig,
        ):
            store.save_tunnel("b", api_entry("b", labels={"n": "1"}))

            def is_late(_message: object, _seconds: float = 0.0) -> None:
                raise TunnelClosed("it is being started again")

            monkeypatch.setattr(rig.gateway, "ask", is_late)
            rig.client.ask(*request_).problem(503, "unavailable")
            assert labels_of(store, "b") == {"n": "1"}
