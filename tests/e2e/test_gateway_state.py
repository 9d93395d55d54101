"""The state of a gateway with real processes: kill -9, a full disk, a role that owns no table."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.commands import PROGRAM
from tests.support.gateway import GatewayRig, UpProcess
from tests.support.postgres import PostgresServer
from tests.support.programs import run_program as run
from tests.support.rig import connect, echo
from tests.support.waiting import eventually
from tunnelfleet.runtime.gateway.config import ensure_secret
from tunnelfleet.runtime.gateway.store import AuditQuery, Store
from tunnelfleet.runtime.gateway.store.migrations import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime import TcpAddress


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GatewayRig]:
    with GatewayRig(tmp_path, gateway='name = "gw"') as running:
        yield running


@pytest.fixture
def echo_target(rig: GatewayRig) -> TcpAddress:
    return rig.echo_address()


@contextlib.contextmanager
def state_of(tmp_path: Path, url: str = "") -> Iterator[Store]:
    """The state of the gateway, opened by the test."""
    folder = tmp_path / "state"
    secret, _warning = ensure_secret(None, folder)
    store = Store(url or f"sqlite:///{folder / 'state.db'}", gateway="gw", secret=secret)
    store.open()
    try:
        yield store
    finally:
        store.close()


def add_at_run_time(rig: GatewayRig, store: Store, name: str, target: TcpAddress) -> None:
    """Put a tunnel where the API puts those that it is given, and not into the files."""
    entry = rig.add(name, target)
    del rig.entries[name]
    store.save_tunnel(
        name,
        {
            "name": name,
            "mode": "source",
            "endpoint": rig.rig.service.endpoint,
            "ca": str(rig.rig.service.ca_path),
            "access_token": entry.token,
            "services": {"SSH": "127.0.0.1:0"},
            "restart": {"min_seconds": 0.05, "max_seconds": 0.5},
        },
    )


def connections(store: Store) -> list[dict[str, Any]]:
    return store.audit(AuditQuery(kind="connection", limit=1_000))


def connected(gateway: UpProcess, *names: str) -> None:
    for name in names:
        gateway.wait_event("tunnel_state_changed", tunnel=name, state="connected")


def test_after_kill_9_the_same_tunnels_with_the_same_tokens(
    rig: GatewayRig, tmp_path: Path, echo_target: TcpAddress
) -> None:
    with state_of(tmp_path) as store:
        for name in ("added-1", "added-2"):
            add_at_run_time(rig, store, name, echo_target)
    rig.add("of-the-files", echo_target)
    names = ("added-1", "added-2", "of-the-files")
    with rig.up() as gateway:
        connected(gateway, *names)
        with connect(gateway.listening("added-1")) as sock:
            assert echo(sock, b"x" * 5_000) == b"x" * 5_000
            with state_of(tmp_path) as store:
                eventually(lambda: len(connections(store)) == 1, "the audit has it")
            gateway.process.kill()
            gateway.wait_end()
    with rig.up() as gateway:
        # The service takes an access token again only with the client token of its first use.
        connected(gateway, *names)
        assert not gateway.events("tunnel_state_changed", state="refused")
        with state_of(tmp_path) as store:
            eventually(
                lambda: [r["ended_by"] for r in connections(store)] == ["gateway_ended"],
                "the next life marks what the last one left open",
            )
        with connect(gateway.listening("added-2")) as sock:
            assert echo(sock, b"y" * 3_000) == b"y" * 3_000
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
    with state_of(tmp_path) as store:
        newest, _killed = connections(store)
    assert (newest["tunnel"], newest["sent_bytes"], newest["received_bytes"]) == (
        "added-2",
        3_000,
        3_000,
    )
    assert newest["peer"].startswith("127.0.0.1:")


def test_a_full_disk_stops_the_audit_and_harms_no_tunnel(
    rig: GatewayRig, tmp_path: Path, echo_target: TcpAddress
) -> None:
    rig.add("one", echo_target)
    with rig.up() as gateway:
        connected(gateway, "one")
        address = gateway.listening("one")
        with connect(address) as lasting:
            assert echo(lasting, b"a" * 1_000) == b"a" * 1_000
            pid = gateway.process.pid
            soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (4_096, hard))
            eventually(lambda: stops(gateway, address), "the audit stops")
            assert "tunnelfleet_audit_stopped 1.0" in gateway.get("/metrics")
            assert echo(lasting, b"b" * 50_000) == b"b" * 50_000
            with connect(address) as sock:
                assert echo(sock, b"c" * 50_000) == b"c" * 50_000
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
            gateway.wait_event("audit_resumed")
        assert len(gateway.events("audit_stopped")) == 1
        assert not gateway.events("tunnel_state_changed", state="backoff")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
    with state_of(tmp_path) as store:
        sums = {record["sent_bytes"] for record in connections(store)}
    assert {51_000, 50_000} <= sums, "what waited was written when there was room"


def stops(gateway: UpProcess, address: TcpAddress) -> bool:
    """Connect once more, and look whether the audit has stopped."""
    with connect(address) as sock:
        echo(sock, b"x")
    return bool(gateway.events("audit_stopped"))


def test_an_owner_migrates_and_the_gateway_reads_and_writes(
    rig: GatewayRig, tmp_path: Path, echo_target: TcpAddress
) -> None:
    with PostgresServer.running() as server:
        name = server.new_database()
        url = server.url(name, "gateway")
        rig.gateway += f'\nstate = "{url}"'
        rig.add("one", echo_target)
        with rig.up() as gateway:
            assert gateway.wait_end() == 2
            assert "tunnelfleet migrate --state URL --grant ROLE" in gateway.output
            assert "Traceback" not in gateway.output
        owner = server.url(name)
        done = run([*PROGRAM, "migrate", "--state", owner, "--grant", "gateway", "--json"])
        told = json.loads(done.stdout)
        numbers = [each.number for each in MIGRATIONS]
        assert (told["version"], told["applied"]) == (numbers[-1], numbers)
        assert told["granted"] == "gateway"
        with rig.up() as gateway:
            connected(gateway, "one")
            with connect(gateway.listening("one")) as sock:
                assert echo(sock, b"x" * 700) == b"x" * 700
            server.stop()
            try:
                with connect(gateway.listening("one")) as sock:
                    assert echo(sock, b"y" * 900) == b"y" * 900
                gateway.wait_event("audit_stopped")
            finally:
                server.start()
            gateway.wait_event("audit_resumed")
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
        with state_of(tmp_path, url) as store:
            assert [each["sent_bytes"] for each in connections(store)] == [900, 700]


def test_a_state_that_is_no_database_is_one_line_and_status_2(
    rig: GatewayRig, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_text("x" * 5_000)
    with rig.up() as gateway:
        assert gateway.wait_end() == 2
    lines = [line for line in gateway.output.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert lines[0].startswith("tunnelfleet: the state at sqlite:///")
    assert "damaged or no database" in lines[0]
