"""Tunnels on demand in the state, on both kinds of database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.fleet import wanted
from tests.support.stores import BASE, TOKEN, forget_gateway, make_store, opened, put_gateway
from tunnelfleet.proto import Mode
from tunnelfleet.runtime import HttpProxy
from tunnelfleet.runtime.gateway.config import CloudPlace
from tunnelfleet.runtime.gateway.store import StoredDemand, StoreError
from tunnelfleet.runtime.gateway.store.audit import AuditQuery

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tunnelfleet.runtime.gateway.wanted import WantedTunnel

PLACE = CloudPlace("eu-west-1", "http://127.0.0.1:1", "operations")
ENDS_AT = BASE + 7_200.0


def demand(request: str = "r1", begun_at: float = BASE) -> StoredDemand:
    return StoredDemand(request, "press-4", PLACE, begun_at)


def demanded_source(name: str = "press-4") -> WantedTunnel:
    return wanted(
        name,
        mode=Mode.SOURCE,
        access_token=f"{TOKEN}-source",
        services={"SSH": None},
        http_proxy=HttpProxy.parse("http://user:hunter2@proxy.example.com:3128"),
        labels={"site": "lyon"},
    )


def test_a_tunnel_comes_back_as_it_was(url: str) -> None:
    with opened(url) as store:
        store.begin_demand(demand())
        assert store.load_demands() == [demand()]
        store.keep_demand("r1", "t-1", ENDS_AT, demanded_source())
    with opened(url) as store:
        (found,) = store.load_demands()
        assert found.tunnel == demanded_source()
        assert found == replace(demand(), tunnel_id="t-1", ends_at=ENDS_AT, tunnel=found.tunnel)
        assert TOKEN not in repr(found)


def test_what_is_over_is_known_for_an_hour(url: str) -> None:
    with opened(url) as store:
        now = BASE + 3_600.0
        store.begin_demand(demand("old", now - 7_200.0))
        store.begin_demand(demand("new", now + 60.0))
        store.begin_demand(demand("open", now + 30.0))
        store.keep_demand("new", "t-1", ENDS_AT, demanded_source())
        store.end_demand("old")
        store.end_demand("new")
        found = store.load_demands()
        assert [(each.request, each.is_over) for each in found] == [("new", True), ("open", False)]
        assert found[0].tunnel is None


def test_what_a_gateway_has_left_that_never_came_back_is_forgotten(url: str) -> None:
    """With its sealed tokens, once its tunnels must have ended."""
    day_seconds = 24 * 3_600.0
    with opened(url, gateway="gone") as gone, opened(url, gateway="here") as here:
        gone.begin_demand(demand("ended", BASE - day_seconds))
        gone.keep_demand("ended", "t-1", ENDS_AT, demanded_source())
        gone.begin_demand(demand("may be open", BASE))
        here.begin_demand(demand("own", BASE))
        here.end_demand("own")
        assert [each.request for each in gone.load_demands()] == ["may be open"]


def test_what_a_gateway_has_open_is_not_forgotten_because_its_clock_was_behind(url: str) -> None:
    """It began in 1970 and hears of the time: it still closes what it has opened."""
    with opened(url) as store:
        store.begin_demand(demand("open", 60.0))
        store.keep_demand("open", "t-1", 7_260.0, demanded_source())
        store.begin_demand(demand("other"))
        store.end_demand("other")
        assert "open" in [each.request for each in store.load_demands()]


def test_one_that_was_throttled_begins_again(url: str) -> None:
    with opened(url) as store:
        store.begin_demand(demand())
        store.end_demand("r1")
        store.begin_demand(demand(begun_at=BASE + 1))
        assert store.load_demands() == [demand(begun_at=BASE + 1)]


def test_each_gateway_has_its_own(url: str) -> None:
    with opened(url, gateway="a") as store:
        store.begin_demand(demand())
        store.keep_demand("r1", "t-1", ENDS_AT, demanded_source())
    with opened(url, gateway="b") as store:
        assert store.load_demands() == []
        store.end_demand("r1")
        store.begin_demand(demand())
    with opened(url, gateway="a") as store:
        assert store.load_demands()[0].tunnel_id == "t-1"


def test_with_another_secret_it_can_be_closed_and_not_used(url: str) -> None:
    with opened(url) as store:
        store.begin_demand(demand())
        store.keep_demand("r1", "t-1", ENDS_AT, demanded_source())
    with opened(url, secret=b"x" * 32) as store:
        (found,) = store.load_demands()
        assert (found.tunnel_id, found.tunnel) == ("t-1", None)
        assert "another secret" in found.problem


def test_tokens_are_sealed_and_forgotten_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with opened(f"sqlite:///{path}") as store:
        store.begin_demand(demand())
        store.keep_demand("r1", "t-1", ENDS_AT, demanded_source())
    content = path.read_bytes()
    assert b"t-1" in content
    assert TOKEN.encode() not in content
    assert b"hunter2" not in content


def test_before_it_is_open_and_after_it_is_closed_it_says_so(url: str) -> None:
    store = make_store(url)
    for call in (
        store.load_demands,
        lambda: store.begin_demand(demand()),
        lambda: store.keep_demand("r1", "t", 0.0, demanded_source()),
        lambda: store.end_demand("r1"),
    ):
        with pytest.raises(StoreError):
            call()


def test_who_asked_is_in_the_audit(url: str) -> None:
    with opened(url) as store:
        store.note_demand("press-4", "SSH", peer="pid=1", user="alice", reason="a tunnel is opened")
        (row,) = store.audit(AuditQuery(kind="demand"))
        assert (row["tunnel"], row["service_id"], row["user"]) == ("press-4", "SSH", "alice")
        assert row["reason"] == "a tunnel is opened"
        assert store.audit(AuditQuery(kind="denied")) == []
    with opened(f"{url}", audit_rows=0) as store:
        store.note_demand("press-5", "SSH", peer="pid=1", user="alice", reason="a tunnel is opened")
        assert len(store.audit(AuditQuery(kind="demand"))) <= 1


class TestOfAGatewayThatIsGone:
    """Gateways that share a fleet, in a PostgreSQL."""

    @pytest.fixture
    def shared(self, postgres: PostgresServer) -> str:
        url = postgres.url(postgres.new_database())
        with opened(url, gateway="dead", is_shared=True) as store:
            store.begin_demand(demand("r1", BASE))
            store.keep_demand("r1", "t-1", ENDS_AT, demanded_source())
            store.begin_demand(demand("r2", BASE + 1))
            store.begin_demand(demand("r3", BASE + 2))
            store.end_demand("r3")
        put_gateway(url, "dead", -1.0)
        return url

    def test_another_takes_what_it_has_left(self, shared: str) -> None:
        with (
            opened(shared, gateway="heir", is_shared=True) as heir,
            opened(shared, gateway="other", is_shared=True) as other,
            opened(shared, gateway="dead", is_shared=True) as dead,
        ):
            assert set(heir.left_demands()) == {("r1", "press-4"), ("r2", "press-4")}
            assert not dead.is_demand_taken("r1")
            assert [each.request for each in heir.take_demands(["r1", "r2", "r3", "no"])] == [
                "r2",
                "r1",
            ]
            assert heir.left_demands() == other.left_demands() == []
            assert other.take_demands(["r1", "r2"]) == []
            (newer, older) = heir.load_demands()
            assert newer == demand("r2", BASE + 1)
            assert (older.tunnel_id, older.tunnel) == ("t-1", demanded_source())
            assert dead.is_demand_taken("r1")
            assert not dead.is_demand_taken("r3")
            assert not heir.is_demand_taken("r1")
            assert not heir.is_demand_taken("never kept")
            dead.end_demand("r1")
            assert not heir.load_demands()[1].is_over

    @pytest.mark.parametrize(
        "lease_seconds", [pytest.param(60.0, id="lives"), pytest.param(None, id="left")]
    )
    def test_nobody_takes_from_one_that_lives_or_has_left(
        self, shared: str, lease_seconds: float | None
    ) -> None:
        if lease_seconds is None:
            put_gateway(shared, "another", -1.0)
            forget_gateway(shared, "dead")
        else:
            put_gateway(shared, "dead", lease_seconds)
        with opened(shared, gateway="heir", is_shared=True) as heir:
            assert heir.left_demands() == []
            assert heir.take_demands(["r1"]) == []

    def test_tokens_of_another_deployment_stay_shut(self, shared: str) -> None:
        with opened(shared, gateway="heir", is_shared=True, secret=b"x" * 32) as heir:
            (found,) = heir.take_demands(["r1"])
            assert found.tunnel is None
            assert "another secret" in found.problem

    def test_a_gateway_that_shares_nothing_looks_at_nobody(self, shared: str) -> None:
        with opened(shared, gateway="heir") as heir:
            assert heir.left_demands() == []
            assert not heir.is_demand_taken("r1")
