from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.fleet import wanted
from tests.support.rig import connect, echo
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.gateway.reconcile import RunPhase
from tunnelfleet.runtime.gateway.snapshot import Entry

if TYPE_CHECKING:
    from tests.support.fleet import Fleet


def test_a_row_has_what_ls_prints(fleet: Fleet) -> None:
    fleet.files.tunnels = {"one": fleet.tunnel("one", labels={"site": "lyon"}, place="f.toml:3")}
    fleet.start()
    fleet.wait_state("one", "connected")
    address = fleet.gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
    with connect(address) as sock:
        assert echo(sock, b"x" * 100) == b"x" * 100
        found = fleet.row("one").to_json()
    assert list(found)[:12] == [
        "name",
        "mode",
        "state",
        "reason",
        "services",
        "labels",
        "streams",
        "connections",
        "sent_bytes",
        "received_bytes",
        "reconnects",
        "since",
    ]
    assert found["services"] == {"SSH": str(address)}
    assert (found["streams"], found["connections"]) == (1, 1)
    assert (found["sent_bytes"], found["received_bytes"]) == (100, 100)
    assert found["labels"] == {"site": "lyon"}
    assert (found["source"], found["place"]) == ("files", "f.toml:3")
    assert found["channel_id"]
    assert fleet.files.tunnels["one"].access_token not in json.dumps(found)


def test_what_has_ended_meanwhile_is_stopped() -> None:
    entry = Entry(wanted("a", services={"S": None}), RunPhase.RUNNING, "api", "why", 5.0)
    row = entry.row(TunnelRuntime())
    assert (row.state, row.reason, row.since) == ("stopped", "why", 5.0)
    assert row.services == {"S": "door"}
