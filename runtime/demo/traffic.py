"""The traffic of the demo: clients that talk through the tunnels, and who starts them.

Owns how many there are, how long they go on, and the client's half of each service's protocol, with
every byte checked. That a connection ends early is raised, as OSError or EOFError.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from tunnelfleet.actors.kernel.loop_io import new_event_loop
from tunnelfleet.proto import counted

from .plan import Meter, Pacer, TrafficPlan
from .servers import (
    BULK,
    CHUNK_BYTES,
    ECHO,
    HTTP,
    READ_BYTES,
    Content,
    TunnelServers,
    Verifier,
    close_writer,
    write,
)

if TYPE_CHECKING:
    from .fleet import TunnelPair

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


@dataclass(slots=True)
class _Attempt:
    """One connection of a client, from before it is opened."""

    seed: str
    started_at: float
    link: AppConnection | None = field(default=None, repr=False)

    @property
    def missing_bytes(self) -> int:
        return self.link.missing_bytes if self.link is not None else 1


CLIENTS: Final = {ECHO: 1, HTTP: 2, BULK: 1}
"""How many clients use each service of a tunnel at once."""
RETRY_SECONDS: Final = 0.25
"""How long a client pauses when its connection ended early."""
_EARLY_ENDS = (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError)


class TunnelClients:
    """The clients of one tunnel. Used on one event loop.

    Args:
        pair: the tunnel.
        addresses: where its source listens, host and port by service id.
        plan: how much to do.
        meter: counts it.
        seed: what all content is made from.
    """

    def __init__(
        self,
        pair: TunnelPair,
        addresses: Mapping[str, tuple[str, int]],
        plan: TrafficPlan,
        meter: Meter,
        seed: int = 0,
    ) -> None:
        self._pair = pair
        self._addresses = addresses
        self._plan = plan
        self._meter = meter
        self._seed = seed
        self._pacer = Pacer(plan.bytes_per_second)
        self._stopping = asyncio.Event()
        self._at_once = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the clients; they go on until they are stopped."""
        for service_id, count in CLIENTS.items():
            for number in range(count):
                work = self._work(service_id, f"{self._pair.name}.{service_id}.{number}")
                self._tasks.append(asyncio.create_task(work))

    async def stop(self, grace_seconds: float) -> None:
        """Stop the clients.

        Args:
            grace_seconds: how long they may finish what they have begun; what an undisturbed
                tunnel does not deliver in this time is counted as faulty. 0 breaks off at once and
                judges nothing.
        """
        self._stopping.set()
        self._at_once = grace_seconds == 0
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for error in ends:
            if isinstance(error, Exception):
                raise error

    async def _work(self, service_id: str, name: str) -> None:
        rng = random.Random(f"{self._seed}/{name}")  # noqa: S311 (sizes of test content)
        await self._rest(rng.random())
        number = 0
        while not self._stopping.is_set():
            number += 1
            attempt = _Attempt(f"{name}.{self._seed}.{number}", self._pair.now())
            if not await self._try(service_id, attempt, rng):
                await self._rest(RETRY_SECONDS)

    async def _try(self, service_id: str, attempt: _Attempt, rng: random.Random) -> bool:
        try:
            await self._converse(service_id, attempt, rng)
        except _EARLY_ENDS as error:
            self._judge(attempt, type(error).__name__)
            return False
        except asyncio.CancelledError:
            self._judge_cut(attempt)
            raise
        self._meter.exchanges_completed += 1
        return True

    async def _converse(self, service_id: str, attempt: _Attempt, rng: random.Random) -> None:
        host, port = self._addresses[service_id]
        async with asyncio.timeout(STALL_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
        name = f"{self._pair.name} {service_id} content {attempt.seed}"
        attempt.link = AppConnection(reader, writer, self._pacer, self._meter, name, self._stopping)
        try:
            await CONVERSATIONS[service_id](attempt.link, attempt.seed, rng, self._plan)
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            await close_writer(writer)

    def _judge(self, attempt: _Attempt, how: str) -> None:
        """Tell a connection that chaos broke from one that lost bytes."""
        if self._pair.was_disturbed_since(attempt.started_at):
            self._meter.exchanges_broken += 1
            return
        missing_bytes = attempt.missing_bytes
        text = (
            f"{attempt.seed}: {counted(missing_bytes, 'byte')} never arrived ({how}) "
            "though nothing broke it"
        )
        self._meter.fault(missing_bytes, text)

    def _judge_cut(self, attempt: _Attempt) -> None:
        if self._at_once:
            self._meter.exchanges_cut += 1
        else:
            self._judge(attempt, "still waiting at the end")

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


COMMAND_SECONDS: Final = 30.0
"""How long a call from the demo's thread waits for this one."""

_Result = TypeVar("_Result")


class Traffic:
    """All servers and clients, on one thread. Use it as a context manager.

    Args:
        seed: what all content is made from.
    """

    def __init__(self, seed: int = 0) -> None:
        self.meter = Meter()
        self._seed = seed
        self._servers: list[TunnelServers] = []
        self._clients: list[TunnelClients] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="demo-traffic", daemon=True)
        self._ready = threading.Event()
        self._closing: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def serve(self, tunnel: str) -> dict[str, int]:
        """Start the servers of a tunnel and return their ports of loopback by service id."""
        return self._do(self._serve(tunnel))

    def start_clients(
        self, ready: Mapping[TunnelPair, Mapping[str, tuple[str, int]]], plan: TrafficPlan
    ) -> None:
        """Start the clients of some tunnels.

        Args:
            ready: for each tunnel where its source listens, host and port by service id.
            plan: how much the clients of each do.
        """
        self._do(self._start_clients(ready, plan))

    def stop_clients(self, grace_seconds: float) -> Future[None]:
        """Stop all clients, see `TunnelClients.stop`; the future is done when they have ended."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._stop_clients(grace_seconds), self._loop)

    def close(self) -> None:
        """Stop the clients at once, then the servers, then the thread. Safe to call twice."""
        loop, closing = self._loop, self._closing
        if loop is not None and closing is not None and not loop.is_closed():
            loop.call_soon_threadsafe(closing.set)
        self._thread.join(COMMAND_SECONDS)

    # the thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._ready.set()
        await self._closing.wait()
        try:
            await self._stop_clients(0.0)
        finally:
            await asyncio.gather(*(servers.stop() for servers in self._servers))

    async def _serve(self, tunnel: str) -> dict[str, int]:
        servers = TunnelServers(tunnel, self.meter)
        self._servers.append(servers)
        return await servers.start()

    async def _start_clients(
        self, ready: Mapping[TunnelPair, Mapping[str, tuple[str, int]]], plan: TrafficPlan
    ) -> None:
        for pair, addresses in ready.items():
            clients = TunnelClients(pair, addresses, plan, self.meter, self._seed)
            self._clients.append(clients)
            clients.start()

    async def _stop_clients(self, grace_seconds: float) -> None:
        stops = [clients.stop(grace_seconds) for clients in self._clients]
        ends = await asyncio.gather(*stops, return_exceptions=True)
        self._clients.clear()
        for error in ends:
            if isinstance(error, Exception):
                raise error

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(COMMAND_SECONDS)
