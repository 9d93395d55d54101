"""Devices with real programs: mosquitto, `tunnelfleet service`, boto3, and `tunnelfleet up`."""

from __future__ import annotations

import json
import signal
import urllib.error
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.aws_service import assert_free_of
from tests.support.devices import DevicesRig
from tests.support.gateway import seen_in_time

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.gateway import UpProcess

pytestmark = [pytest.mark.programs("mosquitto"), pytest.mark.timeout(400)]


def names(gateway: UpProcess, outcome: str) -> list[str]:
    """The things of the notifications with this outcome."""
    return [each["thing"] for each in gateway.events("notification", outcome=outcome)]


def tunnels(gateway: UpProcess) -> float:
    """How many tunnels of devices are wanted."""
    (line,) = [
        line
        for line in gateway.get("/metrics").splitlines()
        if line.startswith("tunnelfleet_notify_tunnels ")
    ]
    return float(line.split()[1])


def brokers(gateway: UpProcess) -> list[dict[str, Any]]:
    """The connections to brokers, whether the gateway is ready or not."""
    try:
        text = gateway.get("/readyz")
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
    found: list[dict[str, Any]] = json.loads(text)["brokers"]
    return found


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.long)])
def test_a_site_of_devices(tmp_path: Path, count: int) -> None:
    things = [f"press-{number}" for number in range(1, count + 1)]
    with DevicesRig(tmp_path, things) as rig:
        if count > 50:
            assert count == 200  # four connections of fifty
        with rig.up() as gateway:
            opened = {thing: rig.open_tunnel(thing) for thing in things}
            rig.wait_connected(*opened.values())
            operator = rig.operator(opened["press-1"])
            rig.assert_echoes(operator)
            told_twice(rig, gateway, opened, things)
            refused(rig, gateway)
            rotated(rig, gateway, opened)
            rig.assert_echoes(operator)
            at_once(rig)
            broker_restarted(rig, gateway)
            service_restarted(rig, gateway, opened)
            rig.assert_echoes(operator)
            shows_all(rig, gateway, count)
            tokens = {each["destinationAccessToken"] for each in opened.values()}
            kept = rig.kept()
            assert tokens - {opened["press-1"]["destinationAccessToken"]} <= kept
            gateway.process.kill()
            gateway.wait_end()
            assert_free_of(sorted(tokens | kept), gateway.output)
        while_down = rig.open_tunnel("press-3")
        closed = opened.pop("press-2")
        rig.aws.close_tunnel(tunnelId=closed["tunnelId"])
        with rig.up() as gateway:
            rig.wait_connected(*opened.values(), while_down)
            rig.assert_echoes(operator)
            gateway.wait_event("device_tunnel_ended", thing="press-2")
            seen_in_time(
                lambda: closed["destinationAccessToken"] not in rig.kept(), "it is forgotten"
            )
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
        assert_secrets_are_sealed(tmp_path, kept)


def told_twice(
    rig: DevicesRig, gateway: UpProcess, opened: dict[str, dict[str, Any]], things: list[str]
) -> None:
    before = tunnels(gateway)
    for thing in things[:5]:
        rig.tell(thing, opened[thing]["destinationAccessToken"])
    seen_in_time(lambda: names(gateway, "duplicate") == things[:5], "they are duplicates")
    assert tunnels(gateway) == before == len(things)


def refused(rig: DevicesRig, gateway: UpProcess) -> None:
    rig.open_tunnel("press-1", "VNC")
    gateway.wait_event("notification", thing="press-1", outcome="refused", refused=["VNC"])
    seen_in_time(lambda: rig.denials() == [("press-1", "VNC")], "it is in the audit")


def rotated(rig: DevicesRig, gateway: UpProcess, opened: dict[str, dict[str, Any]]) -> None:
    before = opened["press-1"]["destinationAccessToken"]
    rig.rotate(opened["press-1"])
    # Whichever was heard of first, the end of the old link or the new token.
    seen_in_time(
        lambda: len(names(gateway, "takes_over") + names(gateway, "opened")) == len(opened) + 1,
        "the new token is used",
    )
    seen_in_time(lambda: before not in rig.kept(), "the old token is forgotten")
    rig.wait_connected(opened["press-1"])


def at_once(rig: DevicesRig) -> None:
    first = rig.open_tunnel("press-1")
    rig.wait_connected(first)
    second = rig.open_tunnel("press-1")
    rig.wait_connected(first, second)
    for each in (first, second):
        rig.assert_echoes(rig.operator(each))
        rig.aws.close_tunnel(tunnelId=each["tunnelId"])


def broker_restarted(rig: DevicesRig, gateway: UpProcess) -> None:
    rig.broker.stop()
    gateway.wait_event("broker_lost")
    # The service keeps trying, and the broker has the session of the gateway again.
    while_away = rig.open_tunnel("press-2", "SSH")
    seen_in_time(
        lambda: not any(each["connected"] for each in brokers(gateway)), "all connections are lost"
    )
    assert all(each["reason"] for each in brokers(gateway))
    assert 'tunnelfleet_notify_connections{state="up"} 0.0' in gateway.get("/metrics")
    rig.broker.start()
    rig.wait_connected(while_away)
    rig.aws.close_tunnel(tunnelId=while_away["tunnelId"])


def service_restarted(
    rig: DevicesRig, gateway: UpProcess, opened: dict[str, dict[str, Any]]
) -> None:
    rig.service.kill()
    gateway.wait_event("tunnel_state_changed", tunnel="press-3", state="backoff")
    rig.start_service()
    rig.wait_connected(*opened.values())
    another = rig.open_tunnel("press-3")
    rig.wait_connected(another)
    rig.aws.close_tunnel(tunnelId=another["tunnelId"])


def shows_all(rig: DevicesRig, gateway: UpProcess, count: int) -> None:
    found = brokers(gateway)
    assert [each["connected"] for each in found] == [True] * -(-count // 50)
    assert sum(each["things"] for each in found) == count
    assert len({each["client_id"] for each in found}) == len(found)
    # What was closed meanwhile is gone.
    seen_in_time(lambda: tunnels(gateway) == count, "one tunnel for each thing")


def assert_secrets_are_sealed(folder: Path, tokens: set[str]) -> None:
    for path in (folder / "state").iterdir():
        if path.is_file():
            assert_free_of(sorted(tokens), path)


def test_garbage_harms_nobody_and_a_reload_changes_what_it_says(tmp_path: Path) -> None:
    with DevicesRig(tmp_path, ["press-1", "press-2"]) as rig, rig.up() as gateway:
        rig.tell("press-1", *(f"bad token {number}" for number in range(50)))
        stays, goes = rig.open_tunnel("press-1"), rig.open_tunnel("press-2")
        rig.wait_connected(stays, goes)
        counted = 'tunnelfleet_notifications_total{outcome="invalid"} 50.0'
        seen_in_time(lambda: counted in gateway.get("/metrics"), "garbage is counted")
        assert 1 <= len(gateway.events("notification", outcome="invalid")) <= 10
        assert "bad token" not in gateway.output
        operator = rig.operator(stays)
        rig.assert_echoes(operator)
        gateway.wait_event("tunnel_state_changed", tunnel="press-1", state="connected")
        before = gateway.events("tunnel_state_changed", tunnel="press-1")
        rig.things = ["press-1", "press-3"]
        rig.more_keys = 'labels = { site = "lyon" }'
        rig.write()
        gateway.signal(signal.SIGHUP)
        gateway.wait_event("reloaded")
        gateway.wait_event("tunnel_ended", tunnel="press-2")
        gateway.wait_event("broker_subscribed", 2)
        comes = rig.open_tunnel("press-3")
        rig.wait_connected(comes)
        # press-1 was left alone, and press-2 is back with its thing.
        rig.assert_echoes(operator)
        assert gateway.events("tunnel_state_changed", tunnel="press-1") == before
        rig.things = ["press-1", "press-2", "press-3"]
        rig.write()
        gateway.signal(signal.SIGHUP)
        rig.wait_connected(goes)
        assert len(gateway.events("broker_connected")) == 1
