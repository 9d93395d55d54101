"""Real servers for tunnels to lead to, all on one asyncio thread.

Owns the servers that tests put behind a destination: one that echoes, one that hashes what it gets,
one that sends and closes at once, one that answers after the client's end. Must not know tunnels.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.support.content import blocks, digest
from tunnelfleet.runtime import Address, TcpAddress, UnixAddress

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LOOPBACK = TcpAddress("127.0.0.1", 0)
LOOPBACK_V6 = TcpAddress("::1", 0)
CALL_SECONDS = 60.0
ACCEPT_TURNS = 10
"""Of the loop: more than it takes from an accept to the task of its connection."""
READ_BYTES = 262_144
LISTEN_BACKLOG = 512
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one connection brought to a server.

    Attributes:
        size_bytes: how many bytes.
        sha256: their hash, in hexadecimal digits.
        clean: whether it ended with an end of file; False is a reset.
    """

    size_bytes: int
    sha256: str
    clean: bool


@dataclass
class Server:
    """One listening server.

    Attributes:
        address: where it listens.
        accepted: connections so far.
        active: connections now.
    """

    address: Address
    accepted: int = 0
    active: int = 0
    _arrivals: list[Arrival] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def count(self, *, accepted: int = 0, active: int = 0) -> None:
        """Add to the counters."""
        with self._changed:
            self.accepted += accepted
            self.active += active
            self._changed.notify_all()

    def arrived(self, arrival: Arrival) -> None:
        """Remember what a connection brought."""
        with self._changed:
            self._arrivals.append(arrival)
            self._changed.notify_all()

    def arrivals(self, count: int = 1, timeout_seconds: float = CALL_SECONDS) -> list[Arrival]:
        """Wait until `count` connections of a sink have ended; returns what all of them brought."""
        self.wait_for(lambda: len(self._arrivals) >= count, timeout_seconds, f"{count} arrivals")
        return list(self._arrivals)

    def wait_active(self, active: int, timeout_seconds: float = CALL_SECONDS) -> None:
        """Wait until so many connections are open."""
        self.wait_for(lambda: self.active == active, timeout_seconds, f"{active} open connections")

    def wait_for(self, true: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        """Wait until something is so; fails the test when it is not in time."""
        with self._changed:
            found = self._changed.wait_for(true, timeout_seconds)
        assert found, (
            f"no {what} at {self.address} in {timeout_seconds:g} s: {self.accepted} accepted, "
            f"{self.active} open, {len(self._arrivals)} arrived"
        )


class Backends:
    """Servers on one thread; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="backends", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        assert not self._thread.is_alive(), "the backends' thread does not end"
        self._loop.close()

    # -- servers

    def echo(self, address: Address = LOOPBACK) -> Server:
        """Sends back what it gets; at the client's end it sends what is left, then ends."""
        return self._listen(address, _echo)

    def sink(self, address: Address = LOOPBACK, *, answer: bytes = b"") -> Server:
        """Reads to the end, records an `Arrival`, sends `answer` and closes."""

        async def handle(
            server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            arrival = await _hash(reader)
            server.arrived(arrival)
            if arrival.clean:
                writer.write(answer)
                await writer.drain()

        return self._listen(address, handle)

    def giver(self, size_bytes: int, address: Address = LOOPBACK, *, seed: int = 0) -> Server:
        """Sends `content.blocks(size_bytes, seed)` and closes at once after the last byte."""

        async def handle(
            _server: Server, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            for block in blocks(size_bytes, seed):
                writer.write(block)
                await writer.drain()

        return self._listen(address, handle)

    def answerer(self, size_bytes: int, address: Address = LOOPBACK, *, seed: int = 0) -> Server:
        """Waits for the client's end of file, then sends `content.blocks(size_bytes, seed)`."""

        async def handle(
            server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            question = await reader.read(-1)
            server.arrived(Arrival(len(question), digest([question]), clean=True))
            for block in blocks(size_bytes, seed):
                writer.write(block)
                await writer.drain()

        return self._listen(address, handle)

    def half_closer(
        self, greeting: bytes, ended: threading.Event, address: Address = LOOPBACK
    ) -> Server:
        """Sends `greeting` and ends its side, sets `ended`, then is a sink."""

        async def handle(
            server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            writer.write(greeting)
            writer.write_eof()
            ended.set()
            server.arrived(await _hash(reader))

        return self._listen(address, handle)

    def never_reads(self, address: Address = LOOPBACK) -> Server:
        """Accepts and never reads: an application that hangs."""

        async def handle(
            _server: Server, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.Event().wait()

        return self._listen(address, handle)

    def serve(
        self, handler: Handler, address: Address = LOOPBACK, *, tls: ssl.SSLContext | None = None
    ) -> Server:
        """Any other server: `handler` is called for each connection, which is closed after it."""

        async def handle(
            _server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await handler(reader, writer)

        return self._listen(address, handle, tls)

    # -- how

    def _listen(
        self,
        address: Address,
        handle: Callable[..., Awaitable[None]],
        tls: ssl.SSLContext | None = None,
    ) -> Server:
        server = Server(address)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            server.count(accepted=1, active=1)
            try:
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await handle(server, reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await writer.wait_closed()
                # Not before: the loop is stopped when no task is left.
                self._tasks.discard(task)
                server.count(active=-1)

        server.address = self._call(self._start(serve, address, tls))
        return server

    async def _start(self, serve: Handler, address: Address, tls: ssl.SSLContext | None) -> Address:
        if isinstance(address, UnixAddress):
            running = await asyncio.start_unix_server(serve, address.path)
            self._servers.append(running)
            return address
        running = await asyncio.start_server(
            serve, address.host, address.port, backlog=LISTEN_BACKLOG, limit=READ_BYTES, ssl=tls
        )
        self._servers.append(running)
        return TcpAddress(address.host, running.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        for server in self._servers:
            for sock in server.sockets:
                self._loop.remove_reader(sock.fileno())
        # What was accepted becomes a connection, with a task that looks after it, before its server
        # is closed: Python 3.11 leaves it to the garbage collector otherwise.
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        for server in self._servers:
            names = [sock.getsockname() for sock in server.sockets]
            server.close()
            for name in names:
                if isinstance(name, str):
                    Path(name).unlink(missing_ok=True)
        for task in list(self._tasks):
            task.cancel()
        deadline = time.monotonic() + CALL_SECONDS / 2
        while self._tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        # A transport that was closed is over in one of the next turns.
        for _ in range(3):
            await asyncio.sleep(0)

    def _call(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _echo(
    _server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()


async def _hash(reader: asyncio.StreamReader) -> Arrival:
    sha, size = hashlib.sha256(), 0
    try:
        while data := await reader.read(READ_BYTES):
            sha.update(data)
            size += len(data)
    except ConnectionError:
        return Arrival(size, sha.hexdigest(), clean=False)
    return Arrival(size, sha.hexdigest(), clean=True)
