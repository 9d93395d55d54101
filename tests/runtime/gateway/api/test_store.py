"""What the API keeps in a store, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.runtime.gateway.api.support import (
    CLIENT_TOKEN,
    OTHER_TOKEN,
    TOKEN,
    Rig,
    entry,
)
from tests.support.fleet import wanted
from tunnelfleet.proto import TunnelClosed, TunnelError
from tunnelfleet.runtime.gateway import SetWanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class FakeStore:
    """Keeps in memory; can be broken."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.is_broken = False

    def save_tunnel(self, name: str, entry: Mapping[str, Any]) -> None:
        self._check()
        self.kept[name] = dict(entry)

    def forget_tunnel(self, name: str) -> None:
        self._check()
        self.kept.pop(name, None)

    def _check(self) -> None:
        if self.is_broken:
            raise TunnelError("the disk is full; make room")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def rig(tmp_path: Path, store: FakeStore) -> Iterator[Rig]:
    with Rig(tmp_path, wanted("a"), store=store) as running:
        yield running


def test_what_is_added_is_kept_as_it_was_sent(rig: Rig, store: FakeStore) -> None:
    given = entry("b", labels={"site": "lyon"})
    rig.client.ask("POST", "/v1/tunnels", given)
    assert store.kept == {"b": given}
    rig.client.ask("PUT", "/v1/tunnels/b", entry("b", marks=False))
    assert store.kept["b"]["marks"] is False
    rig.client.ask("DELETE", "/v1/tunnels/b")
    assert store.kept == {}


def test_a_token_that_was_kept_is_kept_again(rig: Rig, store: FakeStore) -> None:
    rig.client.ask("POST", "/v1/tunnels", entry("b", client_token=CLIENT_TOKEN))
    given = entry("b", marks=False)
    del given["access_token"]
    rig.client.ask("PUT", "/v1/tunnels/b", given)
    assert (store.kept["b"]["access_token"], store.kept["b"]["client_token"]) == (
        TOKEN,
        CLIENT_TOKEN,
    )


def test_another_token_is_kept_with_the_rest(rig: Rig, store: FakeStore) -> None:
    rig.client.ask("POST", "/v1/tunnels", entry("b", labels={"n": "1"}, client_token=CLIENT_TOKEN))
    rig.client.ask("POST", "/v1/tunnels/b/token", {"access_token": OTHER_TOKEN})
    assert store.kept["b"] == entry("b", labels={"n": "1"}, access_token=OTHER_TOKEN)


def test_so_is_that_of_a_tunnel_that_another_process_has_added(rig: Rig, store: FakeStore) -> None:
    rig.gateway.ask(SetWanted("api", {"old": wanted("old", labels={"n": "1"})}))
    rig.client.ask("POST", "/v1/tunnels/old/token", {"access_token": OTHER_TOKEN})
    assert store.kept["old"]["labels"] == {"n": "1"}
    assert store.kept["old"]["access_token"] == OTHER_TOKEN


def test_what_belongs_to_the_files_is_not_kept(rig: Rig, store: FakeStore) -> None:
    rig.client.ask("POST", "/v1/tunnels/a/token", {"access_token": OTHER_TOKEN})
    rig.client.ask("PUT", "/v1/tunnels/a", entry("a"))
    assert store.kept == {}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/tunnels", entry("new")),
        ("PUT", "/v1/tunnels/b", entry("b", marks=False)),
        ("DELETE", "/v1/tunnels/b", None),
        ("POST", "/v1/tunnels/b/token", {"access_token": OTHER_TOKEN}),
    ],
)
class TestWhatFails:
    def test_in_the_store_changes_nothing(
        self, rig: Rig, store: FakeStore, method: str, path: str, body: Any
    ) -> None:
        rig.client.ask("POST", "/v1/tunnels", entry("b"))
        before = dict(rig.gateway.state.sources["api"])
        store.is_broken = True
        found = rig.client.ask(method, path, body).problem(503, "store-failed")
        assert "make room" in found["detail"]
        assert rig.gateway.state.sources["api"] == before

    def test_in_the_fleet_is_taken_back(
        self,
        rig: Rig,
        store: FakeStore,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        path: str,
        body: Any,
    ) -> None:
        rig.client.ask("POST", "/v1/tunnels", entry("b"))

        def refuse(_message: object, _seconds: float = 0.0) -> None:
            raise TunnelClosed("it is being started again")

        monkeypatch.setattr(rig.gateway, "ask", refuse)
        rig.client.ask(method, path, body).problem(503, "unavailable")
        assert {
            name: (each["name"], each["access_token"]) for name, each in store.kept.items()
        } == {"b": ("b", TOKEN)}
