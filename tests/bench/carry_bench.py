"""Throughput and round trip of one connection: through a tunnel, and through two `socat`.

Every part is a process of its own; the baseline runs in between, on the same machine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.sockets import free_port
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS = 10.0
CHUNK = bytes(range(256)) * 256


class Backend:
    """A TCP server: it takes as many bytes as it was told, answers one, and echoes from then on."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    @staticmethod
    def _serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            left = int.from_bytes(_exactly(sock, 8))
            while left > 0:
                left -= len(sock.recv(262_144)) or left
            sock.sendall(b"!")
            while data := sock.recv(65_536):
                sock.sendall(data)

    def close(self) -> None:
        # Closing alone would leave accept() waiting.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


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
def tunnel_port(backend: Backend, *, tls: bool) -> Iterator[int]:
    """The port of a source whose tunnel ends at the backend."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(TunnelService(tls=tls))
        tokens = service.open_tunnel("bench", ["BENCH"])
        common = {
            "endpoint": service.endpoint,
            "ca": str(service.ca_path) if service.ca_path else "",
            "target": f"127.0.0.1:{backend.port}",
        }
        ends = {"destination": tokens.destination_token, "source": tokens.source_token}
        answers = {
            mode: stack.enter_context(_peer({**common, "mode": mode, "token": token}))
            for mode, token in ends.items()
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
def socat_port(backend: Backend, *, tls: bool, ca: Path | None) -> Iterator[int]:
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
        ["socat", "-b65536", listen, f"TCP:127.0.0.1:{backend.port},nodelay"],
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


def run(*, megabytes: int, round_trips: int, repeats: int) -> dict[str, dict[str, float]]:
    """Measure tunnel and baseline in turn, TLS and plain; the best of the repeats of each."""
    results: dict[str, dict[str, float]] = {}
    backend = Backend()
    sizes = {"megabytes": megabytes, "round_trips": round_trips}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        stack.callback(backend.close)
        has_socat = shutil.which("socat") is not None and shutil.which("openssl") is not None
        ca = _certificate(Path(directory)) if has_socat else None
        for tls in (True, False):
            kind = "tls" if tls else "plain"
            with contextlib.ExitStack() as pair:
                ports = {"tunnelfleet": pair.enter_context(tunnel_port(backend, tls=tls))}
                if has_socat:
                    ports["socat"] = pair.enter_context(socat_port(backend, tls=tls, ca=ca))
                for _ in range(repeats):
                    for name, port in ports.items():
                        _keep_best(results, f"{name} {kind}", measure(port, **sizes))
            if has_socat:
                results[f"tunnelfleet / socat {kind}"] = _ratio(
                    results[f"tunnelfleet {kind}"], results[f"socat {kind}"]
                )
    return results


def _keep_best(results: dict[str, dict[str, float]], name: str, measured: dict[str, float]) -> None:
    best = results.setdefault(name, measured)
    for key, value in measured.items():
        best[key] = (max if key.endswith("per_second") else min)(best[key], value)


def _ratio(ours: dict[str, float], baseline: dict[str, float]) -> dict[str, float]:
    return {key: round(value / baseline[key], 3) for key, value in ours.items()}
