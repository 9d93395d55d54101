"""What the API keeps in a store, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fleet import wanted
from tests.support.gateway_api import (
    CLIENT_TOKEN,
    OTHER_TOKEN,
    TOKEN,
    ApiRig,
    api_entry,
)
from tunnelfleet.proto import TunnelClosed, TunnelError
from tunnelfleet.runtime.gateway import RemoveWanted, SetWanted
from tunnelfleet.runtime.gateway.store import TunnelChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


class FakeStore:
    """Keeps in memory; can be broken."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.is_broken = False
        self.forgotten: Callable[[str], object] = lambda _name: None
        """Called when a tunnel was let go of, as a fleet's store tells its gateways."""

    def save_tunnel(self, name: str, entry: Mapping[str, Any]) -> TunnelChange:
        self._check()
        before = self.kept.get(name)
        self.kept[name] = dict(entry)
        return TunnelChange(name, before, b"")

    def forget_tunnel(self, name: str) -> TunnelChange:
        self._check()
        before = self.kept.pop(name, None)
        self.forgotten(name)
        return TunnelChange(name, before, None)

    def take_back(self, change: TunnelChange) -> bool:
        self._check()
        self.kept.pop(change.name, None)
        if change.before is not None:
            self.kept[change.name] = dict(change.before)
        return True

    def _check(self) -> None:
        if self.is_broken:
            raise TunnelError("the disk is full; make room")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def rig(tmp_path: Path, store: FakeStore) -> Iterator[ApiRig]:
    with ApiRig(tmp_path, wanted("a"), store=store) as running:
        yield running


def test_what_is_added_is_kept_as_it_was_sent(rig: ApiRig, store: FakeStore) -> None:
    given = api_entry("b", labels={"site": "lyon"})
    rig.client.ask("POST", "/v1/tunnels", given)
    assert store.kept == {"b": given}
    rig.client.ask("PUT", "/v1/tunnels/b", api_entry("b", marks=False))
    assert store.kept["b"]["marks"] is False
    rig.client.ask("DELETE", "/v1/tunnels/b")
    assert store.kept == {}


def test_it_is_deleted_though_the_store_has_told_the_fleet_first(
    rig: ApiRig, store: FakeStore
) -> None:
    rig.client.ask("POST", "/v1/tunnels", api_entry("b"))
    store.forgotten = lambda name: rig.gateway.ask(RemoveWanted("api", name))
    assert rig.client.ask("DELETE", "/v1/tunnels/b").status == 204
    rig.client.ask("DELETE", "/v1/tunnels/b").problem(404, "unknown-tunnel")


def test_a_token_that_was_kept_is_kept_again(rig: ApiRig, store: FakeStore) -> None:
    rig.client.ask("POST", "/v1/tunnels", api_entry("b", client_token=CLIENT_TOKEN))
    given = api_entry("b", marks=False)
    del given["access_token"]
    rig.client.ask("PUT", "/v1/tunnels/b", given)
    assert (store.kept["b"]["access_token"], store.kept["b"]["client_token"]) == (
        TOKEN,
        CLIENT_TOKEN,
    )


def test_another_token_is_kept_with_the_rest(rig: ApiRig, store: FakeStore) -> None:
    rig.client.ask(
        "POST", "/v1/tunnels", api_entry("b", labels={"n": "1"}, client_token=CLIENT_TOKEN)
    )
    rig.client.ask("POST", "/v1/tunnels/b/token", {"access_token": OTHER_TOKEN})
    assert store.kept["b"] == api_entry("b", labels={"n": "1"}, access_token=OTHER_TOKEN)


def test_so_is_that_of_a_tunnel_that_another_process_has_added(
    rig: ApiRig, store: FakeStore
) -> None:
    rig.gateway.ask(SetWanted("api", {"old": wanted("old", labels={"n": "1"})}))
    rig.client.ask("POST", "/v1/tunnels/old/token", {"access_token": OTHER_TOKEN})
    assert store.kept["old"]["labels"] == {"n": "1"}
    assert store.kept["old"]["access_token"] == OTHER_TOKEN


def test_what_belongs_to_the_files_is_not_kept(rig: ApiRig, store: FakeStore) -> None:
    rig.client.ask("POST", "/v1/tunnels/a/token", {"access_token": OTHER_TOKEN})
    rig.client.ask("PUT", "/v1/tunnels/a", api_entry("a"))
    assert store.kept == {}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/tunnels", api_entry("new")),
        ("PUT", "/v1/tunnels/b", api_entry("b", marks=False)),
        ("DELETE", "/v1/tunnels/b", None),
        ("POST", "/v1/tunnels/b/token", {"access_token": OTHER_TOKEN}),
    ],
)
class TestWhatFails:
    def test_in_the_store_changes_nothing(
        self, rig: ApiRig, store: FakeStore, method: str, path: str, body: Any
    ) -> None:
        rig.client.ask("POST", "/v1/tunnels", api_entry("b"))
        before = dict(rig.gateway.state.sources["api"])
        store.is_broken = True
        found = rig.client.ask(method, path, body).problem(503, "store-failed")
        assert "make room" in found["detail"]
        assert rig.gateway.state.sources["api"] == before

    def test_in_the_fleet_is_taken_back(
        self,
        rig: ApiRig,
        store: FakeStore,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        path: str,
        body: Any,
    ) -> None:
        rig.client.ask("POST", "/v1/tunnels", api_entry("b"))

        def refuse(_message: object, _seconds: float = 0.0) -> None:
            raise TunnelClosed("it is being started again")

        monkeypatch.setattr(rig.gateway, "ask", refuse)
        rig.client.ask(method, path, body).problem(503, "unavailable")
        assert {
            name: (each["name"], each["access_token"]) for name, each in store.kept.items()
        } == {"b": ("b", TOKEN)}
