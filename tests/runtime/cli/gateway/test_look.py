from __future__ import annotations

from tunnelfleet.runtime.cli.gateway.look import audit_table, connection_table
from tunnelfleet.runtime.cli.gateway.screen import plain

NOW = 1_700_000_000.0


def test_open_connections_are_shown_the_oldest_first() -> None:
    first = {
        "tunnel": "press-1",
        "service_id": "SSH",
        "stream_id": 7,
        "connection_id": 1,
        "peer": "127.0.0.1:40001",
        "user": "alice",
        "since": NOW - 90,
        "sent_bytes": 1_500,
        "received_bytes": 2_000_000,
    }
    second = {**first, "connection_id": 2, "since": NOW - 3, "user": ""}
    head, one, two = [plain(line) for line in connection_table([second, first], None, NOW)]
    assert head.split() == [
        "TUNNEL",
        "SERVICE",
        "FROM",
        "USER",
        "AGE",
        "SENT",
        "RECEIVED",
        "STREAM",
        "ID",
    ]
    assert one.split() == (
        ["press-1", "SSH", "127.0.0.1:40001", "alice", "1m30s", "1.5", "kB", "2.0", "MB", "7", "1"]
    )
    assert two.endswith("2")
    narrow = [plain(line) for line in connection_table([first], 60, NOW)]
    assert all(len(line) <= 60 for line in narrow)
    assert "127.0.0.1:40001" in narrow[1]


def test_records_say_how_long_and_why() -> None:
    ended = {
        "kind": "connection",
        "tunnel": "press-1",
        "service_id": "SSH",
        "peer": "127.0.0.1:40001",
        "user": "alice",
        "opened_at": NOW - 7_200,
        "ended_at": NOW - 7_100,
        "sent_bytes": 10,
        "received_bytes": 20,
        "ended_by": "peer",
        "reason": "",
    }
    still = {**ended, "ended_at": None, "ended_by": "", "sent_bytes": 0, "received_bytes": 0}
    unseen = {**still, "ended_by": "gateway_ended"}
    denied = {"kind": "denied", "tunnel": "press-2", "reason": "no rule lets bob in"}
    lines = [plain(line) for line in audit_table([ended, still, denied, unseen], None, NOW)]
    assert lines[1].split()[:3] == ["2h", "ago", "connection"]
    assert "1m40s" in lines[1]
    assert lines[1].endswith("peer")
    assert lines[2].split()[-2:] == ["alice", "open"]
    assert " B" not in lines[2], "nobody has counted them yet"
    assert lines[4].split()[-2:] == ["alice", "gateway_ended"]
    assert lines[3].endswith("no rule lets bob in")
    assert all(len(plain(line)) <= 80 for line in audit_table([ended, denied], 80, NOW))
