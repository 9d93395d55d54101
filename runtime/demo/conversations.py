"""What the demo's clients say to the servers, one function for each service, every byte checked.

Owns the client's half of each service's protocol, on one open connection. Must not know tunnels,
nor what it means when the connection ends early: that is raised, as OSError or EOFError.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from .pacing import Meter, Pacer, TrafficPlan
from .servers import BULK, CHUNK_BYTES, ECHO, HTTP, READ_BYTES, Content, Verifier, write

Conversation = Callable[["AppConnection", str, random.Random, TrafficPlan], Awaitable[None]]

STALL_SECONDS: Final = 30.0
"""When nothing arrives for so long, the connection has lost what it waits for."""
MAX_ECHO_BYTES: Final = 1_024
ECHO_ROUNDS: Final = 40
MAX_REQUESTS: Final = 4
UPLOAD_SHARE: Final = 0.8
"""How many bulk transfers are uploads, so that about as much goes each way."""


class AppConnection:
    """A client's connection through a tunnel: paced, counted, and checked.

    Args:
        reader: of the connection.
        writer: of the connection.
        pacer: what is sent and received is booked here.
        meter: and counted here.
        name: of tunnel, service and client, for fault reports.
        stopping: set when no new round should begin.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pacer: Pacer,
        meter: Meter,
        name: str,
        stopping: asyncio.Event,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._pacer = pacer
        self._meter = meter
        self._name = name
        self._stopping = stopping
        self.awaited: Verifier | None = None
        """What is being received, so that missing bytes can be counted."""

    @property
    def missing_bytes(self) -> int:
        """How many bytes had yet to arrive; at least 1 if the conversation is not over."""
        return max(1, self.awaited.missing_bytes if self.awaited is not None else 1)

    @property
    def is_stopping(self) -> bool:
        """Whether to begin nothing new."""
        return self._stopping.is_set()

    async def rest(self, seconds: float) -> None:
        """Wait, but not beyond the end of the traffic."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def send(self, data: bytes) -> None:
        """Send `data` at the pace."""
        write(self._writer, data)
        self._meter.sent_bytes += len(data)
        async with asyncio.timeout(STALL_SECONDS):
            await self._writer.drain()
        await self._pacer.spend(len(data))

    async def receive(self, verifier: Verifier, until_bytes: int | None = None) -> None:
        """Receive and compare all that `verifier` waits for, or until it has `until_bytes`.

        Raises:
            EOFError: the connection ended before.
            TimeoutError: nothing came for `STALL_SECONDS`.
        """
        self.awaited = verifier
        goal = verifier.size_bytes if until_bytes is None else until_bytes
        while verifier.received_bytes < goal:
            data = await self._read(min(READ_BYTES, goal - verifier.received_bytes))
            if not data:
                raise EOFError
            self._meter.compared(len(data), verifier.feed(data), self._name)

    async def receive_head(self, separator: bytes) -> bytes:
        """Receive up to and with `separator`. Raises EOFError, TimeoutError as `receive` does."""
        self.awaited = None
        async with asyncio.timeout(STALL_SECONDS):
            data = await self._reader.readuntil(separator)
        self._meter.received_bytes += len(data)
        return data

    async def receive_end(self) -> None:
        """Receive the end of the connection; bytes before it count as wrong."""
        while data := await self._read(READ_BYTES):
            self._meter.compared(len(data), len(data), f"{self._name} after its end")

    def expect(self, received: bytes, expected: bytes) -> None:
        """Compare an answer as a whole; all of it counts as wrong when it is."""
        wrong_bytes = 0 if received == expected else max(1, len(received))
        self._meter.compared(len(received), wrong_bytes, f"{self._name} got an unexpected answer")

    async def _read(self, limit_bytes: int) -> bytes:
        async with asyncio.timeout(STALL_SECONDS):
            data = await self._reader.read(limit_bytes)
        self._meter.received_bytes += len(data)
        await self._pacer.spend(len(data))
        return data


async def converse_echo(
    link: AppConnection, seed: str, rng: random.Random, plan: TrafficPlan
) -> None:
    """Send small messages and take each back, as somebody typing into a shell does."""
    sizes = [rng.randint(1, MAX_ECHO_BYTES) for _ in range(ECHO_ROUNDS)]
    content, verifier = Content(seed), Verifier(seed, sum(sizes))
    for size_bytes in sizes:
        await link.send(content.take(size_bytes))
        await link.receive(verifier, verifier.received_bytes + size_bytes)
        await link.rest(plan.echo_pause_seconds)
        if link.is_stopping:
            return


async def fetch_pages(
    link: AppConnection, seed: str, rng: random.Random, plan: TrafficPlan
) -> None:
    """Fetch a few pages over one kept-alive HTTP connection."""
    for number in range(rng.randint(1, MAX_REQUESTS)):
        page = f"{seed}.{number}"
        size_bytes = rng.randint(1, 2 * plan.page_bytes)
        await link.send(f"GET /bytes/{page}/{size_bytes} HTTP/1.1\r\nHost: demo\r\n\r\n".encode())
        head = await link.receive_head(b"\r\n\r\n")
        link.expect(_essence(head), _expected_essence(seed, size_bytes))
        await link.receive(Verifier(page, size_bytes))
        if link.is_stopping:
            return


async def transfer_bulk(
    link: AppConnection, seed: str, rng: random.Random, plan: TrafficPlan
) -> None:
    """Move a file, up or down."""
    size_bytes = rng.randint(plan.bulk_bytes // 2, 2 * plan.bulk_bytes)
    if rng.random() < UPLOAD_SHARE:
        await upload(link, seed, size_bytes)
    else:
        await download(link, seed, size_bytes)


async def download(link: AppConnection, seed: str, size_bytes: int) -> None:
    """Receive a file whose sender closes right after the last byte: all of it must still come."""
    await link.send(f"GET {seed} {size_bytes}\n".encode())
    await link.receive(Verifier(seed, size_bytes))
    await link.receive_end()


async def upload(link: AppConnection, seed: str, size_bytes: int) -> None:
    """Send a file, which the server compares as it comes, and have it confirmed."""
    await link.send(f"PUT {seed} {size_bytes}\n".encode())
    content = Content(seed)
    for start in range(0, size_bytes, CHUNK_BYTES):
        await link.send(content.take(min(CHUNK_BYTES, size_bytes - start)))
    link.expect(await link.receive_head(b"\n"), f"{size_bytes} 0\n".encode())


CONVERSATIONS: Final[dict[str, Conversation]] = {
    ECHO: converse_echo,
    HTTP: fetch_pages,
    BULK: transfer_bulk,
}


def _essence(head: bytes) -> bytes:
    """Return the status, length and tunnel's name of a response, which the client can predict."""
    lines = head.split(b"\r\n")
    fields = (
        line for line in lines[1:] if line.lower().startswith((b"content-length", b"x-tunnel"))
    )
    return b"\n".join((lines[0], *sorted(fields)))


def _expected_essence(seed: str, size_bytes: int) -> bytes:
    tunnel = seed.split(".", 1)[0]
    return f"HTTP/1.1 200 OK\nContent-Length: {size_bytes}\nX-Tunnel: {tunnel}".encode()
