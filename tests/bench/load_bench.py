"""Many tunnels at a steady rate, many short connections, and more worker processes.

Service, both ends and the applications are processes of their own, so the CPU time of an end is
known. With TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.storm_bench import most_tunnels
from tests.support.memory import rss_bytes
from tests.support.sockets import free_port
from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
    make_ssl_context,
)
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_SECONDS = 180.0
CONNECT_RATE = 1_000.0
PIECES_PER_SECOND = 10
"""At a steady rate: how often each connection sends its share of a second."""
CLIENTS = 8
"""Which open short connections, each one after the other."""
WARM_UP_SHARE = 10
"""Memory is compared from a tenth of the connections on."""
CHUNK = bytes(65_536)


class Process:
    """A process of this module: it is told what to do, answers once, and ends with its input."""

    def __init__(self, process: subprocess.Popen[str], given: dict[str, Any]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        self.pid = process.pid
        self.answer: dict[str, Any] = json.loads(process.stdout.readline())


@contextlib.contextmanager
def _process(function: str, **given: Any) -> Iterator[Process]:
    code = f"from tests.bench import load_bench; load_bench.{function}()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        try:
            yield Process(process, given)
        finally:
            process.stdin.close()


def cpu_seconds(process_id: int) -> float:
    """What a process has used so far, without its children."""
    stat = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii")
    used = stat.rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


# -- the processes


def serve() -> None:
    """The service, with so many tunnels."""
    given = json.loads(sys.stdin.readline())
    most_tunnels(0)
    with TunnelService() as service:
        tokens = [service.open_tunnel(f"load {n}", ["BENCH"]) for n in range(given["tunnels"])]
        ready = {
            "endpoint": service.endpoint,
            "ca": str(service.ca_path),
            "source": [each.source_token for each in tokens],
            "destination": [each.destination_token for each in tokens],
        }
        print(json.dumps(ready), flush=True)
        sys.stdin.read()


def ends() -> None:
    """One end of each tunnel, in one runtime; a source answers with the ports that it has."""
    given = json.loads(sys.stdin.readline())
    most_tunnels(0)
    mode = Mode(given["mode"])
    with TunnelRuntime(
        ssl_context=make_ssl_context(Path(given["ca"])), connect_rate_per_second=CONNECT_RATE
    ) as runtime:
        tunnels = [
            runtime.open_tunnel(
                TunnelConfig(
                    name=f"{mode} {number}",
                    mode=mode,
                    endpoint=Endpoint.parse(given["endpoint"]),
                    access_token=token,
                    services={"BENCH": TcpAddress("127.0.0.1", given["port"])},
                )
            )
            for number, token in enumerate(given["tokens"])
        ]
        for tunnel in tunnels:
            tunnel.wait_for(TunnelState.CONNECTED, READY_SECONDS)
        listening = []
        if mode is Mode.SOURCE:
            listening = [str(each.wait_listening("BENCH", READY_SECONDS)) for each in tunnels]
        ports = [int(address.rpartition(":")[2]) for address in listening]
        print(json.dumps({"ports": ports}), flush=True)
        sys.stdin.read()


def echo() -> None:
    """The application at the other side: it sends back what it gets."""
    sys.stdin.readline()
    most_tunnels(0)

    async def main() -> None:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, backlog=1_024)
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    asyncio.run(main())


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def _destinations(tunnels: int) -> Iterator[dict[str, Any]]:
    """Service and destinations in front of the echo; yields what a source needs."""
    with _process("serve", tunnels=tunnels) as service, _process("echo") as application:
        common = {key: service.answer[key] for key in ("endpoint", "ca")}
        port, tokens = application.answer["port"], service.answer["destination"]
        with _process("ends", mode=Mode.DESTINATION.value, port=port, tokens=tokens, **common):
            yield {**common, "tokens": service.answer["source"], "port": 0}


# -- the measurements


def steady(*, tunnels: int, bytes_per_second: int, seconds: float) -> dict[str, float]:
    """A connection through each of many tunnels, which sends at a rate and gets all of it back.

    Returns:
        The least and the mean rate that came back, and the cores that the process of the sources
        used meanwhile.
    """
    with (
        _destinations(tunnels) as given,
        _process("ends", mode=Mode.SOURCE.value, **given) as sources,
    ):
        before = cpu_seconds(sources.pid)
        started = time.perf_counter()
        rates = asyncio.run(_send_all(sources.answer["ports"], bytes_per_second, seconds))
        cores = (cpu_seconds(sources.pid) - before) / (time.perf_counter() - started)
    return {
        "least_bytes_per_second": round(min(rates)),
        "mean_bytes_per_second": round(sum(rates) / len(rates)),
        "cores_of_the_sources": round(cores, 2),
    }


async def _send_all(ports: list[int], bytes_per_second: int, seconds: float) -> list[float]:
    return await asyncio.gather(*(_send(port, bytes_per_second, seconds) for port in ports))


async def _send(port: int, bytes_per_second: int, seconds: float) -> float:
    """Send at a rate; return at which one it came back until the time was over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop, piece = asyncio.get_running_loop(), bytes(bytes_per_second // PIECES_PER_SECOND)
    received, started = 0, loop.time()

    async def count() -> None:
        nonlocal received
        while data := await reader.read(65_536):
            received += len(data)

    counting = asyncio.create_task(count())
    try:
        for number in range(1, int(seconds * PIECES_PER_SECOND) + 1):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(max(0.0, started + number / PIECES_PER_SECOND - loop.time()))
        return received / (loop.time() - started)
    finally:
        counting.cancel()
        writer.close()


def short(*, connections: int) -> dict[str, float]:
    """Short connections through one tunnel: open, 64 bytes there and back, close.

    Returns:
        Connections a second, and what the source's process has grown by since a tenth of them.
    """
    with (
        _destinations(1) as given,
        _process("ends", mode=Mode.SOURCE.value, **given) as source,
    ):
        (port,) = source.answer["ports"]
        warm_up = connections // WARM_UP_SHARE
        asyncio.run(_open_and_close(port, warm_up))
        before, cpu_before = rss_bytes(source.pid), cpu_seconds(source.pid)
        started = time.perf_counter()
        asyncio.run(_open_and_close(port, connections - warm_up))
        seconds = time.perf_counter() - started
        used = cpu_seconds(source.pid) - cpu_before
        grown = rss_bytes(source.pid) - before
    return {
        "connections_per_second": round((connections - warm_up) / seconds, 1),
        "cpu_ms_of_the_source": round(1e3 * used / (connections - warm_up), 3),
        "rss_growth_kib": round(grown / 1024),
    }


async def _open_and_close(port: int, connections: int) -> None:
    left = iter(range(connections))

    async def client() -> None:
        for _ in left:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CHUNK[:64])
            await reader.readexactly(64)
            writer.close()
            await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def workers(*, tunnels: int, seconds: float) -> dict[str, float]:
    """A gateway's sources echo as much as goes, with one worker and with two.

    The ratio tells something where there are cores for the gateway, the service, the destinations
    and the applications beside: six or more.
    """
    # One state for both: with the same secret the tokens of the tunnels may come again.
    with _destinations(tunnels) as given, tempfile.TemporaryDirectory() as state:
        rates = {number: _with_workers(number, given, state, seconds) for number in (1, 2)}
    return {
        "one_worker_mb_per_second": round(rates[1] / 1e6, 1),
        "two_workers_mb_per_second": round(rates[2] / 1e6, 1),
        "ratio": round(rates[2] / rates[1], 2),
        "cores": os.cpu_count() or 0,
    }


def _with_workers(number: int, given: dict[str, Any], state: str, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder, ports = Path(name), [free_port() for _ in given["tokens"]]
        lines = [
            "[gateway]",
            f"workers = {number}",
            'metrics = "127.0.0.1:0"',
            f"connect_rate = {CONNECT_RATE:g}",
            "drain_seconds = 0",
            "[defaults]",
            'mode = "source"',
            f'endpoint = "{given["endpoint"]}"',
            f'ca = "{given["ca"]}"',
        ]
        for index, (token, port) in enumerate(zip(given["tokens"], ports, strict=True)):
            secret = folder / f"{index}.token"
            secret.touch(mode=0o600)
            secret.write_text(token)
            lines += [
                "[[tunnel]]",
                f'name = "load-{index}"',
                f'access_token_file = "{secret.name}"',
                f'services = {{ BENCH = "127.0.0.1:{port}" }}',
            ]
        (folder / "fleet.toml").write_text("\n".join(lines))
        command = [sys.executable, "-m", "tunnelfleet", "up", str(folder)]
        environment = {**os.environ, "STATE_DIRECTORY": state}
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as gateway:
            try:
                return asyncio.run(_flood(ports, seconds))
            finally:
                gateway.terminate()


async def _flood(ports: list[int], seconds: float) -> float:
    """Echo as much as goes on all ports; return the bytes a second that came back."""
    pairs = await asyncio.gather(*map(_connect, ports))
    received = 0

    async def send(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(CHUNK)
            await writer.drain()

    async def count(reader: asyncio.StreamReader) -> None:
        nonlocal received
        while data := await reader.read(262_144):
            received += len(data)

    tasks = [asyncio.ensure_future(each) for r, w in pairs for each in (send(w), count(r))]
    # What is on its way at the beginning and at the end is the same.
    await asyncio.sleep(seconds / 3)
    before, started = received, time.perf_counter()
    await asyncio.sleep(seconds * 2 / 3)
    rate = (received - before) / (time.perf_counter() - started)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _reader, writer in pairs:
        writer.transport.abort()
    return rate


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and again until an echo comes back: the gateway starts meanwhile."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"!")
            await asyncio.wait_for(reader.readexactly(1), 5.0)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return reader, writer


def run(*, quick: bool) -> dict[str, dict[str, float]]:
    """All three."""
    many, seconds = (10, 2.0) if quick else (300, 30.0)
    connections = 500 if quick else 20_000
    return {
        f"{many} tunnels with 100 kB/s each way": steady(
            tunnels=many, bytes_per_second=100_000, seconds=seconds
        ),
        f"{connections} short connections": short(connections=connections),
        "8 tunnels, one worker and two": workers(tunnels=8, seconds=3.0 if quick else 20.0),
    }
