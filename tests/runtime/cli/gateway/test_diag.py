"""`tunnelfleet diag`: what it gathers, what it says is missing, and that no token is in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.gateway import diag
from tunnelfleet.runtime.cli.gateway.diag import (
    Scrubber,
    _ask_all,
    _ask_metrics,
    _metrics_url,
    _process,
    _written,
    gather,
    known_secrets,
)
from tunnelfleet.runtime.gateway.api.address import GatewayRefused
from tunnelfleet.runtime.gateway.api.client import GatewayClient, GatewayEvent

TOKEN = "t0ken-" + "k" * 40


class Gate:
    """A gateway that refuses some questions."""

    def __init__(self, problems: list[dict[str, Any]] | None = None) -> None:
        self._problems = problems

    def gateway(self) -> dict[str, Any]:
        return {"name": "gw-1"}

    def tunnels(self) -> list[dict[str, Any]]:
        raise GatewayRefused(401, {"detail": "no token was sent"})

    def actors(self) -> list[dict[str, Any]]:
        raise TunnelError("the gateway takes too long")

    def reload(self, *, dry_run: bool) -> dict[str, Any]:
        assert dry_run
        if self._problems is None:
            raise GatewayRefused(503, {"detail": "a reload goes on"})
        raise GatewayRefused(422, {"detail": "wrong", "problems": self._problems})

    def events(self, *, recent: int, only_past: bool) -> list[GatewayEvent]:
        assert only_past
        return [GatewayEvent("7", "ready", {"event": "ready"})][:recent]


def asked(gate: Gate) -> tuple[dict[str, Any], dict[str, str]]:
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    _ask_all(cast("GatewayClient", gate), found, missing)
    return found, missing


def test_a_part_that_is_refused_leaves_the_others() -> None:
    found, missing = asked(Gate())
    assert found == {
        "gateway.json": {"name": "gw-1"},
        "events.json": [{"id": "7", "event": "ready"}],
    }
    assert set(missing) == {"tunnels.json", "actors.json", "reload.json"}
    assert "--gateway-token-file" in missing["tunnels.json"]
    assert missing["actors.json"] == "the gateway takes too long"
    assert missing["reload.json"] == "a reload goes on"


def test_what_is_wrong_with_the_files_is_a_part() -> None:
    found, missing = asked(Gate([{"file": "fleet.toml", "line": 3}]))
    assert found["reload.json"] == {"problems": [{"file": "fleet.toml", "line": 3}]}
    assert "reload.json" not in missing


def test_without_a_gateway_there_is_what_can_be_told(tmp_path: Path) -> None:
    parts, missing = gather(f"unix:{tmp_path}/none", None)
    assert set(missing) == {"gateway"}
    assert {"version.txt", "platform.json", "limits.json", "README.txt"} < set(parts)
    assert parts["missing.txt"].startswith("gateway: ")
    assert json.loads(parts["limits.json"])["RLIMIT_NOFILE"]


def test_the_address_of_the_metrics_is_that_which_was_told_last(tmp_path: Path) -> None:
    files = []
    for name, text in (
        ("unreadable.toml", "[gateway"),
        ("none.toml", "[[tunnel]]\nname = 'a'"),
        ("fleet.toml", "[gateway]\nmetrics = '127.0.0.1:9464'"),
    ):
        (tmp_path / name).write_text(text)
        files.append(str(tmp_path / name))
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    files = [str(tmp_path / "gone.toml"), str(tmp_path / "bytes.toml"), "/etc/passwd", *files]
    found: dict[str, Any] = {"gateway.json": {}}
    assert _metrics_url(found, []) is None
    assert _metrics_url(found, files) == "http://127.0.0.1:9464"
    found["events.json"] = [
        {"event": "metrics", "url": "http://old"},
        {"event": "metrics", "url": "http://new"},
        {"event": "metrics", "url": 7},
        {"event": "ready"},
    ]
    assert _metrics_url(found, files) == "http://new"
    found["gateway.json"]["metrics"] = "http://told"
    assert _metrics_url(found, files) == "http://told"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (None, "the gateway does not say where they are"),
        ("ftp://x", "is no address of a gateway"),
    ],
    ids=["untold", "wrong"],
)
def test_why_there_are_no_metrics(metrics: str | None, said: str) -> None:
    missing: dict[str, str] = {}
    found: dict[str, Any] = {"gateway.json": {"metrics": metrics}}
    _ask_metrics(found, [], missing)
    assert said in missing["metrics.txt"]
    assert "metrics.txt" not in found


def test_what_the_kernel_says_of_a_process() -> None:
    missing: dict[str, str] = {}
    found = _process(os.getpid(), missing)
    assert not missing
    assert "Max open files" in found["process-limits.txt"]
    assert found["process-files.txt"].endswith(" open files\n")
    assert _process("1; rm", missing) == {}
    # No process has this number.
    assert _process(2**30, missing) == {}
    assert missing == dict.fromkeys(
        ("process-limits.txt", "process-status.txt", "process-files.txt"),
        "No such file or directory",
    )


def test_the_secrets_of_files_are_known_wherever_they_stand(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        f"tunnel = [{{ access_token = '{TOKEN}-1' }}, 7]\n[defaults]\nclient_token = '{TOKEN}-2'\n"
    )
    (tmp_path / "token").write_text(f"{TOKEN}-3\n")
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")
    (tmp_path / "bytes").write_bytes(b"\xff" * 40)
    files = [str(tmp_path / name) for name in ("fleet.toml", "token", "cert.pem", "bytes", "none")]
    secrets = known_secrets(files)
    assert {f"{TOKEN}-{number}" for number in (1, 2, 3)} <= secrets
    assert not any("CERTIFICATE" in each for each in secrets)
    text = _written({"note": f"it had {TOKEN}-2 and {TOKEN}-3"}, Scrubber(secrets))
    assert TOKEN not in text


def test_a_part_that_is_too_long_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diag, "MAX_PART_CHARACTERS", 8)
    assert _written("a b c d e f", Scrubber()) == "a b c d \n... 11 characters in all\n"
    assert _written("a b c d", Scrubber()) == "a b c d\n"


def test_where_nothing_can_be_written_the_option_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "no" / "d.zip"
    assert main(["diag", "--gateway", "unix:/nowhere/admin.sock", "--out", str(place)]) == 2
    assert capsys.readouterr().err == (
        f"tunnelfleet: --out: cannot write {place}: No such file or directory; "
        "name a file in a folder that this user may write\n"
    )
