"""What commands say of a gateway's answers, and their exit status; the gateway is played."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.gateway import look, reach
from tunnelfleet.runtime.gateway.api.address import GatewayRefused
from tunnelfleet.runtime.gateway.api.client import FleetPage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROW: dict[str, Any] = {
    "name": "press-4",
    "mode": "source",
    "state": "connected",
    "reason": "",
    "services": {"SSH": "127.0.0.1:1022"},
    "labels": {},
    "streams": 0,
    "connections": 0,
    "sent_bytes": 0,
    "received_bytes": 0,
    "reconnects": 0,
    "since": 0.0,
    "source": "files",
    "endpoint": "",
    "place": "fleet.toml:3",
    "channel_id": "",
}
OPEN: dict[str, Any] = {
    "tunnel": "press-4",
    "service_id": "SSH",
    "stream_id": 1,
    "connection_id": 1,
    "peer": "192.0.2.9:40001",
    "user": "alice",
    "since": 0.0,
    "sent_bytes": 1,
    "received_bytes": 2,
}
NOT_FOUND = GatewayRefused(404, {"detail": "there is nothing of that name"})


class PlayedGateway:
    """Answers as a test says; a client of a gateway."""

    def __init__(self) -> None:
        self.rows = [ROW, {**ROW, "name": "press-5"}]
        self.open: list[dict[str, Any]] = [OPEN]
        self.records: list[dict[str, Any]] = []
        self.page = FleetPage([], [], None)
        self.refusal: GatewayRefused | None = None
        self.refused: frozenset[str] = frozenset()
        self.token = ""
        self.done: list[str] = ["press-4"]

    def _answer(self, name: str) -> None:
        if self.refusal is not None and (not self.refused or name in self.refused):
            raise self.refusal

    def tunnels(self, **_filters: Any) -> list[dict[str, Any]]:
        return self.rows

    def fleet(self, **_filters: Any) -> FleetPage:
        return self.page

    def tunnel(self, name: str) -> dict[str, Any]:
        self._answer(name if name in self.refused else "tunnel")
        return {**ROW, "name": name}

    def connections(self, _tunnel: str | None = None) -> list[dict[str, Any]]:
        self._answer("connections")
        return self.open

    def audit(self, **_query: Any) -> list[dict[str, Any]]:
        self._answer("audit")
        return self.records

    def remove(self, name: str) -> None:
        self._answer(name)

    def drain(self, _names: Sequence[str] | None) -> list[str]:
        self._answer("drain")
        return self.done

    def retry(self, _names: Sequence[str] | None) -> list[str]:
        self._answer("retry")
        return self.done

    def replace_token(self, name: str, token: str, _client_token: str | None) -> dict[str, Any]:
        self.token = token
        return {**ROW, "name": name}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> PlayedGateway:
    made = PlayedGateway()
    for module in (look, reach):
        monkeypatch.setattr(module, "gateway_at", lambda *_where: contextlib.nullcontext(made))
    return made


Said = pytest.CaptureFixture[str]


def test_pages_are_of_a_whole_fleet(gateway: PlayedGateway, capsys: Said) -> None:
    assert main(["ls", "--limit", "5"]) == 2
    assert "--limit and --after go with --fleet" in capsys.readouterr().err
    assert gateway.page.next is None


def test_a_page_of_a_fleet_says_how_to_go_on(gateway: PlayedGateway, capsys: Said) -> None:
    gateway.page = FleetPage([], [{**ROW, "gateway": "one"}], "press-4")
    assert main(["ls", "--fleet"]) == 0
    said = capsys.readouterr()
    assert "1 tunnel is shown, and there are more: " in said.err
    assert "--after press-4" in said.err
    assert "press-4" in said.out
    assert main(["ls", "--fleet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["next"], [each["name"] for each in found["tunnels"]]) == ("press-4", ["press-4"])


def test_a_fleet_without_such_tunnels(gateway: PlayedGateway, capsys: Said) -> None:
    assert main(["ls", "--fleet", "lathe-*"]) == 0
    assert "no tunnel is like that" in capsys.readouterr().err
    assert not gateway.page.tunnels


class TestNames:
    """Of several names, those that are there are shown, and one line tells the others."""

    ELSEWHERE = "'press-9': at another gateway, see tunnelfleet ls --fleet"

    @pytest.fixture(autouse=True)
    def only_two(self, gateway: PlayedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        gateway.refusal, gateway.refused = NOT_FOUND, frozenset({"a", "b"})
        row = {**ROW, "gateway": "one"}
        gateway.page = FleetPage([], [row], None)
        monkeypatch.setattr(
            gateway,
            "tunnels",
            lambda **chosen: [
                each
                for each in gateway.rows
                if not chosen.get("name") or each["name"] in chosen["name"]
            ],
        )

    @pytest.mark.parametrize("more", [(), ("--fleet",), ("--json",), ("--fleet", "--json")])
    def test_what_is_not_there_is_told_beside_what_is(
        self, capsys: Said, more: tuple[str, ...]
    ) -> None:
        assert main(["ls", "press-4", "b", "a", "b", *more]) == 1
        said = capsys.readouterr()
        assert "press-4" in said.out
        assert said.err == (
            "tunnelfleet: there are no tunnels 'b' and 'a' in this fleet; "
            "tunnelfleet ls shows what there is\n"
        )

    @pytest.mark.parametrize("more", [(), ("--fleet",), ("--state", "connected")])
    def test_nothing_is_there(
        self, gateway: PlayedGateway, capsys: Said, more: tuple[str, ...]
    ) -> None:
        gateway.page = FleetPage([], [], None)
        assert main(["ls", "b", *more]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("tunnelfleet: there is no tunnel 'b' in this fleet; ")
        assert said.err.count("\n") == 1

    def test_what_is_filtered_out_is_there(self, gateway: PlayedGateway, capsys: Said) -> None:
        gateway.rows = []
        assert main(["ls", "press-5", "--state", "refused"]) == 0
        assert capsys.readouterr().err == "no tunnel is like that\n"

    def test_another_gateway_has_it(
        self, gateway: PlayedGateway, capsys: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway, "tunnel", lambda name: {**ROW, "name": name, "gateway": "two"})
        assert main(["ls", "press-4", "press-9"]) == 1
        said = capsys.readouterr()
        assert "press-4" in said.out
        assert said.err == f"tunnelfleet: {self.ELSEWHERE}\n"
        assert main(["ls", "--fleet", "press-4", "press-9"]) == 0

    def test_many_names_are_one_line(self, gateway: PlayedGateway, capsys: Said) -> None:
        gateway.refused = frozenset(f"n{number}" for number in range(25))
        assert main(["ls", *sorted(gateway.refused)]) == 1
        assert " and 15 more in this fleet; " in capsys.readouterr().err


def test_one_tunnel_with_those_who_are_connected(gateway: PlayedGateway, capsys: Said) -> None:
    assert main(["show", "press-4"]) == 0
    assert "192.0.2.9:40001" in capsys.readouterr().out
    assert main(["show", "press-4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "press-4"
    # An older gateway has no list of them.
    gateway.refusal, gateway.refused = NOT_FOUND, frozenset({"connections"})
    assert main(["show", "press-4"]) == 0
    assert "press-4" in capsys.readouterr().out


def test_one_tunnel_that_is_not_there(gateway: PlayedGateway, capsys: Said) -> None:
    gateway.refusal = NOT_FOUND
    assert main(["show", "pres-4"]) == 1
    assert "did you mean press-4" in capsys.readouterr().err


def test_connections(gateway: PlayedGateway, capsys: Said) -> None:
    assert main(["connections"]) == 0
    assert "alice" in capsys.readouterr().out
    assert main(["connections", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [OPEN]
    gateway.open = []
    assert main(["connections"]) == 0
    assert "nobody is connected" in capsys.readouterr().err


class TestAudit:
    def test_nothing(self, gateway: PlayedGateway, capsys: Said) -> None:
        assert main(["audit", "--since", "1h"]) == 0
        assert "nothing is recorded" in capsys.readouterr().err
        assert main(["audit", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == gateway.records

    def test_no_such_kind(self, gateway: PlayedGateway, capsys: Said) -> None:
        assert main(["audit", "--kind", "dancing"]) == 2
        assert "--kind dancing: write one of " in capsys.readouterr().err
        assert gateway.records == []

    @pytest.mark.parametrize(
        ("status", "says"), [(404, "there is no audit: it is off"), (503, "it is off")]
    )
    def test_refused(self, gateway: PlayedGateway, capsys: Said, status: int, says: str) -> None:
        gateway.refusal = GatewayRefused(status, {"detail": "it is off"})
        assert main(["audit"]) == 1
        assert says in capsys.readouterr().err


class TestChanges:
    def test_some_that_cannot_be_removed(self, gateway: PlayedGateway, capsys: Said) -> None:
        """The others are, and the status is 1."""
        gateway.refusal = GatewayRefused(409, {"detail": "it is of a file"})
        gateway.refused = frozenset({"press-4"})
        assert main(["rm", "press-4", "press-5"]) == 1
        said = capsys.readouterr()
        assert "press-4: it is of a file" in said.err
        assert "removed press-5" in said.out
        assert main(["rm", "press-4", "press-5", "--json"]) == 1
        assert json.loads(capsys.readouterr().out) == {"removed": ["press-5"]}
        assert main(["rm", "press-4"]) == 1
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("command", "did", "nothing"),
        [("drain", "draining press-4", "no tunnel runs"), ("retry", "trying press-4", "none is")],
    )
    def test_several_at_once(
        self, gateway: PlayedGateway, capsys: Said, command: str, did: str, nothing: str
    ) -> None:
        assert main([command, "press-4"]) == 0
        assert did in capsys.readouterr().out
        assert main([command, "--all", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"tunnels": ["press-4"]}
        gateway.done = []
        assert main([command, "--all"]) == 0
        assert nothing in capsys.readouterr().err
        gateway.done = [f"press-{number}" for number in range(100)]
        assert main([command, "--all"]) == 0
        assert "100 tunnels: press-0, " in capsys.readouterr().out

    def test_names_or_all(self, gateway: PlayedGateway, capsys: Said) -> None:
        assert main(["drain"]) == 2
        assert "name the tunnels, or give --all" in capsys.readouterr().err
        assert main(["drain", "press-4", "--all"]) == 2
        assert "give names or --all, not both" in capsys.readouterr().err
        assert gateway.refusal is None

    def test_a_name_that_nobody_knows(self, gateway: PlayedGateway, capsys: Said) -> None:
        gateway.refusal = NOT_FOUND
        assert main(["retry", "press-4", "pres-5"]) == 1
        assert "no tunnel 'pres-5' in this fleet; did you mean press-5" in capsys.readouterr().err
        gateway.refusal = GatewayRefused(503, {"detail": "it is stopping"})
        assert main(["retry", "press-4"]) == 1
        assert "it is stopping" in capsys.readouterr().err


class TestTokens:
    def give(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TUNNELFLEET_ACCESS_TOKEN", raising=False)
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    def test_from_standard_input(
        self, gateway: PlayedGateway, capsys: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.give("secret-1\n", monkeypatch)
        assert main(["replace-token", "press-4"]) == 0
        assert gateway.token == "secret-1"
        assert "secret-1" not in "".join(capsys.readouterr())

    def test_from_a_variable(
        self, gateway: PlayedGateway, capsys: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PRESS", "secret-2")
        assert main(["replace-token", "press-4", "--token-env", "PRESS", "--json"]) == 0
        assert gateway.token == "secret-2"
        assert json.loads(capsys.readouterr().out)["name"] == "press-4"
        monkeypatch.delenv("PRESS")
        assert main(["replace-token", "press-4", "--token-env", "PRESS"]) == 2
        assert "the variable PRESS is not set, or empty" in capsys.readouterr().err

    def test_none(
        self, gateway: PlayedGateway, capsys: Said, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.give("\n", monkeypatch)
        assert main(["replace-token", "press-4"]) == 2
        assert "no token was given" in capsys.readouterr().err
        assert gateway.token == ""

    def test_two_ways_at_once(self, gateway: PlayedGateway, tmp_path: Path, capsys: Said) -> None:
        path = tmp_path / "token"
        assert main(["replace-token", "a", "--token-file", str(path), "--token-env", "B"]) == 2
        assert "give --token-file or --token-env, not both" in capsys.readouterr().err
        assert gateway.token == ""
