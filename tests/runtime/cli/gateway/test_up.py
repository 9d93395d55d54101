"""What `up` does before it runs; with real processes it is in tests/e2e/test_gateway.py."""

from __future__ import annotations

import io
import json
import queue
import resource
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import crash
from tests.support.fleet import Fleet
from tests.support.rig import connect, echo
from tests.support.stores import opened
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.errors import EXIT_FAILURE, EXIT_OK
from tunnelfleet.runtime.cli.gateway import up
from tunnelfleet.runtime.cli.gateway.up import _Foreground, _note_denied
from tunnelfleet.runtime.gateway import Gateway, Reload
from tunnelfleet.runtime.gateway.door.hall import Denied
from tunnelfleet.runtime.gateway.log import GatewayLog
from tunnelfleet.runtime.gateway.process import ServiceManager
from tunnelfleet.runtime.gateway.store.audit import AuditQuery
from tunnelfleet.runtime.gateway.supervisor import FLEET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_level_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(tmp_path), "--log-level", "loud"]) == 2
    assert "write one of debug, info" in capsys.readouterr().err


def test_a_fleet_that_does_not_fit_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.toml"
    path.touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (10, 10))
    assert main(["up", str(path)]) == 2
    assert "LimitNOFILE" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_an_address_that_is_taken_is_told_and_all_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = tmp_path / "f.toml"
        path.write_text(f'[gateway]\nmetrics = "127.0.0.1:{taken.getsockname()[1]}"\n')
        # Not 2: a service manager starts it again, for the address may be free in a moment.
        assert main(["up", str(path)]) == 1
    assert "choose another address" in capsys.readouterr().err


def test_it_ends_as_failed_when_the_root_of_its_actors_has_failed(tmp_path: Path) -> None:
    """Nothing would run any more; whoever runs the process starts it again."""
    with Fleet(tmp_path / "state") as fleet:
        gateway = fleet.start()
        assert not gateway.has_failed
        crash(gateway.supervisor)
        with GatewayLog(io.StringIO(), as_json=True) as log:
            foreground = _Foreground(
                gateway, queue.SimpleQueue(), log, ServiceManager({}), as_json=True
            )
            assert foreground.run() == EXIT_FAILURE
        assert gateway.counts() == (0, 0)


class Running:
    """A gateway in this process that follows the signals which a test gives it."""

    def __init__(self, gateway: Gateway, *, as_json: bool = False) -> None:
        self.gateway = gateway
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stream = io.StringIO()
        self._as_json = as_json

    def run(self, *signals: signal.Signals) -> int:
        """Follow the gateway until its end; return the exit status."""
        for each in signals:
            self.inbox.put(each)
        with GatewayLog(self._stream, as_json=self._as_json) as log:
            foreground = _Foreground(
                self.gateway, self.inbox, log, ServiceManager({}), as_json=self._as_json
            )
            return foreground.run()

    @property
    def lines(self) -> list[str]:
        """What was written."""
        return self._stream.getvalue().splitlines()

    def says(self, text: str) -> bool:
        """Whether the log says it."""
        return any(text in line for line in self.lines)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Fleet(tmp_path / "state") as fleet:
        yield fleet.start()


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_the_tree_of_actors_is_written_on_a_signal(gateway: Gateway, as_json: bool) -> None:
    running = Running(gateway, as_json=as_json)
    assert running.run(signal.SIGUSR2, signal.SIGTERM) == EXIT_OK
    tree = json.loads(running.lines[0])["tree"] if as_json else running.lines
    assert any("FleetActor" in line for line in tree)
    assert len(tree) > 3


def test_a_second_signal_cuts_what_is_open(gateway: Gateway) -> None:
    running = Running(gateway)
    assert running.run(signal.SIGTERM, signal.SIGTERM) == EXIT_FAILURE
    assert running.says("a second signal: what is open is cut")
    assert gateway.counts() == (0, 0)


def test_a_fleet_that_cannot_be_drained_ends_as_failed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its actor fails at that moment: what is open is cut, and the exit status says so."""

    def leave() -> Any:
        raise TunnelError("it has failed at it")

    monkeypatch.setattr(gateway, "leave", leave)
    running = Running(gateway)
    assert running.run(signal.SIGTERM) == EXIT_FAILURE
    assert running.says("the fleet could not be drained: it has failed at it")
    assert gateway.counts() == (0, 0)


def test_whose_connections_had_no_time_to_end_is_told(tmp_path: Path) -> None:
    with Fleet(tmp_path / "state") as fleet:
        fleet.files.tunnels["a"] = fleet.tunnel("a")
        fleet.files.settings = replace(fleet.files.settings, drain_seconds=0.05)
        gateway = fleet.start()
        eventually(lambda: gateway.counts() == (1, 1))
        address = gateway.runtime.tunnel("a").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as client:
            echo(client, b"hello")
            running = Running(gateway)
            assert running.run(signal.SIGTERM) == EXIT_FAILURE
    assert running.says("its connections are cut: their time is over")


class DeadOnce(dict[str, Any]):
    """Where the actors are; who looks for the fleet finds the one that has just failed, once."""

    def get(self, key: str, default: Any = None) -> Any:
        """The fleet is dead and not yet replaced; after that, as a dictionary."""
        if key == FLEET and "dead" in self:
            return self.pop("dead")
        return super().get(key, default)


@pytest.mark.parametrize("when", ["before it is asked", "while it drains"])
def test_a_fleet_that_fails_drains_as_ever_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    with Fleet(tmp_path / "state") as fleet, ThreadPoolExecutor(1) as thread:
        fleet.files.tunnels["a"] = fleet.tunnel("a")
        gateway = fleet.start()
        eventually(lambda: gateway.counts() == (1, 1))
        address = gateway.runtime.tunnel("a").wait_listening("SSH", WAIT_SECONDS)
        first = gateway.refs.by_id[FLEET]
        running = Running(gateway)
        with connect(address) as client:
            assert echo(client, b"before") == b"before"
            if when == "before it is asked":
                crash(first)
                eventually(lambda: gateway.refs.by_id[FLEET] is not first)
                found = DeadOnce(gateway.refs.by_id, dead=first)
                monkeypatch.setattr(gateway.refs, "by_id", found)
            status = thread.submit(running.run, signal.SIGTERM)
            eventually(lambda: gateway.state.is_leaving)
            if when == "while it drains":
                crash(first)
                eventually(lambda: gateway.refs.by_id[FLEET] is not first)
            assert echo(client, b"meanwhile") == b"meanwhile"
            assert not status.done()
        assert status.result(WAIT_SECONDS) == EXIT_OK
    assert not running.says("could not be drained")


def test_a_reload_waits_for_an_actor_that_is_being_started_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "TICK_SECONDS", 0.01)
    running = Running(gateway)
    told: list[Any] = []

    def tell(message: Any) -> bool:
        told.append(message)
        if len(told) == 3:
            running.inbox.put(signal.SIGTERM)
        return len(told) == 3

    monkeypatch.setattr(gateway, "tell", tell)
    assert running.run(signal.SIGHUP) == EXIT_OK
    assert told == [Reload()] * 3


def test_whoever_a_door_turns_away_is_in_the_audit(tmp_path: Path) -> None:
    denied = Denied(time.time(), "127.0.0.1:1", "al", "press-4:SSH", "rule", "no rule lets al in")
    with opened(f"sqlite:///{tmp_path / 'state.db'}") as store:
        _note_denied(store, denied)
        eventually(lambda: len(store.audit(AuditQuery(kind="denied"))) == 1)
        (row,) = store.audit(AuditQuery(kind="denied"))
    assert (row["tunnel"], row["service_id"], row["user"]) == ("press-4", "SSH", "al")
    assert row["reason"] == "no rule lets al in"
