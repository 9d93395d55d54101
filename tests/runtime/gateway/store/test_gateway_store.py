"""A whole gateway with a store: tunnels of another life, the audit of real connections."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.support.rig import connect, echo
from tests.support.stores import SECRET, entry, make_store, opened
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import WhichChildren, kill
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway import API, Gateway, PutWanted, RemoveWanted
from tunnelfleet.runtime.gateway.store import Store
from tunnelfleet.runtime.gateway.store.writer import STORE_METRICS
from tunnelfleet.runtime.gateway.supervisor import FLEET, PLACEMENT, RUNTIME, STORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fleet import Fleet
    from tests.support.postgres import PostgresServer


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


def open_gateway(fleet: Fleet, store: Store) -> Gateway:
    return Gateway(fleet.files, store=store)


@pytest.fixture
def gateway(fleet: Fleet, sqlite: str) -> Iterator[Gateway]:
    """With one tunnel, `one`, connected."""
    fleet.files.tunnels = {"one": fleet.tunnel("one")}
    with open_gateway(fleet, make_store(sqlite)) as running:
        eventually(lambda: running.is_settled)
        yield running


def store_of(gateway: Gateway) -> Store:
    assert gateway.store is not None
    return gateway.store


def records(gateway: Gateway, kind: str = "connection") -> list[dict[str, Any]]:
    return [each for each in store_of(gateway).audit() if each["kind"] == kind]


def entry_of(fleet: Fleet, name: str) -> dict[str, Any]:
    """The entry of a source that is opened at the service."""
    tunnel = fleet.tunnel(name)
    return entry(
        name,
        mode="source",
        endpoint=fleet.service.endpoint,
        access_token=tunnel.access_token,
        services={"SSH": "127.0.0.1:0"},
    )


def test_a_stored_tunnel_runs_after_the_start(fleet: Fleet, sqlite: str) -> None:
    with opened(sqlite) as store:
        store.save_tunnel("stored", entry_of(fleet, "stored"))
    with open_gateway(fleet, make_store(sqlite)) as gateway:
        eventually(lambda: "stored" in gateway.state.running and gateway.is_settled)
        assert gateway.state.source_of("stored") == API
        (row,) = gateway.snapshot().rows(gateway.runtime)
        assert (row.name, row.state, row.source, row.place) == (
            "stored",
            "connected",
            "api",
            "state",
        )


def test_what_the_api_adds_and_removes_is_so_after_the_next_start(
    fleet: Fleet, sqlite: str
) -> None:
    wanted = fleet.tunnel("added")
    with open_gateway(fleet, make_store(sqlite)) as gateway:
        store_of(gateway).save_tunnel("added", {**entry("added"), "mode": "destination"})
        gateway.ask(PutWanted(API, wanted))
        store_of(gateway).save_tunnel("gone", entry("gone"))
        store_of(gateway).forget_tunnel("gone")
    with open_gateway(fleet, make_store(sqlite)) as gateway:
        assert list(gateway.state.sources[API]) == ["added"]
        store_of(gateway).forget_tunnel("added")
        gateway.ask(RemoveWanted(API, "added"))
    with open_gateway(fleet, make_store(sqlite)) as gateway:
        assert gateway.state.sources[API] == {}


def test_a_connection_is_seen_live_and_is_in_the_audit(gateway: Gateway) -> None:
    address = gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
    assert gateway.connections() == []
    with connect(address) as sock:
        assert echo(sock, b"x" * 100_000) == b"x" * 100_000
        eventually(lambda: [r["sent_bytes"] for r in gateway.connections()] == [100_000])
        (row,) = gateway.connections("one")
        host, port = sock.getsockname()
        assert row["peer"] == f"{host}:{port}"
        assert (row["tunnel"], row["service_id"], row["received_bytes"]) == (
            "one",
            "SSH",
            100_000,
        )
        assert gateway.connections("nobody") == []
        assert gateway.connections(limit=0) == []
        (record,) = records(gateway)
        assert (record["peer"], record["ended_at"]) == (row["peer"], None)
    eventually(lambda: gateway.connections() == [])
    eventually(lambda: records(gateway)[0]["ended_by"] == "local")
    (record,) = records(gateway)
    assert (record["sent_bytes"], record["received_bytes"]) == (100_000, 100_000)
    assert record["ended_at"] >= record["opened_at"] == pytest.approx(row["since"], abs=0.001)
    assert record["channel_id"] == gateway.runtime.tunnel("one").status().channel_id
    (stream,) = records(gateway, "stream")
    assert stream["service_id"] == "SSH"


def test_what_a_stop_cuts_is_in_the_audit(gateway: Gateway, sqlite: str) -> None:
    address = gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
    with connect(address) as sock:
        assert echo(sock, b"x" * 10) == b"x" * 10
        gateway.stop()
    with opened(sqlite) as store:
        (record,) = [each for each in store.audit() if each["kind"] == "connection"]
        assert record["ended_by"] == "local"
        assert record["sent_bytes"] == 10
        assert record["ended_at"] is not None


def test_the_audit_goes_on_after_failures_of_its_actor_and_of_the_core(gateway: Gateway) -> None:
    def connect_once() -> None:
        address = gateway.runtime.tunnel("one").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"abc") == b"abc"

    connect_once()
    eventually(lambda: [r["ended_by"] for r in records(gateway)] == ["local"])
    for child in (STORE, RUNTIME):
        before = gateway.refs.by_id[child]
        kill(before)
        eventually(lambda: gateway.refs.by_id[child] is not before)  # noqa: B023 - called at once
        eventually(lambda: gateway.is_settled)
        count = len(records(gateway))

        def is_told(count: int = count) -> bool:
            # Its listener may be on its way back still.
            with contextlib.suppress(OSError, AssertionError):
                connect_once()
            return len(records(gateway)) > count

        eventually(is_told)


def test_it_is_the_first_child_so_that_it_hears_the_last_ends(gateway: Gateway) -> None:
    children = gateway.supervisor.ask(WhichChildren())
    assert [child.id for child in children] == [STORE, RUNTIME, PLACEMENT, FLEET]


def test_its_metrics_are_the_gateway_s(gateway: Gateway) -> None:
    registry = CollectorRegistry()
    registry.register(gateway.collector)
    store_of(gateway).note_denied("one", "SSH", peer="p", user="u", reason="no rule")
    assert store_of(gateway).audit()
    page = generate_latest(registry).decode()
    assert "tunnelfleet_store_ready 1.0" in page
    assert 'tunnelfleet_store_errors_total{operation="tunnels"} 0.0' in page
    assert "tunnelfleet_audit_records_total 1.0" in page
    assert "tunnelfleet_audit_dropped_total 0.0" in page
    assert "tunnelfleet_audit_stopped 0.0" in page


def test_all_its_metrics_are_in_the_guide(gateway: Gateway) -> None:
    guide = (Path(__file__).parents[4] / "docs" / "gateway.md").read_text()
    families = list(store_of(gateway).collect())
    assert {family.name for family in families} == STORE_METRICS
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"| `{name}` |" in guide


def test_a_state_that_cannot_be_used_starts_nothing(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("no database " * 100)
    gateway = open_gateway(fleet, make_store(f"sqlite:///{tmp_path / 'state.db'}"))
    with pytest.raises(ConfigError, match="damaged or no database"):
        gateway.start()
    assert gateway.refs.by_id == {}


def test_a_server_that_is_down_holds_up_no_tunnel_of_the_files(
    fleet: Fleet, postgres: PostgresServer
) -> None:
    url = postgres.url(postgres.new_database())
    with opened(url) as store:
        store.save_tunnel("stored", entry_of(fleet, "stored"))
    fleet.files.tunnels = {"one": fleet.tunnel("one")}
    postgres.stop()
    try:
        gateway = open_gateway(fleet, make_store(url)).start()
        eventually(lambda: gateway.is_settled)
        assert [each.tunnel.name for each in gateway.snapshot().entries] == ["one"]
    finally:
        postgres.start()
    try:
        eventually(
            lambda: (
                "stored" in gateway.state.running
                and gateway.is_settled
                and store_of(gateway).is_ready
            )
        )
    finally:
        gateway.stop()


def test_the_secret_is_the_deployment_s(fleet: Fleet, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    url = f"sqlite:///{tmp_path / 'state.db'}"
    settings = replace(
        fleet.files.settings, client_token_secret_file=secret, state=url, audit_rows=5
    )
    with opened(url) as store:
        store.save_tunnel("a", entry("a"))
    again = Store.of(settings)
    again.open()
    try:
        assert list(again.load_tunnels()) == ["a"]
    finally:
        again.close()
