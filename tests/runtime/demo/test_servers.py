from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.demo import run_coroutine
from tests.support.waiting import until
from tunnelfleet.runtime.demo.plan import Meter
from tunnelfleet.runtime.demo.servers import (
    BULK,
    ECHO,
    HTTP,
    MAX_CONTENT_BYTES,
    READ_BYTES,
    SERVICES,
    Content,
    TunnelServers,
    close_writer,
    write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def serving(meter: Meter | None = None) -> AsyncIterator[dict[str, int]]:
    servers = TunnelServers("press-01", meter or Meter())
    try:
        yield await servers.start()
    finally:
        await servers.stop()


async def ask(port: int, *pieces: bytes, end: bool = True) -> bytes:
    """Send `pieces`, end the sending, and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if end:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        await close_writer(writer)


def answer(service_id: str, *pieces: bytes, meter: Meter | None = None, end: bool = True) -> bytes:
    async def main() -> bytes:
        async with serving(meter) as ports:
            return await ask(ports[service_id], *pieces, end=end)

    data: bytes = run_coroutine(main())
    return data


def test_there_is_a_server_for_every_service() -> None:
    async def main() -> dict[str, int]:
        async with serving() as ports:
            return ports

    ports = run_coroutine(main())
    assert set(ports) == set(SERVICES)
    assert len(set(ports.values())) == len(SERVICES)


def test_echo_sends_back_what_it_gets() -> None:
    data = Content("echo").take(300_000)

    assert answer(ECHO, data) == data


def test_http_greets_with_the_tunnel_name() -> None:
    head, body = answer(HTTP, b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n").split(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"X-Tunnel: press-01" in head
    assert body == b"hello from tunnel press-01\n"


def test_http_serves_several_requests_on_one_connection() -> None:
    request = b"GET /bytes/seed/5000 HTTP/1.1\r\n\r\n"
    parts = answer(HTTP, request[:7], request[7:] + request).split(b"HTTP/1.1 200 OK\r\n")

    assert len(parts) == 3
    for part in parts[1:]:
        head, body = part.split(b"\r\n\r\n", 1)
        assert b"Content-Length: 5000" in head
        assert body == Content("seed").take(5_000)


def test_http_closes_when_it_is_asked_to() -> None:
    reply = answer(HTTP, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", end=False)

    assert b"Connection: close" in reply


def test_http_answers_head_without_a_body() -> None:
    reply = answer(HTTP, b"HEAD /bytes/seed/5000 HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n")

    assert reply.count(b"\r\n\r\n") == 2
    assert b"Content-Length: 5000" in reply
    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"GET /else HTTP/1.1", b"404 Not Found"), (b"POST / HTTP/1.1", b"405 Method Not Allowed")],
)
def test_http_refuses_what_it_does_not_have(request_line: bytes, status: bytes) -> None:
    assert answer(HTTP, request_line + b"\r\n\r\n").startswith(b"HTTP/1.1 " + status)


def test_bulk_sends_the_content_and_closes() -> None:
    assert answer(BULK, b"GET seed 200000\n", end=False) == Content("seed").take(200_000)


def test_bulk_verifies_what_it_receives() -> None:
    meter, data = Meter(), Content("seed").take(100_000)
    reply = answer(BULK, b"PUT seed 100000\n", data, meter=meter)

    assert reply == b"100000 0\n"
    assert (meter.verified_bytes, meter.mismatched_bytes) == (100_000, 0)


def test_bulk_finds_wrong_bytes() -> None:
    meter, data = Meter(), bytearray(Content("seed").take(1_000))
    data[500] ^= 0xFF
    reply = answer(BULK, b"PUT seed 1000\n", bytes(data), meter=meter)

    assert reply == b"1000 1\n"
    assert meter.mismatched_bytes == 1
    assert "press-01 BULK upload of seed" in meter.first_fault


def test_bulk_does_not_confirm_half_an_upload() -> None:
    meter = Meter()

    assert answer(BULK, b"PUT seed 1000\n", Content("seed").take(400), meter=meter) == b""
    assert (meter.verified_bytes, meter.mismatched_bytes) == (400, 0)


@pytest.mark.parametrize(
    ("service_id", "nonsense"),
    [
        (HTTP, b"nonsense\r\n\r\n"),
        (HTTP, b"GET /bytes/seed HTTP/1.1\r\n\r\n"),
        (HTTP, b"GET /bytes/seed/-1 HTTP/1.1\r\n\r\n"),
        (HTTP, b"x" * (3 * READ_BYTES)),
        (BULK, b"GET seed many\n"),
        (BULK, b"GET seed\n"),
        (BULK, f"GET seed {MAX_CONTENT_BYTES + 1}\n".encode()),
        (BULK, b"DELETE seed 10\n"),
        (BULK, b"GET seed"),
    ],
)
def test_nonsense_ends_its_own_connection_only(service_id: str, nonsense: bytes) -> None:
    async def main() -> tuple[bytes, bytes]:
        async with serving() as ports:
            try:
                reply = await ask(ports[service_id], nonsense)
            except ConnectionError:
                reply = b""
            return reply, await ask(ports[ECHO], b"still here")

    assert run_coroutine(main()) == (b"", b"still here")


def test_stopping_breaks_off_what_is_under_way() -> None:
    async def main() -> bytes:
        servers = TunnelServers("press-01", Meter())
        ports = await servers.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[BULK])
        try:
            writer.write(b"GET seed 1000000000\n")
            first = await reader.readexactly(1_000)
            async with asyncio.timeout(10):
                await servers.stop()
            return first
        finally:
            writer.transport.abort()
            await close_writer(writer)

    assert run_coroutine(main()) == Content("seed").take(1_000)


def test_writing_to_a_connection_that_ended_raises_the_same_on_any_loop() -> None:
    async def main() -> None:
        async with serving() as ports:
            _reader, writer = await asyncio.open_connection("127.0.0.1", ports[ECHO])
            writer.transport.abort()
            await until(writer.transport.is_closing)
            with pytest.raises(ConnectionResetError):
                write(writer, b"data")
            await close_writer(writer)

    run_coroutine(main())
