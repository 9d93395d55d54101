"""Messages of 64 bytes through the client API, from a source over the service to a destination.

Service and both ends share this process, as in most tests; the figure is a floor. Every message is
numbered: the destination checks count, order and content.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from tests.support.memory import rss_bytes
from tunnelfleet.runtime import Message, MessageReceived, SecureTunnel, TunnelRuntime
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_BYTES = 64
FILLER = bytes(range(MESSAGE_BYTES - 8))
CONNECT_SECONDS = 10.0
SAMPLES = 20
WARM_UP_SHARE = 10
"""Memory is compared from a tenth of the messages on."""


class Receiver:
    """Counts the messages of a destination, and what is wrong with them."""

    def __init__(self, expected: int) -> None:
        self.count = 0
        self.wrong = 0
        self.rss_bytes: list[int] = []
        self.done = threading.Event()
        self._expected = expected
        self._sample_every = max(expected // SAMPLES, 1)

    def __call__(self, _tunnel: SecureTunnel, event: MessageReceived) -> None:
        payload = event.message.payload
        if payload[:8] != struct.pack(">Q", self.count) or payload[8:] != FILLER:
            self.wrong += 1
        self.count += 1
        if self.count % self._sample_every == 0:
            self.rss_bytes.append(rss_bytes())
        if self.count == self._expected:
            self.done.set()


def numbered(messages: int) -> Iterator[Message]:
    """The messages, made as they are sent."""
    for number in range(messages):
        yield Message(struct.pack(">Q", number) + FILLER, "BENCH", 1)


def run(
    messages: int = 100_000, *, tls: bool = False, timeout_seconds: float = 600.0
) -> dict[str, Any]:
    """Send so many; returns count, errors, rate, and memory from warm-up to the end."""
    receiver = Receiver(messages)
    with TunnelService(tls=tls) as service:
        tokens = service.open_tunnel("bench", ["BENCH"])
        context = service.ssl_context() if tls else None
        with TunnelRuntime(ssl_context=context) as runtime:
            destination = SecureTunnel(
                tokens.destination_token,
                "destination",
                service.endpoint,
                runtime=runtime,
                on_message_received=receiver,
            )
            source = SecureTunnel(tokens.source_token, "source", service.endpoint, runtime=runtime)
            with destination, source:
                destination.wait_connected(CONNECT_SECONDS)
                source.wait_connected(CONNECT_SECONDS)
                source.send_stream_start("BENCH").result(CONNECT_SECONDS)
                started = time.perf_counter()
                sent = source.send_messages(numbered(messages))
                finished = receiver.done.wait(timeout_seconds)
                seconds = time.perf_counter() - started
                written = sent.result(CONNECT_SECONDS) if finished else 0
                threads = threading.active_count()
    samples = receiver.rss_bytes[len(receiver.rss_bytes) // WARM_UP_SHARE :]
    return {
        "messages": messages,
        "written": written,
        "received": receiver.count,
        "wrong": receiver.wrong,
        "seconds": round(seconds, 2),
        "messages_per_second": round(receiver.count / seconds, 1),
        "rss_growth_bytes": max(samples) - samples[0] if samples else 0,
        "threads": threads,
    }
