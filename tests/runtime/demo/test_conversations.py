from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.support.demo import FaultyWire, run_coroutine
from tunnelfleet.runtime.demo import traffic
from tunnelfleet.runtime.demo.plan import Meter, Pacer, TrafficPlan
from tunnelfleet.runtime.demo.servers import BULK, ECHO, HTTP, TunnelServers, close_writer
from tunnelfleet.runtime.demo.traffic import (
    CONVERSATIONS,
    AppConnection,
    converse_echo,
    download,
    fetch_pages,
    upload,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Talk = Callable[[AppConnection], Awaitable[None]]
    Damage = Callable[[bytes], bytes | None]

PLAN = TrafficPlan(bytes_per_second=1_000_000.0, echo_pause_seconds=0.001)
SEED = "press-01.0"


def unharmed(data: bytes) -> bytes:
    return data


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def converse(
    service_id: str, talk: Talk, damage: Damage = unharmed, *, stopping: bool = False
) -> tuple[Meter, AppConnection]:
    """Hold a conversation with the server of a tunnel, over a wire that does `damage`."""

    async def main() -> tuple[Meter, AppConnection]:
        meter, servers = Meter(), TunnelServers("press-01", Meter())
        stop = asyncio.Event()
        if stopping:
            stop.set()
        async with FaultyWire((await servers.start())[service_id], damage) as wire:
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            link = AppConnection(reader, writer, Pacer(1e9), meter, f"press-01 {service_id}", stop)
            try:
                await talk(link)
            except (OSError, EOFError) as error:
                link.ended = type(error)  # type: ignore[attr-defined]
            finally:
                writer.transport.abort()
                await close_writer(writer)
                await servers.stop()
        return meter, link

    result: tuple[Meter, AppConnection] = run_coroutine(main())
    return result


def with_rng(service_id: str) -> Talk:
    return lambda link: CONVERSATIONS[service_id](link, SEED, random.Random(1), PLAN)


@pytest.mark.parametrize("service_id", [ECHO, HTTP, BULK])
def test_an_unharmed_conversation_is_all_right(service_id: str) -> None:
    meter, link = converse(service_id, with_rng(service_id))

    assert not hasattr(link, "ended")
    assert meter.mismatched_bytes == 0
    assert meter.sent_bytes > 0
    assert meter.received_bytes > 0


def test_a_bulk_transfer_goes_either_way() -> None:
    directions = set()
    for number in range(20):
        rng = random.Random(number)
        meter, _ = converse(
            BULK, lambda link, rng=rng: CONVERSATIONS[BULK](link, SEED, rng, TrafficPlan(1e4, 1.0))
        )
        assert meter.mismatched_bytes == 0
        directions.add(meter.sent_bytes > meter.received_bytes)

    assert directions == {True, False}


@pytest.mark.parametrize("service_id", [ECHO, HTTP])
def test_a_flipped_bit_is_found(service_id: str) -> None:
    meter, _ = converse(service_id, with_rng(service_id), flip_last)

    assert meter.mismatched_bytes > 0
    assert meter.first_fault.startswith(f"press-01 {service_id}")


def test_a_flipped_bit_of_a_download_is_found() -> None:
    meter, _ = converse(BULK, lambda link: download(link, SEED, 50_000), flip_last)

    assert 0 < meter.mismatched_bytes < 50
    assert meter.verified_bytes == 50_000 - meter.mismatched_bytes


def test_a_response_of_another_tunnel_is_found() -> None:
    meter, _ = converse(
        HTTP, lambda link: fetch_pages(link, "lathe-01.HTTP.1", random.Random(1), PLAN)
    )

    assert meter.mismatched_bytes > 0
    assert "unexpected answer" in meter.first_fault


def test_an_upload_that_the_server_found_wrong_is_wrong() -> None:
    meter, _ = converse(
        BULK, lambda link: upload(link, SEED, 3_000), lambda data: data.replace(b" 0\n", b" 7\n")
    )

    assert meter.mismatched_bytes > 0


def test_bytes_after_the_end_of_a_download_are_wrong() -> None:
    meter, _ = converse(BULK, lambda link: download(link, SEED, 3_000), lambda data: data + b"more")

    assert meter.mismatched_bytes >= 4


def test_an_early_end_tells_how_much_is_missing() -> None:
    left = [20_000]

    def cut(data: bytes) -> bytes | None:
        left[0] -= len(data)
        return data if left[0] >= 0 else None

    meter, link = converse(BULK, lambda link: download(link, SEED, 500_000), cut)

    assert issubclass(link.ended, (OSError, EOFError))  # type: ignore[attr-defined]
    assert meter.mismatched_bytes == 0
    assert link.missing_bytes == 500_000 - meter.verified_bytes
    assert link.missing_bytes >= 480_000


def test_silence_is_an_early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "STALL_SECONDS", 0.1)
    meter, link = converse(ECHO, with_rng(ECHO), lambda _data: b"")

    assert link.ended is TimeoutError  # type: ignore[attr-defined]
    assert link.missing_bytes > meter.sent_bytes


def test_a_conversation_of_which_nothing_is_known_misses_a_byte_at_least() -> None:
    _, link = converse(BULK, lambda link: upload(link, SEED, 3_000), lambda _data: None)

    assert link.missing_bytes == 1


@pytest.mark.parametrize("service_id", [ECHO, HTTP])
def test_a_conversation_ends_between_two_rounds_when_it_is_told_to(service_id: str) -> None:
    whole, _ = converse(service_id, with_rng(service_id))
    short, link = converse(service_id, with_rng(service_id), stopping=True)

    assert not hasattr(link, "ended")
    assert short.mismatched_bytes == 0
    assert 0 < short.received_bytes < whole.received_bytes


def test_an_echo_conversation_has_small_messages() -> None:
    meter, _ = converse(ECHO, lambda link: converse_echo(link, SEED, random.Random(1), PLAN))

    assert meter.sent_bytes == meter.received_bytes == meter.verified_bytes
    assert meter.sent_bytes <= traffic.ECHO_ROUNDS * traffic.MAX_ECHO_BYTES
