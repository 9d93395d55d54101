"""Routes of who is connected, and who was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.runtime.gateway.api.support import Client, Rig
from tunnelfleet.proto import TunnelError

if TYPE_CHECKING:
    from pathlib import Path

CONNECTION = {
    "tunnel": "a",
    "service_id": "SSH",
    "stream_id": 1,
    "connection_id": 1,
    "peer": "127.0.0.1:5",
    "user": "alice",
    "since": 1.5,
    "sent_bytes": 3,
    "received_bytes": 4,
}


class FakeAudit:
    """Answers what a test says, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.is_broken = False

    def audit(self, query: Any) -> list[dict[str, Any]]:
        if self.is_broken:
            raise TunnelError("the state cannot be reached")
        self.asked.append(query)
        return [{"id": 1, "tunnel": "a"}]


class TestConnections:
    def test_those_of_the_gateway(
        self, rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str | None] = []

        def connections(tunnel: str | None = None) -> list[dict[str, Any]]:
            asked.append(tunnel)
            return [CONNECTION]

        monkeypatch.setattr(rig.gateway, "connections", connections, raising=False)
        assert client.get("/v1/connections").json == {"connections": [CONNECTION]}
        client.get("/v1/connections?tunnel=a")
        assert asked == [None, "a"]

    def test_a_tunnel_given_twice(self, client: Client) -> None:
        client.get("/v1/connections?tunnel=a&tunnel=b").problem(400, "bad-request")


class TestAudit:
    def test_without_a_store(self, client: Client) -> None:
        found = client.get("/v1/audit").problem(404, "not-kept")
        assert "no state" in found["detail"]

    @pytest.mark.parametrize(
        ("query", "name", "value"),
        [
            ("", "limit", 100),
            ("limit=5", "limit", 5),
            ("tunnel=press-*", "tunnel", "press-*"),
            ("user=alice", "user", "alice"),
            ("kind=denied", "kind", "denied"),
            ("since=1700000000.5", "since", 1_700_000_000.5),
            ("since=2026-01-31T08:00:00Z", "since", 1_769_846_400.0),
            ("until=2026-01-31T08:00:00", "until", 1_769_846_400.0),
            ("until=2026-01-31T10:00:00%2B02:00", "until", 1_769_846_400.0),
            ("before=9223372036854775807", "before", 2**63 - 1),
        ],
    )
    def test_what_the_store_is_asked(
        self, tmp_path: Path, query: str, name: str, value: Any
    ) -> None:
        audit = FakeAudit()
        with Rig(tmp_path, store=audit) as rig:
            found = rig.client.get(f"/v1/audit?{query}")
            assert found.json == {"records": [{"id": 1, "tunnel": "a"}]}
            assert getattr(audit.asked[0], name) == value

    @pytest.mark.parametrize(
        "query",
        [
            *("limit=1001", "limit=-1", "limit=", "since=yesterday", "since=", "until=1e9"),
            *(
                "since=1&since=2",
                "kind=all",
                "what=a",
                "before=x",
                "since=99999-01-01",
                "since=nan",
            ),
        ],
    )
    def test_a_parameter_that_is_none(self, client: Client, query: str) -> None:
        client.get(f"/v1/audit?{query}").problem(400, "bad-request")

    def test_a_store_that_cannot_be_read(self, tmp_path: Path) -> None:
        audit = FakeAudit()
        audit.is_broken = True
        with Rig(tmp_path, store=audit) as rig:
            found = rig.client.get("/v1/audit").problem(503, "store-failed")
            assert "cannot be reached" in found["detail"]
