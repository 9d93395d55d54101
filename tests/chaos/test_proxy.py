"""The proxy does to bytes what it is told, and passes on what TCP passes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.waiting import WAIT_SECONDS

from .proxy import Proxy, Trigger, reset_socket

DATA = bytes(range(256)) * 400


class Between:
    """A proxy with a connected client and a server, both without a buffer of their own."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.client, data)

    async def receive(self, sock: socket.socket | None = None) -> bytes:
        return await self.loop.sock_recv(sock or self.server, 65_536)

    async def receive_exactly(self, size_bytes: int) -> bytes:
        found = b""
        while len(found) < size_bytes:
            data = await self.receive()
            assert data, f"ended after {len(found)}"
            found += data
        return found


def through(play: Callable[[Between], Awaitable[Any]]) -> None:
    """Have `play` use a proxy, and take it all down."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            proxy = Proxy(listener.getsockname())
            await proxy.start()
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, proxy.address)
                server, _ = await loop.sock_accept(listener)
                with server:
                    server.setblocking(False)
                    while not proxy.links:
                        await asyncio.sleep(0)
                    async with asyncio.timeout(WAIT_SECONDS):
                        await play(Between(proxy, client, server))
            await proxy.stop()
            assert not proxy.links

    asyncio.run(run())


def test_bytes_and_ends_pass_both_ways() -> None:
    async def play(between: Between) -> None:
        sending = asyncio.ensure_future(between.send(DATA))
        assert await between.receive_exactly(len(DATA)) == DATA
        await sending
        between.client.shutdown(socket.SHUT_WR)
        assert await between.receive() == b""
        await between.loop.sock_sendall(between.server, b"answer")
        between.server.close()
        assert await between.receive(between.client) == b"answer"
        assert await between.receive(between.client) == b""

    through(play)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_passes_as_a_reset(who: str) -> None:
    async def play(between: Between) -> None:
        ours, theirs = between.client, between.server
        if who == "server":
            ours, theirs = theirs, ours
        reset_socket(ours)
        with pytest.raises(ConnectionResetError):
            await between.receive(theirs)

    through(play)


def test_it_cuts_before_a_byte() -> None:
    fired: list[bool] = []

    async def play(between: Between) -> None:
        cut = Trigger(1_000, upwards=True, flips=False, fired=lambda: fired.append(True))
        between.proxy.arm(cut)
        await between.send(DATA[:2_000])
        assert await between.receive_exactly(1_000) == DATA[:1_000]
        with pytest.raises(ConnectionResetError):
            await between.receive()
        with pytest.raises(ConnectionResetError):
            await between.receive(between.client)

    through(play)
    assert fired == [True]


def test_it_corrupts_one_byte() -> None:
    async def play(between: Between) -> None:
        between.proxy.arm(Trigger(10, upwards=True, flips=True, fired=lambda: None))
        await between.send(DATA[:2_000])
        found = await between.receive_exactly(2_000)
        differing = [at for at in range(2_000) if found[at] != DATA[at]]
        assert differing == [10]

    through(play)


def test_a_hole_keeps_all_until_it_thaws() -> None:
    async def play(between: Between) -> None:
        between.proxy.hold()
        await between.send(b"late")
        receiving = asyncio.ensure_future(between.receive())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not receiving.done()
        between.proxy.thaw()
        assert await receiving == b"late"

    through(play)


def test_what_is_buried_never_comes_and_ends_with_who_waits_for_it() -> None:
    async def play(between: Between) -> None:
        assert between.proxy.bury()
        await between.send(b"lost")
        between.client.close()
        with pytest.raises(ConnectionResetError):
            await between.receive()
        while between.proxy.has_buried:
            await asyncio.sleep(0)

    through(play)


@pytest.mark.parametrize("drip_bytes", [1, 700])
def test_a_drip_and_a_latency_lose_nothing(drip_bytes: int) -> None:
    async def play(between: Between) -> None:
        between.proxy.weather.drip_bytes = drip_bytes
        between.proxy.weather.latency_seconds = 0.001
        between.proxy.weather.jitter_seconds = 0.001
        sending = asyncio.ensure_future(between.send(DATA))
        assert await between.receive_exactly(len(DATA)) == DATA
        await sending

    through(play)


def test_it_refuses_the_next_connections() -> None:
    async def play(between: Between) -> None:
        async def connect_and_receive(sock: socket.socket) -> None:
            await between.loop.sock_connect(sock, between.proxy.address)
            await between.receive(sock)

        refused: list[bool] = []
        between.proxy.refuse_next(1, lambda: refused.append(True))
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await connect_and_receive(sock)
        assert refused == [True]

    through(play)
