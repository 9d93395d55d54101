"""Tunnels on demand of a real gateway: a service with its API, boto3, the doors, devices."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.demand import DemandFleet, HeldCall
from tests.support.doors import door_answer, http_request
from tests.support.notifications import SECTION
from tests.support.rig import echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.gateway import Assigned, StaticPlacement
from tunnelfleet.runtime.gateway.config import CloudPlace, DoorRule
from tunnelfleet.runtime.gateway.on_demand.cloud import CloudError, CloudTrouble
from tunnelfleet.runtime.gateway.placement import shard_of

if TYPE_CHECKING:
    from pathlib import Path


def test_everybody_who_asks_shares_one_tunnel(fleet: DemandFleet) -> None:
    fleet.open_gateway()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fleet.ask, ["press-4:SSH"] * 8)) == [(200, "")] * 8
    with fleet.client(http_request("press-4")) as sock:
        assert door_answer(sock) == (200, "")
        assert echo(sock, b"hello") == b"hello"
    assert fleet.calls["OpenTunnel"] == 1
    assert fleet.devices.told == {"press-4": 1}
    tunnel = fleet.aws.describe_tunnel(tunnelId=fleet.opened[0])["tunnel"]
    assert tunnel["destinationConfig"] == {"thingName": "press-4", "services": ["SSH"]}
    assert tunnel["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 60}
    assert tunnel["tags"] == [{"key": "cost-center", "value": "4711"}]
    assert tunnel["description"].startswith("tunnelfleet gw, on demand, ")
    assert fleet.metric("demand_opened_total") == 1
    assert fleet.metric("demand_tunnels", phase="ready") == 1
    assert fleet.row("press-4").source == "on demand"


def test_idle_is_closed_and_deleted_and_the_next_who_asks_has_another(fleet: DemandFleet) -> None:
    fleet.open_gateway()
    with fleet.client(http_request("press-4")) as sock:
        assert door_answer(sock) == (200, "")
        first = fleet.opened[0]
        fleet.reload_limits(idle_seconds=0.05)
        fleet.wait_phases(ready=1)
        assert echo(sock, b"x") == b"x"
    fleet.wait_phases()
    assert fleet.open_at_service == set()
    with pytest.raises(Exception, match="ResourceNotFound"):
        fleet.aws.describe_tunnel(tunnelId=first)
    eventually(lambda: fleet.names() == [])
    assert fleet.metric("demand_closed_total", cause="idle") == 1
    fleet.reload_limits(idle_seconds=1_000.0)
    assert fleet.ask("press-4") == (200, "")
    assert len(fleet.opened) == 2


def test_who_may_not_reach_it_makes_it_cost_nothing(fleet: DemandFleet) -> None:
    fleet.settings = replace(fleet.settings, services=("SSH", "HTTP"))
    fleet.open_gateway()
    fleet.rules(DoorRule((), ("press-4",), ("SSH",)))
    for target, status in [
        ("press-5:SSH", 403),
        ("press-4:HTTP", 403),
        ("pump-1:SSH", 403),
    ]:
        assert fleet.ask(target)[0] == status
    fleet.rules()
    for target, status in [
        ("press-4", 404),
        ("press-4:FTP", 404),
        ("pump-1:SSH", 404),
        ("press-4.example.com:SSH", 404),
    ]:
        assert fleet.ask(target)[0] == status
    assert fleet.calls == {}
    assert len(fleet.demand.plan) == 0


def test_a_device_of_this_gateway_is_asked_for_elsewhere(fleet: DemandFleet) -> None:
    fleet.notify = (replace(SECTION, things=("press-4",)),)
    fleet.open_gateway()
    status, text = fleet.ask("press-4:SSH")
    assert status == 404
    assert "press-4 is a device of this gateway" in text
    assert fleet.calls["OpenTunnel"] == 0
    assert fleet.ask("press-5:SSH") == (200, "")


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        (CloudTrouble.REFUSED, "AccessDeniedException: no"),
        (CloudTrouble.UNKNOWN, "Read timeout"),
    ],
)
def test_a_failure_is_one_clear_message_and_is_not_tried_at_once(
    fleet: DemandFleet, trouble: CloudTrouble, text: str
) -> None:
    def fail(operation: str) -> None:
        if operation == "OpenTunnel":
            raise CloudError(trouble, text)

    fleet.before = fail
    fleet.open_gateway()
    assert fleet.ask("press-4") == (503, text)
    fleet.before = lambda _operation: None
    status, again = fleet.ask("press-4")
    assert (status, again.startswith(f"{text} (it is tried again in ")) == (503, True)
    assert fleet.calls["OpenTunnel"] == 1
    fleet.reload(limits=replace(fleet.settings.limits, negative_seconds=0.0))
    assert fleet.ask("press-5") == (200, "")
    assert fleet.metric("demand_failed_total") == 1
    assert fleet.metric("demand_refused_total", reason="failed_before") == 1
    labels = {"operation": "OpenTunnel", "reason": trouble.value}
    assert fleet.metric("demand_call_failures_total", **labels) == 1


def test_a_device_that_does_not_come_costs_one_tunnel_which_is_closed(fleet: DemandFleet) -> None:
    fleet.open_gateway()
    status, text = fleet.ask_for_who_is_off("press-4")
    assert (status, text.partition(" within")[0]) == (503, "press-4 has not come to its tunnel")
    fleet.wait_phases()
    assert fleet.open_at_service == set()
    assert fleet.metric("demand_closed_total", cause="no_device") == 1
    assert fleet.ask("press-4")[0] == 503
    assert fleet.calls["OpenTunnel"] == 1


def test_throttled_calls_come_again(fleet: DemandFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.on_demand.budget.FIRST_PAUSE_SECONDS", 0.02)

    def throttle(operation: str) -> None:
        if operation == "OpenTunnel" and fleet.calls[operation] < 4:
            raise CloudError(CloudTrouble.THROTTLED, "Rate exceeded")

    fleet.before = throttle
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    assert fleet.calls["OpenTunnel"] == 4


def test_a_call_that_hangs_is_nobody_else_s_trouble(
    fleet: DemandFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldCall()

    def hang(operation: str) -> None:
        if operation == "OpenTunnel" and fleet.calls[operation] == 1:
            held.wait()

    fleet.before = hang
    fleet.open_gateway()
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(fleet.ask, "press-1")
        assert held.reached.wait(WAIT_SECONDS)
        assert fleet.ask("press-2") == (200, "")
        monkeypatch.setattr("tunnelfleet.runtime.gateway.on_demand.plan.CALL_SECONDS", 0.1)
        assert stuck.result() == (503, "OpenTunnel for press-1 has not answered within 0.1 s")
    # It comes back after all, with a tunnel that nobody expects.
    held.let_go()
    eventually(lambda: fleet.metric("demand_closed_total", cause="abandoned") == 1)
    eventually(lambda: len(fleet.open_at_service) == 1, "that of press-2")


def test_a_tunnel_whose_answer_was_lost_is_found_and_closed(fleet: DemandFleet) -> None:
    def lose(operation: str) -> None:
        if operation == "OpenTunnel":
            raise CloudError(CloudTrouble.UNKNOWN, "Connection was closed")

    fleet.after = lose
    fleet.open_gateway()
    assert fleet.ask("press-4") == (503, "Connection was closed")
    eventually(lambda: len(fleet.opened) == 1 and fleet.open_at_service == set())
    assert fleet.calls["ListTunnels"] >= 1


def test_a_mistake_of_ours_is_told_as_one(
    fleet: DemandFleet, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(operation: str) -> None:
        if operation == "OpenTunnel":
            raise ZeroDivisionError("bang")

    fleet.before = fail
    fleet.open_gateway()
    status, text = fleet.ask("press-4")
    assert (status, "the gateway's log tells more" in text) == (503, True)
    assert "bang" in caplog.text


def test_limits_are_told(fleet: DemandFleet) -> None:
    fleet.open_gateway(max_open=1)
    assert fleet.ask("press-1") == (200, "")
    status, text = fleet.ask("press-2")
    assert (status, text) == (503, "1 tunnel is open on demand, which is the limit (max_open)")
    fleet.reload(limits=replace(fleet.settings.limits, max_open=2, max_opens_per_hour=1))
    status, text = fleet.ask("press-2")
    assert (status, "(max_opens_per_hour)" in text) == (503, True)
    assert fleet.metric("demand_refused_total", reason="max_open") == 1
    assert fleet.metric("demand_refused_total", reason="max_opens_per_hour") == 1


def test_who_leaves_before_it_is_opened_costs_nothing(fleet: DemandFleet) -> None:
    fleet.open_gateway(opens_per_second=0.01)
    with fleet.client(http_request("press-1")):
        eventually(lambda: fleet.calls["OpenTunnel"] == 1)
        with fleet.client(http_request("press-2")):
            eventually(lambda: fleet.has_demand("press-2"))
            assert fleet.metric("demand_waiting") >= 1
        eventually(lambda: not fleet.has_demand("press-2"))
    assert fleet.calls["OpenTunnel"] == 1


class TestChanges:
    def test_a_reload_does_not_disturb_what_is_open(self, fleet: DemandFleet) -> None:
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as sock:
            assert door_answer(sock) == (200, "")
            fleet.reload(things=("pump-*",), services=("HTTP",))
            assert echo(sock, b"still here") == b"still here"
            assert fleet.ask("press-4")[0] == 404
            assert fleet.ask("press-5")[0] == 404
            assert fleet.ask("pump-1:HTTP") == (200, "")
            assert echo(sock, b"still") == b"still"
        # With its last connection it ends, as its thing is not allowed any more.
        fleet.wait_phases(ready=1)
        assert fleet.metric("demand_closed_total", cause="not_allowed") == 1

    def test_without_the_table_nothing_is_opened_and_what_is_open_ends(
        self, fleet: DemandFleet
    ) -> None:
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as sock:
            assert door_answer(sock) == (200, "")
            fleet.turn_off()
            assert fleet.ask("press-5")[0] == 404
            assert echo(sock, b"still here") == b"still here"
        fleet.wait_phases()
        eventually(lambda: fleet.open_at_service == set())

    def test_an_open_tunnel_has_the_services_that_it_was_opened_with(
        self, fleet: DemandFleet
    ) -> None:
        fleet.open_gateway()
        assert fleet.ask("press-4") == (200, "")
        fleet.reload(services=("HTTP",))
        status, text = fleet.ask("press-4:HTTP")
        assert (status, text) == (404, "tunnel press-4 has no service 'HTTP', but SSH")
        assert fleet.ask("press-4") == (200, "")

    def test_another_place_closes_the_old_tunnels_where_they_are(self, fleet: DemandFleet) -> None:
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as sock:
            assert door_answer(sock) == (200, "")
            fleet.reload_limits(idle_seconds=0.05)
            fleet.reload(place=CloudPlace(None, "http://127.0.0.1:1"))
            status, text = fleet.ask("press-5")
            assert status == 503
            assert "OpenTunnel at http://127.0.0.1:1: Could not connect" in text
            assert len(fleet.open_at_service) == 1
        fleet.wait_phases()
        assert fleet.open_at_service == set()

    def test_a_tunnel_of_the_files_takes_the_name(self, fleet: DemandFleet) -> None:
        fleet.open_gateway()
        assert fleet.ask("press-4") == (200, "")
        tunnel = fleet.tunnel("press-4", services={"SSH": None})
        fleet.files.tunnels["press-4"] = tunnel
        assert fleet.gateway.reload().is_good
        eventually(lambda: fleet.gateway.state.source_of("press-4") == "files")
        fleet.reload_limits(idle_seconds=0.05)
        fleet.wait_phases()
        fleet.wait_state("press-4", "connected")
        assert fleet.ask("press-4") == (200, "")
        assert fleet.calls["OpenTunnel"] == 1


class TestRollover:
    def test_new_connections_use_the_next_tunnel_and_old_ones_go_on(
        self, fleet: DemandFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as old:
            assert door_answer(old) == (200, "")
            with monkeypatch.context() as near_its_end:
                place = "tunnelfleet.runtime.gateway.on_demand.facts"
                near_its_end.setattr(f"{place}.LEAD_PART", 1.0)
                near_its_end.setattr(f"{place}.LEAD_SECONDS", 3_600.0)
                fleet.wait_phases(ready=1, retiring=1)
            assert fleet.ask("press-4") == (200, "")
            assert echo(old, b"as before") == b"as before"
            assert fleet.row("press-4~2").state == "connected"
            assert fleet.calls["OpenTunnel"] == 2
            assert len(fleet.open_at_service) == 2

    def test_what_is_open_at_the_end_is_reset(self, fleet: DemandFleet) -> None:
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as sock:
            assert door_answer(sock) == (200, "")
            fleet.service.close_tunnel(fleet.opened[0])
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        # Somebody else has closed it: the next who asks has another one.
        eventually(lambda: fleet.ask("press-4") == (200, ""))
        assert fleet.metric("demand_closed_total", cause="lost") == 1
        assert fleet.calls["OpenTunnel"] == 2


class TestSeveralGateways:
    def test_a_name_has_one_owner(self, tmp_path: Path, quick: None) -> None:
        placement = StaticPlacement(0, 2)
        told: list[Assigned] = []
        placement.start(told.append)  # type: ignore[arg-type]
        (assigned,) = told
        names = [f"press-{number}" for number in range(50)]
        mine = next(name for name in names if shard_of(name) in assigned.shards)
        other = next(name for name in names if shard_of(name) not in assigned.shards)
        assert shard_of(f"{mine}~2") == shard_of(mine)
        with DemandFleet(tmp_path, placement=placement) as fleet:
            fleet.open_gateway()
            assert fleet.ask(mine) == (200, "")
            text = f"{other} is with another gateway of this fleet: ask there"
            assert fleet.ask(other) == (503, text)
            assert fleet.calls["OpenTunnel"] == 1
            assert fleet.metric("demand_refused_total", reason="elsewhere") == 1


class TestEnds:
    def test_a_stop_closes_all(self, fleet: DemandFleet) -> None:
        fleet.open_gateway()
        for number in (1, 2, 3):
            assert fleet.ask(f"press-{number}") == (200, "")
        assert len(fleet.open_at_service) == 3
        fleet.gateway.leave(0.0)
        fleet.end_gateway()
        assert fleet.open_at_service == set()

    def test_or_none_if_they_are_to_stay(self, fleet: DemandFleet) -> None:
        fleet.settings = replace(fleet.settings, keep_on_stop=True)
        fleet.open_gateway()
        assert fleet.ask("press-4") == (200, "")
        fleet.end_gateway()
        assert len(fleet.open_at_service) == 1

    def test_who_waits_when_it_stops_is_told(self, fleet: DemandFleet) -> None:
        held = HeldCall()
        fleet.before = lambda operation: held.wait() if operation == "OpenTunnel" else None
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as sock:
            assert held.reached.wait(WAIT_SECONDS)
            fleet.gateway.leave(0.0)
            assert fleet.ask("press-5") == (503, "the gateway is stopping")
            ended = threading.Thread(target=fleet.end_gateway)
            ended.start()
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4_096):
                    pass
            # The answer comes while the gateway stops: what it has opened is closed.
            held.let_go()
            ended.join(WAIT_SECONDS)
            assert not ended.is_alive()
        assert fleet.open_at_service == set()

    def test_a_crash_of_the_actor_loses_no_tunnel(self, fleet: DemandFleet) -> None:
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as sock:
            assert door_answer(sock) == (200, "")
            fleet.crash_demand()
            assert echo(sock, b"still here") == b"still here"
            assert fleet.ask("press-4") == (200, "")
            eventually(lambda: fleet.ask("press-5") == (200, ""))
        assert fleet.calls["OpenTunnel"] == 2

    def test_a_crash_while_a_tunnel_is_opened_leaves_none_behind(self, fleet: DemandFleet) -> None:
        held = HeldCall()
        fleet.after = lambda operation: held.wait() if operation == "OpenTunnel" else None
        fleet.open_gateway()
        with fleet.client(http_request("press-4")) as sock:
            assert held.reached.wait(WAIT_SECONDS)
            fleet.crash_demand()
            assert door_answer(sock)[0] == 502
            held.let_go()
        eventually(lambda: fleet.open_at_service == set())


@pytest.mark.parametrize("operation", ["DescribeTunnel", "CloseTunnel"])
def test_a_call_that_fails_is_made_again(
    fleet: DemandFleet, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    fails = [CloudError(CloudTrouble.UNKNOWN, f"{operation}: no answer")]

    def fail(called: str) -> None:
        if called == operation and fails:
            raise fails.pop()

    fleet.before = fail
    fleet.open_gateway()
    assert fleet.ask("press-4") == (200, "")
    fleet.reload_limits(idle_seconds=0.05)
    fleet.wait_phases()
    assert fleet.open_at_service == set()
    assert fleet.calls[operation] >= 2
    labels = {"operation": operation, "reason": "unknown"}
    assert fleet.metric("demand_call_failures_total", **labels) == 1
    assert f"{operation}: no answer" in caplog.text
