"""The servers behind the demo's tunnels, and the content that both sides can check.

Owns three real TCP servers, and bytes that a place in a stream determines, so that each byte can be
verified wherever it arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .plan import Meter


BLOCK_BYTES: Final = 4_096
"""Content is made in blocks of this size; a block depends on the seed and its number only."""


def block(seed: str, number: int) -> bytes:
    """Return block `number`, `BLOCK_BYTES` long, of the content of `seed`."""
    return hashlib.shake_128(f"{seed}/{number}".encode()).digest(BLOCK_BYTES)


class Content:
    """The endless content of a seed, read from its beginning.

    Args:
        seed: any text; different texts give unrelated content.
    """

    __slots__ = ("_buffer", "_next_block", "_seed")

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._next_block = 0
        self._buffer = b""

    def take(self, count_bytes: int) -> bytes:
        """Return the next `count_bytes` bytes, the same however they are divided into calls."""
        parts, have_bytes = [self._buffer], len(self._buffer)
        while have_bytes < count_bytes:
            parts.append(block(self._seed, self._next_block))
            self._next_block += 1
            have_bytes += BLOCK_BYTES
        joined = b"".join(parts)
        self._buffer = joined[count_bytes:]
        return joined[:count_bytes]


class Verifier:
    """Compares what arrives with the content of a seed, byte by byte.

    Args:
        seed: of the content that must arrive.
        size_bytes: how much of it must arrive; every byte beyond counts as wrong.
    """

    __slots__ = ("_content", "mismatched_bytes", "received_bytes", "size_bytes")

    def __init__(self, seed: str, size_bytes: int) -> None:
        self._content = Content(seed)
        self.size_bytes = size_bytes
        self.received_bytes = 0
        self.mismatched_bytes = 0

    @property
    def missing_bytes(self) -> int:
        """How many bytes have not arrived yet."""
        return max(0, self.size_bytes - self.received_bytes)

    @property
    def is_complete(self) -> bool:
        """Whether as much arrived as must arrive, right or wrong."""
        return self.missing_bytes == 0

    def feed(self, data: bytes) -> int:
        """Check the next bytes that arrived.

        Returns:
            How many of them are wrong.
        """
        wrong_bytes = count_differences(
            data, self._content.take(min(len(data), self.missing_bytes))
        )
        self.received_bytes += len(data)
        self.mismatched_bytes += wrong_bytes
        return wrong_bytes


def count_differences(received: bytes, expected: bytes) -> int:
    """Return in how many positions the two differ; a position that only one has is a difference."""
    if received == expected:
        return 0
    unequal = sum(a != b for a, b in zip(received, expected, strict=False))
    return unequal + abs(len(received) - len(expected))


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ECHO: Final = "ECHO"
HTTP: Final = "HTTP"
BULK: Final = "BULK"
SERVICES: Final = (ECHO, HTTP, BULK)
"""The services of a demo tunnel."""

HOST: Final = "127.0.0.1"
READ_BYTES: Final = 65_536
CHUNK_BYTES: Final = 16_384
MAX_CONTENT_BYTES: Final = 1_000_000_000
"""The largest content that a request may ask for."""
BACKLOG: Final = 128


class TunnelServers:
    """The three servers of one tunnel. Used on one event loop.

    Args:
        tunnel: the tunnel's name.
        meter: counts what the servers verify.
    """

    def __init__(self, tunnel: str, meter: Meter) -> None:
        self._tunnel = tunnel
        self._meter = meter
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> dict[str, int]:
        """Listen on free ports of loopback and return them by service id.

        Raises:
            OSError: no socket is to be had.
        """
        handlers: dict[str, Handler] = {ECHO: _echo, HTTP: self._http, BULK: self._bulk}
        ports = {}
        for service_id, handler in handlers.items():
            server = await asyncio.start_server(
                self._guarded(handler), HOST, 0, limit=READ_BYTES, backlog=BACKLOG
            )
            self._servers.append(server)
            ports[service_id] = int(server.sockets[0].getsockname()[1])
        return ports

    async def stop(self) -> None:
        """Close the servers and break off what they are doing."""
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._servers.clear()

    def _guarded(
        self, handler: Handler
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                # A peer that goes away or sends nonsense ends only its own connection.
                with contextlib.suppress(OSError, EOFError, ValueError):
                    await handler(reader, writer)
            except asyncio.CancelledError:
                writer.transport.abort()
            finally:
                self._tasks.discard(task)
                await close_writer(writer)

        return serve

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        while keep:
            head = (await _read_until(reader, b"\r\n\r\n")).decode("latin-1")
            method, path, _version = head.split("\r\n", 1)[0].split(" ")
            keep = "connection: close" not in head.lower()
            if method not in {"GET", "HEAD"}:
                await self._respond(writer, "405 Method Not Allowed", b"only GET\n", keep=keep)
            elif path.startswith("/bytes/"):
                await self._respond_bytes(writer, path, keep=keep, head_only=method == "HEAD")
            else:
                await self._greet(writer, path, keep=keep, head_only=method == "HEAD")

    async def _greet(
        self, writer: asyncio.StreamWriter, path: str, *, keep: bool, head_only: bool
    ) -> None:
        found = path == "/"
        text = (
            f"hello from tunnel {self._tunnel}\n" if found else "there is / and /bytes/SEED/SIZE\n"
        )
        status = "200 OK" if found else "404 Not Found"
        await self._respond(writer, status, text.encode(), keep=keep, head_only=head_only)

    async def _respond(
        self,
        writer: asyncio.StreamWriter,
        status: str,
        body: bytes,
        *,
        keep: bool,
        head_only: bool = False,
    ) -> None:
        write(writer, self._head(status, "text/plain", len(body), keep=keep))
        if not head_only:
            write(writer, body)
        await writer.drain()

    async def _respond_bytes(
        self, writer: asyncio.StreamWriter, path: str, *, keep: bool, head_only: bool
    ) -> None:
        seed, size = _content_of(path.removeprefix("/bytes/").split("/"))
        write(writer, self._head("200 OK", "application/octet-stream", size, keep=keep))
        if not head_only:
            await _send_content(writer, seed, size)
        await writer.drain()

    def _head(self, status: str, content_type: str, size_bytes: int, *, keep: bool) -> bytes:
        lines = (
            f"HTTP/1.1 {status}",
            f"Content-Type: {content_type}",
            f"Content-Length: {size_bytes}",
            f"Connection: {'keep-alive' if keep else 'close'}",
            f"X-Tunnel: {self._tunnel}",
        )
        return "\r\n".join((*lines, "", "")).encode()

    async def _bulk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await _read_until(reader, b"\n")).decode("latin-1")
        verb, *rest = line.split()
        seed, size = _content_of(rest)
        if verb == "GET":
            await _send_content(writer, seed, size)
        elif verb == "PUT":
            verifier = await self._receive(reader, seed, size)
            write(writer, f"{verifier.received_bytes} {verifier.mismatched_bytes}\n".encode())
            await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader, seed: str, size_bytes: int) -> Verifier:
        verifier = Verifier(seed, size_bytes)
        while not verifier.is_complete:
            data = await reader.read(min(READ_BYTES, verifier.missing_bytes))
            if not data:
                raise EOFError
            wrong = verifier.feed(data)
            self._meter.compared(len(data), wrong, f"{self._tunnel} {BULK} upload of {seed}")
        return verifier


def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write to a connection.

    Raises:
        ConnectionResetError: it has ended; uvloop would raise a RuntimeError, asyncio nothing.
    """
    if writer.transport.is_closing():
        raise ConnectionResetError("the connection has ended")
    writer.write(data)


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close a connection after what was written to it, whatever state it is in."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        write(writer, data)
        await writer.drain()


async def _send_content(writer: asyncio.StreamWriter, seed: str, size_bytes: int) -> None:
    content = Content(seed)
    for start in range(0, size_bytes, CHUNK_BYTES):
        write(writer, content.take(min(CHUNK_BYTES, size_bytes - start)))
        await writer.drain()


async def _read_until(reader: asyncio.StreamReader, separator: bytes) -> bytes:
    try:
        return await reader.readuntil(separator)
    except asyncio.LimitOverrunError as error:
        raise ValueError("the request is too long") from error


def _content_of(words: list[str]) -> tuple[str, int]:
    """Read seed and size. Raises ValueError when it is not these two, or the size not sane."""
    seed, size_text = words
    size_bytes = int(size_text)
    if not 0 <= size_bytes <= MAX_CONTENT_BYTES:
        raise ValueError("the size is out of range")
    return seed, size_bytes
