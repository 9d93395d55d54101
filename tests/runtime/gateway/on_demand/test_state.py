"""Tunnels on demand over the death of a gateway: what the state has is taken up, or closed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.demand import DemandFleet
from tests.support.doors import door_answer, http_request
from tests.support.rig import echo
from tests.support.stores import make_store, opened, put_gateway
from tests.support.waiting import eventually
from tunnelfleet.runtime.gateway.on_demand.cloud import CloudError, CloudTrouble
from tunnelfleet.runtime.gateway.on_demand.errands import Recollection
from tunnelfleet.runtime.gateway.placement import StaticPlacement
from tunnelfleet.runtime.gateway.store import StoredDemand, StoreError, Trouble
from tunnelfleet.runtime.gateway.store.audit import AuditQuery
from tunnelfleet.runtime.gateway.store.errors import make_error

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tunnelfleet.runtime.gateway.store import Store


class Lives:
    """A fleet whose gateway ends, and another one comes with the same state."""

    def __init__(self, folder: Path) -> None:
        self._url = f"sqlite:///{folder / 'state.db'}"
        self.fleet = DemandFleet(folder, self.store())

    def store(self, **given: bytes) -> Store:
        return make_store(self._url, **given)

    def opened_store(self) -> contextlib.AbstractContextManager[Store]:
        """The state, while no gateway has it."""
        return opened(self._url)

    def die(self) -> None:
        """The gateway ends and closes no tunnel, as if it were killed."""
        fleet = self.fleet
        settings = fleet.settings
        fleet.reload(keep_on_stop=True)
        fleet.end_gateway()
        fleet.settings = settings

    def begin(self, **secret: bytes) -> None:
        """The next life."""
        self.fleet.store = self.store(**secret)
        self.fleet.open_gateway()


@pytest.fixture
def lives(tmp_path: Path, quick: None) -> Iterator[Lives]:
    made = Lives(tmp_path)
    with made.fleet:
        yield made


def test_a_tunnel_is_used_again(lives: Lives) -> None:
    fleet = lives.fleet
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    lives.die()
    assert len(fleet.open_at_service) == 1
    lives.begin()
    with fleet.client(http_request("press-4")) as sock:
        assert door_answer(sock) == (200, "")
        assert echo(sock, b"hello") == b"hello"
    assert fleet.calls["OpenTunnel"] == 1
    assert fleet.metric("demand_opened_total") == 0
    fleet.gateway.leave(0.0)
    fleet.end_gateway()
    assert fleet.open_at_service == set()
    lives.begin()
    fleet.wait_phases()


def test_what_is_not_allowed_any_more_is_closed(lives: Lives) -> None:
    fleet = lives.fleet
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    lives.die()
    fleet.settings = replace(fleet.settings, things=("pump-*",))
    lives.begin()
    eventually(lambda: fleet.open_at_service == set())


def test_what_cannot_be_opened_with_this_secret_is_closed(
    lives: Lives, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = lives.fleet
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    lives.die()
    lives.begin(secret=b"x" * 32)
    eventually(lambda: fleet.open_at_service == set())
    assert "another secret" in caplog.text


def test_a_tunnel_that_the_service_has_ended_is_forgotten(lives: Lives) -> None:
    fleet = lives.fleet
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    lives.die()
    fleet.service.close_tunnel(fleet.opened[0])
    lives.begin()
    eventually(lambda: not fleet.has_demand("press-4"))
    eventually(lambda: fleet.ask("press-4") == (200, ""))
    assert fleet.calls["OpenTunnel"] == 2


def test_one_that_was_being_opened_is_looked_for_and_closed(lives: Lives) -> None:
    fleet = lives.fleet
    with lives.opened_store() as store:
        store.begin_demand(StoredDemand("lost", "press-4", fleet.settings.place, time.time() - 5.0))
    lost = fleet.aws.open_tunnel(
        description="tunnelfleet gw, on demand, lost",
        destinationConfig={"thingName": "press-4", "services": ["SSH"]},
    )
    other = fleet.aws.open_tunnel(
        description="tunnelfleet gw, on demand, another",
        destinationConfig={"thingName": "press-4", "services": ["SSH"]},
    )
    fleet.open_gateway()
    eventually(lambda: lost["tunnelId"] not in fleet.open_at_service)
    assert fleet.open_at_service == {other["tunnelId"]}
    assert fleet.ask("press-4") == (200, "")
    lives.die()
    with lives.opened_store() as store:
        assert {each.request: each.is_over for each in store.load_demands()}["lost"]


def test_one_that_was_never_opened_is_forgotten_after_some_looks(lives: Lives) -> None:
    fleet = lives.fleet
    with lives.opened_store() as store:
        store.begin_demand(StoredDemand("never", "press-4", fleet.settings.place, time.time()))
    fail_once = [True]

    def fail(operation: str) -> None:
        if operation == "ListTunnels" and fail_once:
            fail_once.clear()
            raise CloudError(CloudTrouble.UNKNOWN, "no answer")

    fleet.before = fail
    fleet.open_gateway()

    def is_over() -> bool:
        assert fleet.store is not None
        return fleet.store.load_demands()[0].is_over

    eventually(is_over)
    assert fleet.calls["ListTunnels"] == 3


def test_openings_before_count_for_the_hour(lives: Lives) -> None:
    fleet = lives.fleet
    fleet.open_gateway(max_opens_per_hour=1)
    assert fleet.ask("press-4") == (200, "")
    fleet.reload_limits(idle_seconds=0.05)
    fleet.wait_phases()
    lives.die()
    lives.begin()
    eventually(lambda: "(max_opens_per_hour)" in fleet.ask("press-4")[1])
    assert fleet.calls["OpenTunnel"] == 1


def test_a_state_that_takes_nothing_holds_up_no_tunnel(
    lives: Lives, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = lives.fleet
    assert fleet.store is not None

    def fail(*_given: object) -> None:
        raise make_error(Trouble.NOT_READ, "here", "the disk is full")

    for name in ("load_demands", "begin_demand", "keep_demand", "end_demand"):
        monkeypatch.setattr(fleet.store, name, fail)
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    assert fleet.ask("press-5") == (200, "")
    told = [each for each in caplog.messages if "is not found again after a crash" in each]
    assert len(told) == 1
    fleet.gateway.leave(0.0)
    fleet.end_gateway()
    assert fleet.open_at_service == set()


def test_a_state_that_comes_late_is_read_then(
    lives: Lives, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = lives.fleet
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    lives.die()
    store = lives.store()
    tries: list[int] = []

    real = store.load_demands

    def load() -> list[StoredDemand]:
        tries.append(1)
        if len(tries) < 3:
            raise StoreError(Trouble.NOT_READ, "it does not answer")
        return real()

    monkeypatch.setattr(store, "load_demands", load)
    fleet.store = store
    fleet.open_gateway()
    eventually(lambda: fleet.has_demand("press-4"))
    assert fleet.ask("press-4") == (200, "")
    assert fleet.calls["OpenTunnel"] == 1
    # It was asked twice in vain, and told of once.
    assert sum("until the state answers" in each for each in caplog.messages) == 1


@pytest.mark.parametrize(("is_used", "told"), [(True, [0, 3]), (False, [])])
def test_an_outage_of_the_state_is_told_once_to_whom_it_concerns(
    is_used: bool, told: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    down: Future[list[int]] = Future()
    down.set_exception(StoreError(Trouble.UNREACHABLE, "it does not answer"))
    up: Future[list[int]] = Future()
    up.set_result([])
    recollection = Recollection(lambda: is_used)
    warned = []
    for step, done in enumerate((down, down, up, down, down, up)):
        before = len(caplog.messages)
        assert recollection.of(done) == ([] if done is up else None)
        warned += [step] * (len(caplog.messages) - before)
    assert warned == told


def test_who_asked_is_audited(lives: Lives) -> None:
    fleet = lives.fleet
    fleet.open_gateway()
    assert fleet.ask_for_who_is_off("press-9", address=fleet.private)[0] == 503
    assert fleet.ask("pump-9")[0] == 404
    assert fleet.store is not None
    rows = fleet.store.audit(AuditQuery(kind="demand"))
    assert [row["tunnel"] for row in rows] == ["press-9", "press-9"]
    assert rows[1]["reason"] == "a tunnel is opened for it"
    assert rows[0]["reason"].startswith("press-9 has not come to its tunnel")
    assert all(row["user"] and row["peer"].startswith("pid=") for row in rows)


class TestAGatewayThatIsGone:
    """Its tunnels are those of the gateway that has their shards now."""

    @pytest.fixture
    def heir(self, tmp_path: Path, quick: None, postgres: PostgresServer) -> Iterator[DemandFleet]:
        self.url = postgres.url(postgres.new_database())
        store = make_store(self.url, is_shared=True)
        with DemandFleet(tmp_path, store, StaticPlacement()) as fleet:
            fleet.files.settings = replace(
                fleet.files.settings, name="gw", state=self.url, placement="postgres"
            )
            with self.dead_store() as store:
                request = StoredDemand("r1", "press-4", fleet.settings.place, time.time() - 5.0)
                store.begin_demand(request)
            put_gateway(self.url, "dead", 3_600.0)
            yield fleet

    def dead_store(self) -> contextlib.AbstractContextManager[Store]:
        return opened(self.url, gateway="dead", is_shared=True)

    def open_one(self, fleet: DemandFleet) -> str:
        """As the gateway did that is gone."""
        made = fleet.aws.open_tunnel(
            description="tunnelfleet dead, on demand, r1",
            destinationConfig={"thingName": "press-4", "services": ["SSH"]},
        )
        with self.dead_store() as store:
            token = made["sourceAccessToken"]
            tunnel = replace(fleet.settings.tunnel, name="press-4", access_token=token)
            store.keep_demand("r1", made["tunnelId"], time.time() + 3_600.0, tunnel)
        return str(made["tunnelId"])

    def test_a_tunnel_that_it_has_left_is_used_and_then_closed(self, heir: DemandFleet) -> None:
        heir.open_gateway()
        self.open_one(heir)
        put_gateway(self.url, "dead", -1.0)
        eventually(lambda: heir.has_demand("press-4"))
        with heir.client(http_request("press-4")) as sock:
            assert door_answer(sock) == (200, "")
            assert echo(sock, b"hello") == b"hello"
        assert heir.calls["OpenTunnel"] == 0
        heir.reload_limits(idle_seconds=0.05)
        eventually(lambda: heir.open_at_service == set())

    def test_one_whose_answer_it_did_not_get_is_found_and_closed(self, heir: DemandFleet) -> None:
        heir.aws.open_tunnel(
            description="tunnelfleet dead, on demand, r1",
            destinationConfig={"thingName": "press-4", "services": ["SSH"]},
        )
        put_gateway(self.url, "dead", -1.0)
        heir.open_gateway()
        eventually(lambda: heir.open_at_service == set())

    def test_what_another_has_taken_is_not_closed_by_the_one_that_comes_back(
        self, heir: DemandFleet
    ) -> None:
        heir.open_gateway()
        assert heir.ask("press-5") == (200, "")
        (taken,) = heir.open_at_service
        put_gateway(self.url, "gw", -1.0)
        with self.dead_store() as store:
            (left,) = [each for each in store.left_demands() if each.thing == "press-5"]
            assert store.take_demands([left.request])
        heir.reload_limits(idle_seconds=0.05)
        eventually(lambda: not heir.has_demand("press-5"))
        assert heir.open_at_service == {taken}
        heir.service.close_tunnel(taken)


def test_what_becomes_known_while_the_gateway_stops_is_closed_too(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = lives.fleet
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    lives.die()
    store = lives.store()
    may_load = threading.Event()
    real = store.load_demands

    def load() -> list[StoredDemand]:
        if not may_load.is_set():
            raise StoreError(Trouble.NOT_READ, "it does not answer")
        return real()

    def is_closed(operation: str) -> None:
        if operation == "CloseTunnel":
            may_load.set()
            eventually(lambda: fleet.has_demand("press-4"))

    monkeypatch.setattr(store, "load_demands", load)
    fleet.store = store
    fleet.open_gateway()
    assert fleet.ask("press-5") == (200, "")
    fleet.before = is_closed
    fleet.gateway.leave(0.0)
    fleet.end_gateway()
    assert fleet.open_at_service == set()
    assert fleet.calls["CloseTunnel"] == 2
