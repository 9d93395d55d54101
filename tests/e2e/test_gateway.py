"""The gateway's whole story with real processes: edit, crash, stop, and who must not notice."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.commands import PROGRAM, Command
from tests.support.content import blocks, digest
from tests.support.gateway import WAIT_SECONDS, GatewayRig, UpProcess, seen_in_time, up
from tests.support.programs import Sshd, require_program, run_program
from tests.support.rig import connect, echo, receive_exactly
from tests.support.sockets import free_port
from tests.support.transfer import Transfer
from tests.support.waiting import eventually
from tunnelfleet.runtime import Mode, TcpAddress
from tunnelfleet.runtime.service.events import ServiceEventKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TUNNELS = 50
CHANGED = 5


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GatewayRig]:
    with GatewayRig(tmp_path) as running:
        yield running


def connects(rig: GatewayRig, names: list[str]) -> int:
    """How often the gateway's ends of these tunnels have connected to the service."""
    return len(
        [
            event
            for event in rig.rig.service_events.all()
            if event.kind is ServiceEventKind.CLIENT_CONNECTED
            and event.mode is rig.mode
            and event.tunnel in names
        ]
    )


def log_in(sshd: Sshd, gateway: UpProcess, name: str) -> None:
    """Use ssh through a tunnel in the three ways: by its port, by the door and by `connect`."""
    port = gateway.listening(name).port
    assert sshd.ssh(port, "tr a-z A-Z", stdin=b"by port").stdout == b"BY PORT"
    host, _, port_of_door = gateway.wait_event("door")["address"].rpartition(":")
    admin = gateway.wait_event("admin")["url"]
    proxies = {
        "by door": f"socat - PROXY:{host}:%h:%p,proxyport={port_of_door}",
        "by connect": shlex.join([*PROGRAM, "connect", f"{name}:SSH", "--gateway", admin]),
    }
    for way, proxy in proxies.items():
        ssh = [require_program("ssh"), *sshd.options(), "-o", f"ProxyCommand={proxy}", name]
        assert run_program([*ssh, "tr a-z A-Z"], stdin=way.encode()).stdout == way.upper().encode()


@pytest.mark.programs("ssh", "sshd", "socat")
def test_the_whole_story(rig: GatewayRig, tmp_path: Path) -> None:
    with Sshd.start(tmp_path) as sshd:
        tell_the_whole_story(rig, sshd)


def tell_the_whole_story(rig: GatewayRig, sshd: Sshd) -> None:
    target = rig.echo_address()
    rig.gateway = 'door = "127.0.0.1:0"'
    for number in range(TUNNELS - 1):
        rig.add(f"press-{number}", target)
    ssh_name = "a-shell"
    rig.add(ssh_name, TcpAddress("127.0.0.1", sshd.port))
    first = list(rig.entries)
    with rig.up() as gateway:
        rig.wait_connected(gateway)
        for name in ("press-0", "press-20"):
            with connect(gateway.listening(name)) as sock:
                assert echo(sock, b"hello") == b"hello"
        log_in(sshd, gateway, ssh_name)
        stays = first[2 * CHANGED :]
        eventually(lambda: connects(rig, stays) == len(stays), "the service tells of each")
        transfer = Transfer(gateway.listening(stays[0]))
        removed = Transfer(gateway.listening(first[0]))
        try:
            transfer.wait_more()
            removed.wait_more()
            for name in first[:CHANGED]:
                del rig.entries[name]
            for name in first[CHANGED : 2 * CHANGED]:
                rig.entries[name].keys["bandwidth"] = "1000000"
            for number in range(CHANGED):
                rig.add(f"new-{number}", target)
            rig.write()
            gateway.signal(signal.SIGHUP)
            reloaded = gateway.wait_event("reloaded")
            assert sorted(reloaded["removed"]) == sorted(first[:CHANGED])
            assert sorted(reloaded["changed"]) == sorted(first[CHANGED : 2 * CHANGED])
            assert reloaded["added"] == [f"new-{number}" for number in range(CHANGED)]
            assert sorted(reloaded["unchanged"]) == sorted(stays)
            for name in first[1:CHANGED]:
                gateway.wait_event("tunnel_ended", tunnel=name)
            for name in first[CHANGED : 2 * CHANGED]:
                gateway.wait_event("tunnel_state_changed", 2, tunnel=name, state="connected")
            for number in range(CHANGED):
                name = f"new-{number}"
                gateway.wait_event("tunnel_state_changed", tunnel=name, state="connected")
            transfer.wait_more()
            # A removed tunnel ends with its last connection, and not before.
            removed.wait_more()
            assert gateway.events("tunnel_ended", tunnel=first[0]) == []
        finally:
            removed.finish()
        gateway.wait_event("tunnel_ended", tunnel=first[0])
        transfer.wait_more()
        transfer.finish()
        assert connects(rig, stays) == len(stays)
        gateway.process.kill()
        gateway.wait_end()
    with rig.up() as gateway:
        # The service lets nobody in whose pair of tokens is another than before.
        rig.wait_connected(gateway)
        assert not gateway.events("tunnel_state_changed", state="refused")
        log_in(sshd, gateway, ssh_name)
        transfer = Transfer(gateway.listening(stays[0]))
        try:
            transfer.wait_more()
            gateway.signal(signal.SIGTERM)
            gateway.wait_event("tunnel_ended", tunnel=stays[1])
            transfer.wait_more()
        finally:
            transfer.finish()
        assert gateway.wait_end() == 0


SIZE = 3_000_000


class TestSigterm:
    def test_a_transfer_that_runs_ends_whole(self, rig: GatewayRig) -> None:
        server = rig.rig.backends.sink(answer=b"thanks")
        assert isinstance(server.address, TcpAddress)
        rig.add("press-1", server.address)
        rig.add("press-2", server.address)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            address = gateway.listening("press-1")
            with connect(address) as sock:
                whole = list(blocks(SIZE))
                sock.sendall(whole[0])
                # The kernel says "connected" before the gateway has seen it.
                server.wait_active(1)
                gateway.signal(signal.SIGTERM)
                gateway.wait_event("tunnel_state_changed", tunnel="press-1", state="draining")
                # Nothing new is let in, what is open goes on.
                gateway.wait_event("tunnel_ended", tunnel="press-2")
                for block in whole[1:]:
                    sock.sendall(block)
                sock.shutdown(socket.SHUT_WR)
                assert receive_exactly(sock, 6) == b"thanks"
            assert gateway.wait_end() == 0
        (arrival,) = server.arrivals()
        assert (arrival.sha256, arrival.clean) == (digest(whole), True)

    @pytest.mark.parametrize(
        ("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
    )
    def test_a_second_signal_ends_it_at_once(
        self, rig: GatewayRig, first: signal.Signals, second: signal.Signals
    ) -> None:
        target = rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        rig.add("press-1", target)
        rig.gateway = ""
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            with connect(gateway.listening("press-1")) as sock:
                assert echo(sock, b"x") == b"x"
                gateway.signal(first)
                gateway.wait_event("tunnel_state_changed", tunnel="press-1", state="draining")
                gateway.signal(second)
                assert gateway.wait_end() == 1

    def test_what_is_open_when_time_is_over_is_cut(self, tmp_path: Path) -> None:
        with GatewayRig(tmp_path) as rig:
            rig.drain_seconds = 0.2
            target = rig.rig.backends.echo().address
            assert isinstance(target, TcpAddress)
            rig.add("press-1", target, limits="{ stop_timeout_seconds = 0.5 }")
            rig.add("press-2", target)
            with rig.up() as gateway:
                rig.wait_connected(gateway)
                with connect(gateway.listening("press-1")) as sock:
                    assert echo(sock, b"x") == b"x"
                    gateway.signal(signal.SIGTERM)
                    assert gateway.wait_end() == 1
                assert "its connections are cut" in gateway.output


class TestReload:
    def test_a_mistake_changes_nothing(self, rig: GatewayRig) -> None:
        target = rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        rig.add("press-1", target)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            transfer = Transfer(gateway.listening("press-1"))
            try:
                del rig.entries["press-1"]
                rig.gateway = "drain_secs = 4"
                rig.write()
                gateway.signal(signal.SIGHUP)
                gateway.wait_event("reload_failed")
                transfer.wait_more()
                assert "drain_secs: there is no such key" in gateway.output
                page = gateway.get("/metrics")
                assert "tunnelfleet_config_last_reload_successful 0.0" in page
            finally:
                transfer.finish()

    def test_labels_and_some_limits_apply_in_place(self, rig: GatewayRig) -> None:
        target = rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        rig.add("press-1", target)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            address = gateway.listening("press-1")
            transfer = Transfer(address)
            try:
                rig.entries["press-1"].keys |= {
                    "labels": '{ site = "lyon" }',
                    "limits": "{ max_connections = 1 }",
                }
                rig.write()
                gateway.signal(signal.SIGHUP)
                assert gateway.wait_event("reloaded")["changed"] == ["press-1"]
                transfer.wait_more()
                row = 'tunnelfleet_tunnel_info{label_site="lyon",mode="source",tunnel="press-1"}'
                seen_in_time(lambda: row in gateway.get("/metrics"), "its label")
                # The one connection that is allowed is there: a second one waits for its end.
                with connect(address) as second:
                    second.sendall(b"later")
                    transfer.wait_more()
                    second.settimeout(0.2)
                    with pytest.raises(TimeoutError):
                        second.recv(1)
                    transfer.finish()
                    second.settimeout(WAIT_SECONDS)
                    assert receive_exactly(second, 5) == b"later"
            finally:
                transfer.finish()
        assert connects(rig, ["press-1"]) == 1

    def test_a_rotated_token_is_taken_up_without_a_new_listener(self, rig: GatewayRig) -> None:
        target = rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        rig.add("press-1", target)
        with rig.up() as gateway:
            rig.wait_connected(gateway)
            address = gateway.listening("press-1")
            token = rig.rig.service.rotate("press-1", Mode.SOURCE).source_token
            (rig.folder / "press-1.token").write_text(token)
            gateway.wait_event("tunnel_state_changed", tunnel="press-1", state="refused")
            gateway.signal(signal.SIGHUP)
            gateway.wait_event("tunnel_state_changed", 2, tunnel="press-1", state="connected")
            with connect(address) as sock:
                assert echo(sock, b"x") == b"x"
            assert token not in gateway.output

    def test_a_changed_file_is_noticed(self, rig: GatewayRig) -> None:
        target = rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        rig.add("press-1", target)
        with rig.up("--watch") as gateway:
            rig.wait_connected(gateway)
            gateway.wait_event("watching")
            rig.add("press-2", target)
            rig.write()
            name = "press-2"
            gateway.wait_event("tunnel_state_changed", tunnel=name, state="connected")


def test_the_tree_of_actors(rig: GatewayRig) -> None:
    target = rig.rig.backends.echo().address
    assert isinstance(target, TcpAddress)
    rig.add("press-1", target)
    with rig.up() as gateway:
        rig.wait_connected(gateway)
        gateway.signal(signal.SIGUSR2)
        tree: list[Any] = gateway.wait_event("actors")["tree"]
    assert tree[0] == "gateway (GatewaySupervisor) running"
    assert "    tunnel press-1 (TunnelSupervisor) running, connected" in tree
    assert "        websocket (WebSocketActor) running" in tree
    assert "  fleet (FleetActor) running" in tree


def test_no_token_is_in_the_log_or_on_a_page(rig: GatewayRig) -> None:
    target = rig.rig.backends.echo().address
    assert isinstance(target, TcpAddress)
    rig.add("press-1", target)
    with rig.up("--log-level", "debug") as gateway:
        rig.wait_connected(gateway)
        rig.rig.service.drop("press-1", Mode.SOURCE)
        gateway.wait_event("tunnel_state_changed", 2, tunnel="press-1", state="connected")
        pages = gateway.get("/metrics") + gateway.get("/readyz") + gateway.get("/healthz")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
        said = gateway.output + pages
    assert rig.entries["press-1"].token not in said


def test_ssh_between_two_gateways_and_a_service_of_their_own(tmp_path: Path) -> None:
    """Three processes, as an operator starts them, with what the guide says."""
    with contextlib.ExitStack() as stack:
        sshd = stack.enter_context(Sshd.start(tmp_path))
        arguments = ["service", "--listen", "127.0.0.1:0", "--tunnel", "press-4=SSH", "--json"]
        service = stack.enter_context(Command.start(tmp_path, *arguments))
        ready = service.wait_event("ready")
        (tunnel,) = ready["tunnels"]
        gateways = {}
        for mode, address in (("destination", f"127.0.0.1:{sshd.port}"), ("source", "0")):
            token = tmp_path / f"{mode}.token"
            token.touch(mode=0o600)
            token.write_text(tunnel[f"{mode}_token"] + "\n")
            file = tmp_path / f"{mode}.toml"
            file.write_text(
                f'[gateway]\nmetrics = "off"\n[[tunnel]]\nname = "press-4"\nmode = "{mode}"\n'
                f'endpoint = "{ready["endpoint"]}"\nca = "{ready["ca"]}"\n'
                f'access_token_file = "{token.name}"\nservices = {{ SSH = "{address}" }}\n'
            )
            gateways[mode] = stack.enter_context(up(file, tmp_path / mode))
        for gateway in gateways.values():
            gateway.wait_event("tunnel_state_changed", tunnel="press-4", state="connected")
        port = gateways["source"].listening("press-4").port
        done = sshd.ssh(port, "tr a-z A-Z", stdin=b"hello")
        assert done.stdout == b"HELLO"
        for gateway in gateways.values():
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0


def test_pages_for_other_machines_are_there_when_the_files_say_so(tmp_path: Path) -> None:
    with GatewayRig(tmp_path, gateway="metrics_open = true") as rig:
        rig.metrics = "0.0.0.0:0"
        with rig.up() as gateway:
            url = gateway.wait_event("metrics")["url"].replace("0.0.0.0", "127.0.0.1")
            with urllib.request.urlopen(f"{url}/healthz", timeout=WAIT_SECONDS) as answer:
                assert answer.status == 200


def test_pages_ask_for_the_token_of_the_file(tmp_path: Path) -> None:
    with GatewayRig(tmp_path, gateway='metrics_token_file = "metrics.token"') as rig:
        rig.metrics = "0.0.0.0:0"
        (rig.folder / "metrics.token").write_text("hush-hush\n")
        with rig.up() as gateway:
            url = gateway.wait_event("metrics")["url"].replace("0.0.0.0", "127.0.0.1")
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(f"{url}/healthz", timeout=WAIT_SECONDS)
            refused.value.close()
            request = urllib.request.Request(
                f"{url}/healthz", headers={"Authorization": "Bearer hush-hush"}
            )
            with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
                assert answer.status == 200
        assert "hush-hush" not in gateway.output


@pytest.mark.parametrize("ending", ["2>/dev/full", "2>&-", ">&- 2>&- <&-"])
def test_a_log_that_cannot_be_written_changes_nothing(tmp_path: Path, ending: str) -> None:
    port = free_port()
    file = tmp_path / "fleet.toml"
    file.write_text(f'[gateway]\nmetrics = "127.0.0.1:{port}"\n')
    command = shlex.join([*PROGRAM, "up", str(file)])
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command} {ending}"],
        env={
            **os.environ,
            "STATE_DIRECTORY": str(tmp_path / "state"),
            "RUNTIME_DIRECTORY": str(tmp_path / "run"),
        },
    )
    try:
        seen_in_time(lambda: is_answered(f"http://127.0.0.1:{port}/healthz"), "it answers")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def is_answered(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False
