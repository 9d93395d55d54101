"""The admin API of a real `tunnelfleet up`, asked by curl and over bare sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway import up
from tests.support.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.programs("curl")]

ENTRY = {
    "name": "added",
    "mode": "destination",
    "endpoint": "ws://127.0.0.1:1",
    "access_token": "t" * 80,
    "services": {"SSH": "127.0.0.1:22"},
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(more: str = "") -> Path:
        path = tmp_path / "fleet.toml"
        path.write_text(f'[gateway]\nmetrics = "off"\n{more}')
        return path

    return write


def curl(url: str, path: str, *options: str) -> tuple[int, Any]:
    """Ask with curl; the status and what was answered."""
    if url.startswith("unix:"):
        options = ("--unix-socket", url.removeprefix("unix:"), *options)
        url = "http://gateway"
    run = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", *options, f"{url}{path}"],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    text, _, status = run.stdout.rpartition("\n")
    return int(status), json.loads(text) if text else None


def body(data: Any) -> tuple[str, ...]:
    return ("-H", "Content-Type: application/json", "-d", json.dumps(data))


def test_a_day_at_a_unix_socket(file: Callable[..., Path], state: Path) -> None:
    path = file()
    with up(path, state) as gateway:
        url = gateway.wait_event("admin")["url"]
        assert url == f"unix:{state}/admin.sock"
        assert curl(url, "/v1/tunnels") == (200, {"tunnels": []})
        assert curl(url, "/v1/tunnels", *body(ENTRY))[0] == 201
        assert gateway.wait_event("changed_by_api")["by"] == f"uid {os.getuid()}"
        assert curl(url, "/v1/gateway")[1]["pid"] == gateway.process.pid
        path.write_text(path.read_text() + '[[tunnel]]\nname = "x"\n')
        status, found = curl(url, "/v1/reload", "-X", "POST")
        assert (status, found["problems"][0]["file"]) == (422, str(path))
        assert curl(url, "/v1/tunnels/added", "-X", "DELETE")[0] == 204
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
    assert not (state / "admin.sock").exists()


def test_after_kill_its_socket_is_replaced_and_a_second_one_refused(
    file: Callable[..., Path], state: Path
) -> None:
    with up(file(), state) as first:
        first.wait_event("admin")
        first.signal(signal.SIGKILL)
        first.wait_end()
    assert (state / "admin.sock").exists()
    tunnel = (
        '[[tunnel]]\nname = "a"\nmode = "source"\nendpoint = "ws://127.0.0.1:1"\n'
        'access_token_env = "TOKEN"\n'
    )
    with up(file(tunnel), state, env={"TOKEN": "t" * 80}) as gateway:
        url = gateway.wait_event("admin")["url"]
        second = subprocess.run(
            [sys.executable, "-m", "tunnelfleet", "up", str(file(tunnel))],
            env={
                **os.environ,
                # With a state of its own: that of the first is locked, which is told before.
                "STATE_DIRECTORY": str(state / "second"),
                "RUNTIME_DIRECTORY": str(state),
                "TOKEN": "t" * 80,
            },
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS * 3,
            check=False,
        )
        assert second.returncode == 2
        assert "a gateway listens on" in second.stderr
        assert "Traceback" not in second.stderr
        # It has started none of the tunnels that the first one has.
        assert "cannot reach" not in second.stderr
        assert curl(url, "/v1/gateway")[1]["pid"] == gateway.process.pid


def test_at_a_tcp_address_with_a_token(
    file: Callable[..., Path], state: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("bearer-token\n")
    token.chmod(0o600)
    with up(file('admin = "127.0.0.1:0"\nadmin_token_file = "token"\n'), state) as gateway:
        url = gateway.wait_event("admin")["url"]
        assert curl(url, "/v1/tunnels")[0] == 401
        given = ("-H", "Authorization: Bearer bearer-token")
        assert curl(url, "/v1/tunnels", *given) == (200, {"tunnels": []})
        assert curl(url, "/v1/tunnels", *given, "-H", "Host: evil.example")[0] == 421


def guarded(folder: Path) -> tuple[Path, Path]:
    """A file with a token for both addresses of a gateway, and the gateway's file."""
    token, path = folder / "token", folder / "fleet.toml"
    token.write_text("token-1\n")
    token.chmod(0o600)
    path.write_text(
        '[gateway]\nadmin = "127.0.0.1:0"\nadmin_token_file = "token"\n'
        'metrics = "127.0.0.1:0"\nmetrics_token_file = "token"\n'
    )
    return token, path


def test_a_token_that_is_rotated_counts_from_the_reload_on(state: Path, tmp_path: Path) -> None:
    token, path = guarded(tmp_path)
    with up(path, state) as gateway:
        admin = gateway.wait_event("admin")["url"]
        pages = gateway.wait_event("metrics")["url"]

        def statuses() -> list[int]:
            sent = [("-H", f"Authorization: Bearer token-{number}") for number in (1, 2)]
            asked = [(admin, "/v1/gateway"), (pages, "/healthz")]
            nothing = ("-o", "/dev/null")
            return [curl(*each, *header, *nothing)[0] for each in asked for header in sent]

        assert statuses() == [200, 401, 200, 401]
        token.write_text("token-2\n")
        gateway.signal(signal.SIGHUP)
        gateway.wait_event("reloaded")
        eventually(lambda: statuses() == [401, 200, 401, 200])
        assert "at the next start" not in gateway.output


def test_what_was_opened_with_a_token_ends_when_another_one_counts(
    state: Path, tmp_path: Path
) -> None:
    token, path = guarded(tmp_path)
    with up(path, state) as gateway, contextlib.ExitStack() as stack:

        def follow(event: str, where: str) -> subprocess.Popen[str]:
            url = gateway.wait_event(event)["url"] + where
            given = ["-H", "Authorization: Bearer token-1"]
            reader = stack.enter_context(
                subprocess.Popen(["curl", "-sSN", *given, url], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(reader.kill)
            assert reader.stdout is not None
            assert any(line.startswith("event: ") for line in reader.stdout)
            return reader

        readers = [follow("admin", "/v1/events"), follow("metrics", "/status/events")]
        # With the same token nothing ends: the first of the two hears of it.
        gateway.signal(signal.SIGHUP)
        assert readers[0].stdout is not None
        assert any(line == "event: reloaded\n" for line in readers[0].stdout)
        token.write_text("token-2\n")
        gateway.signal(signal.SIGHUP)
        for reader in readers:
            assert reader.stdout is not None
            assert "event: reloaded\n" not in reader.stdout.readlines()
            assert reader.wait(WAIT_SECONDS) == 0
        gateway.wait_event("reloaded", 2)


def test_nowhere(file: Callable[..., Path], state: Path) -> None:
    with up(file('admin = "off"\n'), state) as gateway:
        gateway.wait_event("up")
        assert gateway.events("admin") == []
        assert not (state / "admin.sock").exists()


def test_events_are_the_log_s_whatever_its_level(file: Callable[..., Path], state: Path) -> None:
    with up(file(), state, "--log-level", "error") as gateway:
        url = f"unix:{state}/admin.sock"
        eventually(lambda: (state / "admin.sock").exists())
        reader = subprocess.Popen(
            ["curl", "-sSN", "--unix-socket", url[5:], "http://x/v1/events?recent=100"],
            stdout=subprocess.PIPE,
            text=True,
        )
        with reader:
            assert reader.stdout is not None
            curl(url, "/v1/tunnels", *body(ENTRY))
            assert any(line == "event: changed_by_api\n" for line in reader.stdout)
            data = json.loads(next(reader.stdout).removeprefix("data: "))
            assert (data["tunnel"], data["action"]) == ("added", "added")
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
            # The end of the gateway ends the stream in good order.
            assert reader.wait(WAIT_SECONDS) == 0
