"""A tunnel keeps its queue to itself, behind a service of another make and without a bandwidth.

Counted in bytes, so that a busy machine changes nothing: what stands between the tunnel and the
throttle of the service. docs/performance.md has what that is in milliseconds.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.backends import Backends
from tests.support.rig import connect
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.websockets_relay import WebsocketsRelay
from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
)

if TYPE_CHECKING:
    import asyncio

BYTES_PER_SECOND = 400_000.0
WARM_UP_BYTES = 1_500_000
"""What a tunnel sends until a queue has stood for as long as it is doubted, and has drained."""
MEASURED_BYTES = 300_000
LEAST_UNPACED_BYTES = 400_000
"""Sixteen messages of 64 KB, which the library parses ahead, are more than twice as much."""
MOST_PACED_BYTES = 300_000
"""Twice what stands there: small messages, sixteen of them as well, and a target of 0.1 s."""
SECONDS = 60.0


class Standing:
    """What has been handed over and not relayed, each time that a message leaves the relay."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        """Behind the warm-up."""
        self.most = 0
        """At any time: a tunnel that is not paced has large messages only until it is blocked."""
        self.sent_bytes = lambda: 0

    def relayed(self, relayed_bytes: int) -> None:
        standing_bytes = self.sent_bytes() - relayed_bytes
        self.most = max(self.most, standing_bytes)
        if relayed_bytes >= WARM_UP_BYTES:
            self.samples.append(standing_bytes)


async def take(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass


def copy_until(address: TcpAddress, relay: WebsocketsRelay) -> None:
    """Copy without end, until the relay has let enough of it pass."""
    client = connect(address)

    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(bytes(65_536))

    thread = threading.Thread(target=send, name="copy")
    thread.start()
    try:
        eventually(
            lambda: relay.relayed_bytes >= WARM_UP_BYTES + MEASURED_BYTES, timeout_seconds=SECONDS
        )
    finally:
        client.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_SECONDS)
        client.close()


def copied(*, pacing: bool) -> Standing:
    """What stands in the service, each time that a message leaves it."""
    standing = Standing()
    relay = WebsocketsRelay(["COPY"], BYTES_PER_SECOND, on_relayed=standing.relayed)
    with Backends() as backends, relay, TunnelRuntime() as runtime:
        ends = [
            runtime.open_tunnel(
                TunnelConfig(
                    name=mode,
                    mode=mode,
                    endpoint=Endpoint.parse(relay.endpoint),
                    access_token=mode,
                    services={"COPY": address},
                    pacing=pacing,
                )
            )
            for mode, address in (
                (Mode.DESTINATION, backends.serve(take).address),
                (Mode.SOURCE, TcpAddress("127.0.0.1", 0)),
            )
        ]
        for end in ends:
            end.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        source = ends[1]
        standing.sent_bytes = lambda: source.stats.sum("sent_bytes")
        listening = source.wait_listening("COPY", WAIT_SECONDS)
        assert isinstance(listening, TcpAddress)
        copy_until(listening, relay)
    return standing


@pytest.mark.e2e
def test_behind_a_service_of_another_make_little_stands_in_it() -> None:
    """With the queue that the library has by default, whose messages are large or small."""
    assert copied(pacing=False).most > LEAST_UNPACED_BYTES
    assert statistics.median(copied(pacing=True).samples) < MOST_PACED_BYTES
