"""The store over both databases: what is kept, what is told, and what a life leaves the next."""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.stores import (
    BASE,
    TOKEN,
    closing,
    entry,
    make_store,
    opened,
    opening,
)
from tests.support.waiting import eventually
from tunnelfleet.actors import events
from tunnelfleet.runtime.gateway.store import AuditQuery, StoreError, Trouble

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer


# -- tunnels


def test_tunnels_are_there_after_another_start(url: str) -> None:
    with opened(url) as store:
        store.save_tunnel("press-4", entry("press-4", labels={"site": "lyon"}))
        store.save_tunnel("press-5", entry("press-5", http_proxy="http://u:pw@proxy:3128"))
        store.save_tunnel("press-4", entry("press-4", labels={"site": "paris"}))
    with opened(url) as store:
        tunnels = store.load_tunnels()
        assert sorted(tunnels) == ["press-4", "press-5"]
        assert tunnels["press-4"].access_token == f"{TOKEN}-press-4"
        assert tunnels["press-4"].labels == {"site": "paris"}
        assert str(tunnels["press-5"].http_proxy).endswith("proxy:3128")
        assert store.forget_tunnel("press-4").was_there
        assert not store.forget_tunnel("press-4").was_there
    with opened(url) as store:
        assert sorted(store.load_tunnels()) == ["press-5"]


def test_no_secret_is_readable_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with opened(f"sqlite:///{path}") as store:
        store.save_tunnel("a", entry("a", client_token="c" * 40, http_proxy="http://u:pw@p:3128"))
    content = path.read_bytes()
    assert b"SSH" in content
    for secret in (TOKEN.encode(), b"c" * 40, b"u:pw"):
        assert secret not in content


def test_another_secret_is_told_of_each_tunnel_and_harms_no_other(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(url) as store:
        store.save_tunnel("old", entry("old"))
    with opened(url, secret=b"n" * 32) as store:
        store.save_tunnel("new", entry("new"))
        assert sorted(store.load_tunnels()) == ["new"]
        assert "another secret" in store.problems["old"]
        assert "client_token_secret_file" in store.problems["old"]
        (line,) = [each for each in caplog.records if getattr(each, "tunnel", "") == "old"]
        assert line.levelno == logging.ERROR
        store.save_tunnel("old", entry("old"))
        assert store.problems == {}
        assert sorted(store.load_tunnels()) == ["new", "old"]


def test_an_entry_that_cannot_be_used_harms_no_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    with opened(url) as store:
        store.save_tunnel("gone", entry("gone", endpoint="wss://h", ca="gone.pem"))
        store.save_tunnel("torn", entry("torn"))
        store.save_tunnel("moved", entry("moved"))
        store.save_tunnel("good", entry("good"))
        with sqlite3.connect(tmp_path / "state.db") as connection:
            table = "tunnelfleet_tunnels"
            connection.execute(f"UPDATE {table} SET entry = '{{' WHERE name = 'torn'")
            connection.execute(f"UPDATE {table} SET name = 'thief' WHERE name = 'moved'")
        connection.close()
        assert sorted(store.load_tunnels()) == ["good"]
        assert sorted(store.problems) == ["gone", "thief", "torn"]
        assert "belong to another tunnel" in store.problems["thief"]
        assert "gone.pem" in store.problems["gone"]


def test_gateways_in_one_database_have_tunnels_of_their_own(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(url) as one, opened(url, gateway="other") as other:
        one.save_tunnel("a", entry("a"))
        assert other.load_tunnels() == {}
        assert "1 tunnel of gateways with other names" in caplog.text
        other.save_tunnel("a", entry("a", labels={"of": "other"}))
        assert one.load_tunnels()["a"].labels == {}


# -- the audit


def test_a_connection_is_in_the_audit_while_it_is_open_and_after(url: str) -> None:
    with opened(url) as store:
        store.note(opening(1))
        (record,) = store.audit()
        assert record["ended_at"] is None
        assert (record["tunnel"], record["peer"], record["user"]) == (
            "press-4",
            "192.0.2.1:1001",
            "alice",
        )
        store.note(closing(1))
        (record,) = store.audit()
        assert record["kind"] == "connection"
        assert (record["service_id"], record["stream_id"], record["connection_id"]) == ("SSH", 1, 1)
        assert (record["opened_at"], record["channel_id"]) == (BASE + 1, "channel-1")
        assert abs(record["ended_at"] - time.time()) < 60
        assert (record["sent_bytes"], record["received_bytes"]) == (10, 20)
        assert (record["ended_by"], record["reason"]) == (
            "local",
            "closed by the local application",
        )
        assert record["gateway"] == "gw"


def test_streams_and_denials_are_in_it_too(url: str) -> None:
    with opened(url) as store:
        store.note(events.StreamOpened("press-4", "SSH", 1))
        store.note(opening(1))
        store.note(closing(1))
        store.note(events.StreamClosed("press-4", "SSH", 1, "peer_reset"))
        store.note_denied("press-4", "SSH", peer="192.0.2.9:1", user="mallory", reason="no rule")
        denied, connection, stream = store.audit()
        assert (denied["kind"], denied["user"], denied["reason"]) == (
            "denied",
            "mallory",
            "no rule",
        )
        assert connection["kind"] == "connection"
        assert (stream["kind"], stream["ended_by"], stream["sent_bytes"]) == ("stream", "peer", 10)


def test_what_a_killed_gateway_left_open_is_marked_by_the_next(url: str) -> None:
    killed = make_store(url)
    killed.open()
    killed.note(opening(1))
    try:
        assert killed.audit()
        with opened(url, gateway="other") as other:
            other.note(opening(2))
            assert [each["ended_by"] for each in other.audit()] == ["", ""]
        with opened(url) as store:
            mine = AuditQuery(gateway="gw")
            eventually(lambda: store.audit(mine)[0]["ended_by"] == "gateway_ended")
            assert store.audit(mine)[0]["ended_at"] is None
            assert store.audit(AuditQuery(gateway="other"))[0]["ended_by"] == ""
    finally:
        killed.close()


QUESTIONS = [
    (AuditQuery(), [5, 4, 3, 2, 1]),
    (AuditQuery(limit=2), [5, 4]),
    (AuditQuery(tunnel="press-4"), [1]),
    (AuditQuery(tunnel="press-*"), [4, 2, 1]),
    (AuditQuery(tunnel="Press-*"), [3]),
    (AuditQuery(tunnel="press_*"), [5]),
    (AuditQuery(tunnel="press[-]*"), []),
    (AuditQuery(tunnel="press?*"), []),
    (AuditQuery(user="bob"), [2]),
    (AuditQuery(since=BASE + 3), [5, 4, 3]),
    (AuditQuery(until=BASE + 3), [2, 1]),
    (AuditQuery(kind="stream"), []),
    (AuditQuery(gateway="other"), []),
]


def test_the_audit_is_asked(url: str) -> None:
    tunnels = ["press-4", "press-5", "Press-6", "press-%", "press_7"]
    with opened(url) as store:
        for number, tunnel in enumerate(tunnels, 1):
            user = "bob" if number == 2 else "alice"
            store.note(opening(number, tunnel, user=user))
        for query, numbers in QUESTIONS:
            assert [each["connection_id"] for each in store.audit(query)] == numbers, query


def test_pages_of_the_audit(url: str) -> None:
    with opened(url) as store:
        for number in range(1, 6):
            store.note(opening(number))
        first = store.audit(AuditQuery(limit=3))
        second = store.audit(AuditQuery(limit=3, before=first[-1]["id"]))
        found = [each["connection_id"] for each in (*first, *second)]
        assert found == [5, 4, 3, 2, 1]


def test_text_of_others_is_made_printable_and_bounded(url: str) -> None:
    with opened(url) as store:
        store.note(opening(1, user="a\x00b\x1b[31m\ud800" + "x" * 5_000))
        (record,) = store.audit()
        assert record["user"].isprintable()
        assert len(record["user"]) <= 200


def test_the_audit_is_bounded_in_rows_and_age(url: str) -> None:
    now = time.time()
    with opened(url, gateway="other") as other:
        other.note(opening(1, opened_at=now))
        other.note(opening(2, opened_at=now - 3 * 86_400))
        assert len(other.audit()) == 2
    with opened(url, audit_rows=100) as store:
        for number in range(1, 301):
            store.note(opening(number, opened_at=now))
        assert store.audit(AuditQuery(gateway="gw", limit=1))
    with opened(url, audit_rows=100, audit_days=2) as store:
        eventually(lambda: len(store.audit(AuditQuery(limit=1_000))) == 101)
        found = store.audit(AuditQuery(gateway="gw", limit=1_000))
        assert [each["connection_id"] for each in found] == list(range(300, 200, -1))


def test_no_rows_is_no_audit(url: str) -> None:
    with opened(url) as store:
        store.note(opening(1))
        assert store.audit()
    with opened(url, audit_rows=0) as store:
        store.note(opening(2))
        store.note_denied("a", "SSH", peer="", user="", reason="no")
        eventually(lambda: store.audit() == [])


# -- not reached


def test_what_is_not_open_says_so(tmp_path: Path) -> None:
    store = make_store(f"sqlite:///{tmp_path / 'state.db'}")
    with pytest.raises(StoreError, match="has not been reached") as caught:
        store.save_tunnel("a", entry("a"))
    assert caught.value.trouble is Trouble.NOT_READ
    assert store.load_tunnels() == {}
    store.close()


def test_a_server_that_comes_late_is_taken_up(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.url(postgres.new_database())
    with opened(url) as store:
        store.save_tunnel("kept", entry("kept"))
    late: list[list[str]] = []
    postgres.stop()
    try:
        store = make_store(url)
        store.open(lambda tunnels: late.append(sorted(tunnels)))
        store.note(opening(1))
        assert "goes on without it" in caplog.text
        with pytest.raises(StoreError, match="has not been reached"):
            store.save_tunnel("a", entry("a"))
    finally:
        postgres.start()
    try:
        eventually(lambda: store.is_ready)
        assert late == [["kept"]]
        eventually(lambda: len(store.audit()) == 1)
        store.save_tunnel("a", entry("a"))
    finally:
        store.close()


def test_a_server_that_goes_away_and_comes_back(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(postgres.url(postgres.new_database())) as store:
        store.note(opening(1))
        assert store.audit()
        postgres.stop()
        try:
            with pytest.raises(StoreError):
                store.save_tunnel("a", entry("a"))
            store.note(closing(1))
            store.note(opening(2))
            eventually(lambda: "the audit has stopped" in caplog.text)
        finally:
            postgres.start()
        eventually(lambda: "the audit goes on" in caplog.text)
        assert [each["ended_by"] for each in store.audit()] == ["", "local"]
        store.save_tunnel("a", entry("a"))
        assert caplog.text.count("the audit has stopped") == 1
