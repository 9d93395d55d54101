"""Throughput and round trip of one connection: a tunnel, two `socat`, localproxy if it is there.

Every part is a process of its own, on the same machine; all take turns, round by round.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.sockets import free_port
from tunnelfleet.runtime.memory import settle_malloc
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Results = dict[str, dict[str, float]]

CONNECT_SECONDS = 10.0
CHUNK = bytes(range(256)) * 256


def answer() -> None:
    """A TCP server: it takes as many bytes as it was told, answers one, and echoes from then on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        _say({"port": server.getsockname()[1]})
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        sys.stdin.read()


def _accept(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            sock, _ = server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(sock,), daemon=True).start()


def _serve(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        left = int.from_bytes(_exactly(sock, 8))
        while left > 0:
            left -= len(sock.recv(262_144)) or left
        sock.sendall(b"!")
        while data := sock.recv(65_536):
            sock.sendall(data)


def serve(*, tls: bool) -> None:
    """The service, with a tunnel."""
    # As `tunnelfleet service` does.
    settle_malloc()
    with TunnelService(tls=tls) as service:
        tokens = service.open_tunnel("bench", ["BENCH"])
        _say(
            {
                "endpoint": service.endpoint,
                "ca": str(service.ca_path) if service.ca_path else "",
                "source": tokens.source_token,
                "destination": tokens.destination_token,
            }
        )
        sys.stdin.read()


def _say(ready: Mapping[str, Any]) -> None:
    print(json.dumps(ready), flush=True)


@contextlib.contextmanager
def _process(call: str) -> Iterator[dict[str, Any]]:
    """A function of this module in a process of its own; yields what it says when it is ready."""
    command = [sys.executable, "-c", f"from tests.bench import carry_bench; carry_bench.{call}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def measure(port: int, *, megabytes: int, round_trips: int) -> dict[str, float]:
    """Send, then echo, over one connection to `port`."""
    size = megabytes * 1_048_576
    with _connect(port) as sock:
        started = time.perf_counter()
        sock.sendall(size.to_bytes(8))
        for _ in range(size // len(CHUNK)):
            sock.sendall(CHUNK)
        assert _exactly(sock, 1) == b"!"
        seconds = time.perf_counter() - started
        times = []
        for _ in range(round_trips):
            begun = time.perf_counter()
            sock.sendall(CHUNK[:64])
            _exactly(sock, 64)
            times.append(time.perf_counter() - begun)
    times.sort()
    return {
        "megabytes_per_second": round(megabytes / seconds, 1),
        "round_trip_median_us": round(statistics.median(times) * 1e6, 1),
        "round_trip_p99_us": round(times[int(len(times) * 0.99)] * 1e6, 1),
    }


@contextlib.contextmanager
def tunnel_port(backend: int, *, tls: bool) -> Iterator[int]:
    """The port of a source whose tunnel ends at the backend."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(_process(f"serve(tls={tls})"))
        common = {
            "endpoint": service["endpoint"],
            "ca": service["ca"],
            "target": f"127.0.0.1:{backend}",
        }
        answers = {
            mode: stack.enter_context(_peer({**common, "mode": mode, "token": service[mode]}))
            for mode in ("destination", "source")
        }
        yield int(answers["source"]["listening"].rpartition(":")[2])


@contextlib.contextmanager
def _peer(given: dict[str, str]) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.bench.peer"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        yield json.loads(process.stdout.readline())
        process.stdin.close()


@contextlib.contextmanager
def socat_port(backend: int, *, tls: bool, ca: Path | None) -> Iterator[int]:
    """The port of one `socat` that speaks to a second one, which speaks to the backend."""
    middle, front = free_port(), free_port()
    if tls:
        assert ca is not None
        listen = f"OPENSSL-LISTEN:{middle},bind=127.0.0.1,reuseaddr,fork,cert={ca},verify=0,nodelay"
        connect = f"OPENSSL:127.0.0.1:{middle},verify=0,nodelay"
    else:
        listen = f"TCP-LISTEN:{middle},bind=127.0.0.1,reuseaddr,fork,nodelay"
        connect = f"TCP:127.0.0.1:{middle},nodelay"
    front_listen = f"TCP-LISTEN:{front},bind=127.0.0.1,reuseaddr,fork,nodelay"
    commands = [
        ["socat", "-b65536", listen, f"TCP:127.0.0.1:{backend},nodelay"],
        ["socat", "-b65536", front_listen, connect],
    ]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        for port in (middle, front):
            _wait_listening(port)
        yield front
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def _wait_listening(port: int) -> None:
    deadline = time.monotonic() + CONNECT_SECONDS
    wanted = f":{port:04X} "
    while time.monotonic() < deadline:
        # Looked up, not tried: a probe would become a connection of its own.
        if wanted in Path("/proc/net/tcp").read_text(encoding="ascii"):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on port {port}")


def _certificate(directory: Path) -> Path:
    """A certificate with its key in one file, as socat wants it."""
    key, certificate = directory / "key.pem", directory / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both = directory / "both.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return both


@contextlib.contextmanager
def localproxy_port(backend: int) -> Iterator[int]:
    """The port of AWS's localproxy as a source, with another one as the destination; with TLS."""
    front = free_port()
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(_process("serve(tls=True)"))
        targets = {
            service["destination"]: ("-d", f"BENCH=127.0.0.1:{backend}"),
            service["source"]: ("-s", f"BENCH={front}"),
        }
        host = service["endpoint"].removeprefix("wss://")
        for token, target in targets.items():
            # At the speed of loopback it survives no larger payloads; docs/protocol.md section 4.
            command = ["localproxy", "-e", host, "-k", "-c", service["ca"], "-v", "0"]
            environment = {**os.environ, "AWSIOT_TUNNEL_ACCESS_TOKEN": token}
            process = subprocess.Popen(
                [*command, *target], env=environment, stdout=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        _wait_listening(front)
        yield front


def run(*, megabytes: int, round_trips: int, rounds: int) -> Results:
    """Measure the tunnel and its baselines in turn, with TLS and plain.

    Returns:
        By contestant the medians of its figures, and by pair the median of the ratios of the
        rounds, with the least and the greatest one: a round has all contestants, one after the
        other, so that whatever else the machine does meets them alike.
    """
    results: Results = {}
    sizes = {"megabytes": megabytes, "round_trips": round_trips}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        backend = stack.enter_context(_process("answer()"))["port"]
        has_socat = shutil.which("socat") is not None and shutil.which("openssl") is not None
        ca = _certificate(Path(directory)) if has_socat else None
        for tls in (True, False):
            kind = "tls" if tls else "plain"
            with contextlib.ExitStack() as pair:
                ports = {"tunnelfleet": pair.enter_context(tunnel_port(backend, tls=tls))}
                if has_socat:
                    ports["socat"] = pair.enter_context(socat_port(backend, tls=tls, ca=ca))
                if tls and shutil.which("localproxy"):
                    ports["localproxy"] = pair.enter_context(localproxy_port(backend))
                measured = interleaved(
                    {name: partial(measure, port, **sizes) for name, port in ports.items()},
                    rounds,
                )
            results |= compared(measured, kind)
    return results


def interleaved(
    contestants: Mapping[str, Callable[[], dict[str, float]]], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Measure each once a round; every second round goes the other way.

    A baseline that breaks is left out from then on, with all of its rounds: localproxy 3.3.1 ends
    now and then at the speed of loopback (docs/protocol.md section 4).

    Raises:
        OSError: it was the first one, which is measured.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(found)
        for name in names if number % 2 == 0 else reversed(names):
            try:
                found[name].append(contestants[name]())
            except OSError as error:
                text = f"{name} broke in round {number + 1}"
                if name == next(iter(contestants)):
                    error.add_note(text)
                    raise
                print(f"{text}, and is left out: {error}", file=sys.stderr, flush=True)
                del found[name]
    return found


def compared(measured: Mapping[str, list[dict[str, float]]], kind: str) -> Results:
    """The medians of each contestant, and the first one's ratios to the others."""
    results: Results = {}
    (first, ours), *others = measured.items()
    for name, rounds in measured.items():
        results[f"{name} {kind}"] = {
            figure: round(statistics.median(each[figure] for each in rounds), 1)
            for figure in rounds[0]
        }
    for name, theirs in others:
        ratios = results[f"{first} / {name} {kind}"] = {}
        for figure in ours[0]:
            each = sorted(a[figure] / b[figure] for a, b in zip(ours, theirs, strict=True))
            ratios[figure] = round(statistics.median(each), 3)
            ratios[f"{figure} least"] = round(each[0], 3)
            ratios[f"{figure} most"] = round(each[-1], 3)
    return results
