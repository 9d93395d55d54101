"""A TCP proxy that does to bytes what networks do to them, when it is told.

A `Proxy` stands in one place and takes any number of connections to one address. Its `weather`
holds for all of them and may change at any time; a `Trigger` waits for a byte of one direction of
the newest connection, or of the next if there is none. It passes on what TCP passes on: an end of
one direction as such, and a reset as a reset. All of it runs on one asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

READ_BYTES: Final = 65_536
RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)
DRIP_PAUSE_SECONDS: Final = 0.001
DRIP_PIECES: Final = 150
"""Of each read so many pieces are dripped, then the rest goes at once: slow has an end."""


class Broken(Exception):  # noqa: N818 - it is no error
    """Both sides of a connection are to be reset."""


@dataclass
class Weather:
    """What holds for all connections of a proxy.

    Attributes:
        latency_seconds: each read is passed on so late.
        jitter_seconds: and by chance up to so much later.
        drip_bytes: it is passed on in pieces of so many bytes, with pauses; 0: in one.
    """

    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    drip_bytes: int = 0


@dataclass
class Trigger:
    """Something that happens at a byte.

    Attributes:
        at_byte: before this one of the direction, or at it if it is corrupted.
        upwards: the direction: away from who connected.
        flips: corrupt the byte; otherwise both sides are reset.
        fired: is called when it has happened.
    """

    at_byte: int
    upwards: bool
    flips: bool
    fired: Callable[[], object]


@dataclass(eq=False)
class _Link:
    """One connection: both sockets, and how far each direction is."""

    near: socket.socket
    far: socket.socket
    triggers: list[Trigger]
    is_dead: bool = False
    is_broken: bool = False
    """A send has failed. The kernel tells of a reset once: who reads after that reads an end."""
    task: asyncio.Task[None] | None = None
    passed: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})


def reset_socket(sock: socket.socket) -> None:
    """Close a socket so that its peer gets a reset."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    sock.close()


class Proxy:
    """A place on the way to an address; `start` and `stop` it on its loop.

    Args:
        target: where its connections lead to.
        seed: of its jitter.

    Attributes:
        address: where it listens.
        weather: what holds for all connections.
        links: the connections that it has.
    """

    def __init__(self, target: tuple[str, int], seed: int = 0) -> None:
        self.target = target
        self.weather = Weather()
        self.links: set[_Link] = set()
        self._chance = random.Random(seed)
        self._waiting: list[Trigger] = []
        self._refusals = 0
        self._refused: Callable[[], object] = lambda: None
        self._open = asyncio.Event()
        self._open.set()
        self._newest: _Link | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()

    async def start(self) -> None:
        """Take connections from now on."""
        self._spawn(self._accept())

    async def stop(self) -> None:
        """Reset what is left, and listen no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    # -- faults

    def arm(self, trigger: Trigger) -> None:
        """Have something happen at a byte of the newest connection, or of the next one."""
        link = self._newest
        if link is None or link.passed[trigger.upwards] > trigger.at_byte:
            self._waiting.append(trigger)
        else:
            link.triggers.append(trigger)

    def refuse_next(self, count: int, refused: Callable[[], object]) -> None:
        """Reset the next connections as they come."""
        self._refusals, self._refused = count, refused

    def hold(self) -> None:
        """Pass nothing on until `thaw`: a black hole."""
        self._open.clear()

    def thaw(self) -> None:
        """Pass on what was held, and all that comes."""
        self._open.set()

    def bury(self) -> bool:
        """Pass nothing on any more on the connections that there are; say whether there are any."""
        for link in self.links:
            link.is_dead = True
        self._newest = None
        return bool(self.links)

    @property
    def has_buried(self) -> bool:
        """Whether somebody still takes a buried connection for one."""
        return any(link.is_dead for link in self.links)

    def reset(self) -> bool:
        """Reset the connections that there are, on both sides; say whether there were any."""
        for link in self.links:
            if link.task is not None and not link.is_dead:
                link.task.cancel()
        return bool(self.links)

    def calm(self) -> None:
        """Undo all that lasts."""
        self.weather = Weather()
        self._waiting.clear()
        self._refusals = 0
        for link in self.links:
            link.triggers.clear()
        self.thaw()

    # -- connections

    def _spawn(self, coroutine: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(self._listener)
            near.setblocking(False)
            if self._refusals > 0:
                self._refusals -= 1
                self._refused()
                reset_socket(near)
                continue
            self._spawn(self._connect(near))

    async def _connect(self, near: socket.socket) -> None:
        far = socket.socket()
        far.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(far, self.target)
        except BaseException as error:
            far.close()
            reset_socket(near)
            if isinstance(error, OSError):
                return
            raise
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        triggers, self._waiting = self._waiting, []
        link = _Link(near, far, triggers)
        link.task = asyncio.current_task()
        self.links.add(link)
        self._newest = link
        await self._carry(link)

    async def _carry(self, link: _Link) -> None:
        pumps = [
            asyncio.ensure_future(self._pump(link, link.near, link.far, upwards=True)),
            asyncio.ensure_future(self._pump(link, link.far, link.near, upwards=False)),
        ]
        is_whole = False
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
            is_whole = len(done) == 2 and all(each.exception() is None for each in done)
        finally:
            for pump in pumps:
                pump.cancel()
            try:
                # Nobody waits for a socket any more when it is closed.
                await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                self._close(link, is_whole=is_whole)

    def _close(self, link: _Link, *, is_whole: bool) -> None:
        for sock in (link.near, link.far):
            if is_whole:
                sock.close()
            else:
                reset_socket(sock)
        self.links.discard(link)
        if self._newest is link:
            self._newest = None

    async def _pump(
        self, link: _Link, origin: socket.socket, target: socket.socket, *, upwards: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(origin, READ_BYTES)
            if not link.is_dead and not self._open.is_set():
                await self._open.wait()
            if link.is_dead:
                await self._swallow(origin, data)
            if not data:
                break
            await self._weathered()
            try:
                await self._send(link, target, data, upwards=upwards)
            except OSError:
                link.is_broken = True
                raise
        if link.is_broken:
            raise Broken
        target.shutdown(socket.SHUT_WR)

    async def _swallow(self, origin: socket.socket, data: bytes) -> None:
        """Pass nothing on, until whoever sends it has given up."""
        while data:
            data = await asyncio.get_running_loop().sock_recv(origin, READ_BYTES)
        raise Broken

    async def _weathered(self) -> None:
        weather = self.weather
        seconds = weather.latency_seconds + weather.jitter_seconds * self._chance.random()
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _send(
        self, link: _Link, target: socket.socket, data: bytes, *, upwards: bool
    ) -> None:
        """Send it, up to where a trigger waits; then do what that says."""
        passed = link.passed[upwards]
        for trigger in list(link.triggers):
            at = trigger.at_byte - passed
            if trigger.upwards is not upwards or not 0 <= at < len(data):
                continue
            link.triggers.remove(trigger)
            trigger.fired()
            if not trigger.flips:
                await asyncio.get_running_loop().sock_sendall(target, data[:at])
                raise Broken
            data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        link.passed[upwards] += len(data)
        await self._drip(link, target, data)

    async def _drip(self, link: _Link, target: socket.socket, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        start = 0
        for _ in range(DRIP_PIECES):
            piece = self.weather.drip_bytes
            if piece == 0 or start >= len(data):
                break
            await loop.sock_sendall(target, data[start : start + piece])
            start += piece
            await asyncio.sleep(DRIP_PAUSE_SECONDS)
            if link.is_dead:
                return
            await self._open.wait()
        if start < len(data):
            await loop.sock_sendall(target, data[start:])
