"""HTTP through tunnels: curl fetches many files at once over one service."""

from __future__ import annotations

import random
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.support.content import MIB, blocks, digest
from tests.support.programs import require_program, run_program
from tunnelfleet.runtime import TcpAddress

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.rig import Rig

FILES = 60
LARGEST_BYTES = 300_000


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 2 * FILES
    connections = 0

    def process_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        self.connections += 1
        super().process_request(request, client_address)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    rng = random.Random(60)
    for number in range(FILES):
        (folder / f"{number}.bin").write_bytes(rng.randbytes(rng.randrange(LARGEST_BYTES)))
    return folder


@pytest.fixture
def web(files: Path) -> Iterator[_Server]:
    """A web server that closes each connection after its answer (HTTP/1.0)."""
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=str(files))) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05], name="web")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_curl_fetches_60_files_at_once(rig: Rig, web: _Server, files: Path, tmp_path: Path) -> None:
    curl = require_program("curl")
    pair = rig.pair({"HTTP": TcpAddress("127.0.0.1", web.server_address[1])})
    target = tmp_path / "fetched"
    target.mkdir()
    url = f"http://127.0.0.1:{pair.tcp().port}/[0-{FILES - 1}].bin"
    parallel = ["--parallel", "--parallel-immediate", "--parallel-max", str(FILES)]
    run_program(
        [curl, "--silent", "--show-error", "--fail", *parallel, "-o", f"{target}/#1.bin", url]
    )
    for number in range(FILES):
        name = f"{number}.bin"
        assert (target / name).read_bytes() == (files / name).read_bytes(), name
    status = pair.source.status()
    assert (status.streams_opened, status.connections_opened) == (1, FILES)
    assert web.connections == FILES


def test_curl_uploads(rig: Rig, tmp_path: Path) -> None:
    """An answer that comes only after a large body has been read."""
    curl = require_program("curl")
    body = tmp_path / "body"
    with body.open("wb") as file:
        file.writelines(blocks(10 * MIB, seed=9))

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        answer = digest([await reader.readexactly(length)]).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer)

    server = rig.backends.serve(receive)
    pair = rig.pair({"HTTP": server.address})
    url = f"http://127.0.0.1:{pair.tcp().port}/"
    done = run_program(
        [curl, "--silent", "--fail", "-H", "Expect:", "--data-binary", f"@{body}", url]
    )
    assert done.stdout.decode() == digest(blocks(10 * MIB, seed=9))
