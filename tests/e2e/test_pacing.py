"""A tunnel keeps its queue to itself, behind a service of another make and without a bandwidth.

Counted in bytes, so that a busy machine changes nothing: what stands between the tunnel and the
throttle of the service. docs/performance.md has what that is in milliseconds.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
from collections import deque
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
    from collections.abc import Callable

BYTES_PER_SECOND = 400_000.0
WARM_UP_BYTES = 1_500_000
"""What a tunnel sends until a queue has stood for as long as it is doubted, and has drained; on a
busy machine it is doubted for longer."""
MEASURED_BYTES = 300_000
"""Over so much that is relayed what stands is judged."""
LATEST_BYTES = 6_000_000
"""By then it is found, however busy the machine."""
LEAST_UNPACED_BYTES = 400_000
"""Sixteen messages of 64 KB, which the library parses ahead, are more than twice as much."""
MOST_PACED_BYTES = 300_000
"""Twice what stands there: small messages, sixteen of them as well, and a target of 0.1 s."""
SECONDS = 60.0


class Standing:
    """What has been handed over and not relayed, each time that a message leaves the relay."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque()
        """What had been relayed, and what stood: behind the warm-up, the last of it."""
        self.most = 0
        """At any time: a tunnel that is not paced has large messages only until it is blocked."""
        self.sent_bytes = lambda: 0

    def relayed(self, relayed_bytes: int) -> None:
        standing_bytes = self.sent_bytes() - relayed_bytes
        self.most = max(self.most, standing_bytes)
        if relayed_bytes < WARM_UP_BYTES:
            return
        samples = self._samples
        samples.append((relayed_bytes, standing_bytes))
        while relayed_bytes - samples[0][0] > MEASURED_BYTES:
            samples.popleft()

    def is_little(self) -> bool:
        """Whether what has stood lately is what a tunnel leaves that paces itself."""
        samples = list(self._samples)
        is_enough = bool(samples) and samples[-1][0] >= WARM_UP_BYTES + MEASURED_BYTES
        return is_enough and statistics.median(each for _, each in samples) < MOST_PACED_BYTES

    def is_much(self) -> bool:
        """Whether as much has stood at a time as no tunnel leaves that paces itself."""
        return self.most > LEAST_UNPACED_BYTES


async def take(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass


def copy_until(address: TcpAddress, is_seen: Callable[[], bool]) -> None:
    """Copy without end, until this is seen."""
    client = connect(address)

    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(bytes(65_536))

    thread = threading.Thread(target=send, name="copy")
    thread.start()
    try:
        eventually(is_seen, timeout_seconds=SECONDS)
    finally:
        client.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_SECONDS)
        client.close()


def copy(*, pacing: bool) -> None:
    """Copy until there stands in the service what is expected."""
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
        copy_until(listening, standing.is_little if pacing else standing.is_much)
        assert relay.relayed_bytes < LATEST_BYTES


@pytest.mark.e2e
def test_behind_a_service_of_another_make_little_stands_in_it() -> None:
    """With the queue that the library has by default, whose messages are large or small."""
    copy(pacing=False)
    copy(pacing=True)
