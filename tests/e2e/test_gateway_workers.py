"""A gateway with worker processes: one of them dies, and only its tunnels notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.commands import PROGRAM
from tests.support.gateway import WAIT_SECONDS, GatewayRig, UpProcess, seen_in_time
from tests.support.rig import connect, echo, receive_exactly
from tests.support.transfer import Transfer
from tests.support.waiting import eventually
from tunnelfleet.runtime import Mode, TcpAddress
from tunnelfleet.runtime.gateway.placement import worker_of
from tunnelfleet.runtime.service.events import ServiceEventKind

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

TUNNELS = 10
WORKERS = 2


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[GatewayRig]:
    with GatewayRig(tmp_path / "g", gateway=f'workers = {WORKERS}\ndoor = "127.0.0.1:0"') as made:
        target = made.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        for number in range(TUNNELS):
            made.add(f"press-{number}", target)
        yield made


def names_of(worker: int) -> list[str]:
    names = [f"press-{number}" for number in range(TUNNELS)]
    return [name for name in names if worker_of(name, WORKERS) == worker]


def process_of(gateway: UpProcess, worker: int, count: int = 1) -> int:
    pid: int = gateway.wait_event("worker", count, worker=worker)["pid"]
    return pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def sums(gateway: UpProcess) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All that must never go back in what /metrics shows of tunnels and workers."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(gateway.get("/metrics"))
        for sample in family.samples
        if sample.name.startswith("tunnelfleet_")
        and sample.name.endswith(("_total", "_count", "_sum", "_bucket"))
    }


def value(found: dict[Any, float], name: str) -> float:
    return sum(number for (sample, _labels), number in found.items() if sample == name)


def command(rig: GatewayRig, *arguments: str) -> Any:
    done = subprocess.run(
        [*PROGRAM, *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        env={**os.environ, "RUNTIME_DIRECTORY": str(rig.folder.parent / "state")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def seen_of_tunnels(rig: GatewayRig) -> dict[str, tuple[str, int]]:
    """State and reconnects of each tunnel, as people see them."""
    return {row["name"]: (row["state"], row["reconnects"]) for row in command(rig, "ls")}


def still_open(rig: GatewayRig, names: list[str], before: float) -> list[Any]:
    """What the audit has as open of these tunnels, of what began before a moment."""
    return [
        each
        for each in command(rig, "audit")
        if each["tunnel"] in names and each["opened_at"] < before and each["ended_at"] is None
    ]


def through_door(gateway: UpProcess, name: str) -> socket.socket:
    host, _, port = gateway.wait_event("door")["address"].rpartition(":")
    sock = connect(TcpAddress(host, int(port)))
    sock.sendall(f"CONNECT {name}:22 HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += receive_exactly(sock, 1)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return sock


def connects(rig: GatewayRig, names: list[str]) -> int:
    return sum(
        event.kind is ServiceEventKind.CLIENT_CONNECTED
        and event.mode is Mode.SOURCE
        and event.tunnel in names
        for event in rig.rig.service_events.all()
    )


def test_a_worker_dies_and_only_its_tunnels_blink(rig: GatewayRig) -> None:
    lost, kept = names_of(0), names_of(1)
    assert len(lost) > 1
    assert len(kept) > 1
    with rig.up() as gateway:
        rig.wait_connected(gateway)
        pids = [process_of(gateway, number) for number in range(WORKERS)]
        ports = {name: gateway.listening(name) for name in (*lost, *kept)}
        stays = [Transfer(ports[name]) for name in kept[:2]]
        through = through_door(gateway, kept[0])
        cut = [connect(ports[lost[0]]), through_door(gateway, lost[1])]
        try:
            for sock in (through, *cut):
                assert echo(sock, b"hello") == b"hello"
            for transfer in stays:
                transfer.wait_more()
            seen_in_time(lambda: len(command(rig, "connections")) == 5, "all connections are seen")
            least = {
                "connect_permits_total": TUNNELS,
                "connections_opened_total": 5,
                "queue_wait_seconds_bucket": 1,
                "received_bytes_total": 1,
            }
            seen_in_time(
                lambda: all(
                    value(sums(gateway), f"tunnelfleet_{name}") >= number
                    for name, number in least.items()
                ),
                "what both workers count is in the metrics",
            )
            eventually(lambda: connects(rig, kept) == len(kept), "the service tells of each")
            before = sums(gateway)
            killed_at = time.time()
            os.kill(pids[0], signal.SIGKILL)
            for sock in cut:
                assert receive_or_reset(sock) == b""
            for name in lost:
                gateway.wait_event("tunnel_state_changed", 2, tunnel=name, state="connected")
            seen_in_time(lambda: len(command(rig, "connections")) == 3, "the cut ones are gone")
            after = sums(gateway)
            assert {key for key in before if after[key] < before[key]} == set()
            assert value(after, "tunnelfleet_worker_restarts_total") == 1
            seen_in_time(
                lambda: "tunnelfleet_door_connections 1.0" in gateway.get("/metrics"),
                "one of the doors' connections is left",
            )
            # The others have noticed nothing.
            assert connects(rig, kept) == len(kept)
            for name in kept:
                states = [e["state"] for e in gateway.events("tunnel_state_changed", tunnel=name)]
                assert states == ["connected"]
            for transfer in stays:
                transfer.wait_more()
            assert echo(through, b"still here") == b"still here"
            # The same ports, the same tokens; the doors find them again.
            for name in lost:
                assert gateway.listening(name, 2) == ports[name]
                with connect(ports[name]) as sock:
                    assert echo(sock, b"again") == b"again"
            with through_door(gateway, lost[1]) as sock:
                assert echo(sock, b"by the door") == b"by the door"
            expected = {
                **dict.fromkeys(lost, ("connected", 1)),
                **dict.fromkeys(kept, ("connected", 0)),
            }
            seen_in_time(lambda: seen_of_tunnels(rig) == expected, "all are seen as they are")
            seen_in_time(lambda: not still_open(rig, lost, killed_at), "the audit has their ends")
            seen_in_time(
                lambda: command(rig, "show", kept[0])["connections"] == 2,
                "those of the other worker are seen",
            )
            check_reload(rig, gateway, kept, stays)
            check_end(gateway, stays, through)
        finally:
            for transfer in stays:
                transfer.finish()
            for sock in (through, *cut):
                sock.close()
        new = process_of(gateway, 0, 2)
    seen_in_time(lambda: not any(map(is_alive, (*pids, new))), "the workers have ended")


def receive_or_reset(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1)
    except ConnectionError:
        return b""


def check_reload(
    rig: GatewayRig, gateway: UpProcess, kept: list[str], stays: list[Transfer]
) -> None:
    """A change of one tunnel moves no other."""
    changed = kept[-1]
    rig.entries[changed].keys["bandwidth"] = "1000000"
    rig.write()
    gateway.signal(signal.SIGHUP)
    assert gateway.wait_event("reloaded")["changed"] == [changed]
    gateway.wait_event("tunnel_state_changed", 2, tunnel=changed, state="connected")
    for transfer in stays:
        transfer.wait_more()
    others = [name for name in kept if name != changed]
    assert connects(rig, others) == len(others)


def check_end(gateway: UpProcess, stays: list[Transfer], through: socket.socket) -> None:
    """What runs when the gateway is stopped ends whole."""
    gateway.signal(signal.SIGTERM)
    gateway.wait_event("tunnel_state_changed", state="draining")
    for transfer in stays:
        transfer.wait_more()
        transfer.finish()
    assert echo(through, b"and goodbye") == b"and goodbye"
    through.close()
    assert gateway.wait_end() == 0, gateway.output


def test_what_is_seen_of_workers_and_that_they_end_with_their_gateway(rig: GatewayRig) -> None:
    with rig.up() as gateway:
        rig.wait_connected(gateway)
        pids = [process_of(gateway, number) for number in range(WORKERS)]
        token = rig.entries["press-0"].token.encode()
        for pid in pids:
            process = Path(f"/proc/{pid}")
            shown = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            assert sys.executable.encode() in shown
            assert token not in shown
        gateway.signal(signal.SIGUSR2)
        tree = gateway.wait_event("actors")["tree"]
        for number, pid in enumerate(pids):
            start = tree.index(f"worker {number} (process {pid}) running")
            rest = [line for line in tree[start + 1 :] if "TunnelSupervisor" in line]
            assert any(names_of(number)[0] in line for line in rest)
        gateway.kill()
        seen_in_time(lambda: not any(map(is_alive, pids)), "the workers have ended")


def test_a_second_signal_cuts_what_is_open(rig: GatewayRig) -> None:
    with rig.up() as gateway:
        rig.wait_connected(gateway)
        pids = [process_of(gateway, number) for number in range(WORKERS)]
        with connect(gateway.listening("press-0")) as sock:
            assert echo(sock, b"hello") == b"hello"
            gateway.signal(signal.SIGTERM)
            gateway.wait_event("tunnel_state_changed", tunnel="press-0", state="draining")
            gateway.signal(signal.SIGINT)
            assert gateway.wait_end() == 1
            assert receive_or_reset(sock) == b""
        seen_in_time(lambda: not any(map(is_alive, pids)), "the workers have ended")
