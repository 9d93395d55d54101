"""Nobody reads while 500 MB are sent: the senders are held up, and memory stays bounded.

The runtime runs in a process of its own, whose memory is measured; the applications and the service
are in this one.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.content import MIB
from tests.support.processes import RuntimeProcess
from tests.support.rig import connect, echo, receive_exactly
from tests.support.waiting import eventually
from tests.support.witness import Witness, assert_ends
from tunnelfleet.runtime import Mode, TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rig import Rig

SENT_BYTES = 500_000_000
MAX_GROWTH_BYTES = 16 * MIB
MAX_TAKEN_BYTES = 64 * MIB
"""What the kernel's buffers on the way may hold, with room; far from 500 MB."""
STILL_SECONDS = 1.0
FULL_SECONDS = 120.0
"""Until all buffers on the way are full, on a machine that has much else to do."""
LOOK_SECONDS = 0.05
BLOCK = bytes(range(256)) * 256


class Memory:
    """Watches the memory of a process from now on.

    Attributes:
        growth_bytes: by how much it was above its beginning, at most.
    """

    def __init__(self, process: RuntimeProcess) -> None:
        self._process = process
        self._begin_bytes = process.rss_bytes()
        self.growth_bytes = 0

    def look(self) -> None:
        """Take a sample."""
        growth = self._process.rss_bytes() - self._begin_bytes
        self.growth_bytes = max(self.growth_bytes, growth)

    def check(self) -> None:
        """Fail if it grew too much."""
        self.look()
        assert self.growth_bytes < MAX_GROWTH_BYTES, f"{self.growth_bytes / MIB:.1f} MiB more"


def warm_up(address: TcpAddress) -> None:
    """Let the process allocate what every transfer needs."""
    with connect(address) as client:
        data = BLOCK * 64
        assert echo(client, data) == data


def send_until_held_up(sock: socket.socket, memory: Memory) -> int:
    """Send 500 MB, or as much as is taken; returns how much that was."""
    sock.setblocking(False)
    sent, still_since, looked_at = 0, time.monotonic(), 0.0
    while sent < SENT_BYTES and time.monotonic() - still_since < STILL_SECONDS:
        select.select([], [sock], [], LOOK_SECONDS)
        try:
            sent += sock.send(BLOCK)
            still_since = time.monotonic()
        except BlockingIOError:
            pass
        except ConnectionError:
            # The tunnel's time for a stall may be over sooner, where this is held up itself.
            break
        if time.monotonic() - looked_at > LOOK_SECONDS:
            looked_at = time.monotonic()
            memory.look()
    assert sent > MIB, "it ended before it was held up"
    return sent


class Pusher:
    """A server that sends 500 MB to its first caller, or as much as is taken."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = TcpAddress(*self._listener.getsockname())
        self.sent_bytes: Any = None
        self._memory: Memory | None = None
        self._thread = threading.Thread(target=self._run, name="pusher")

    def push(self, memory: Memory) -> None:
        """Begin; the memory is watched meanwhile."""
        self._memory = memory
        self._thread.start()

    def _run(self) -> None:
        assert self._memory is not None
        self._listener.settimeout(FULL_SECONDS)
        sock, _address = self._listener.accept()
        with sock:
            self.sent_bytes = send_until_held_up(sock, self._memory)
            sock.setblocking(True)
            sock.settimeout(FULL_SECONDS)
            assert_ends(sock)

    def close(self) -> None:
        """Forget the listener, and wait for the end of the connection."""
        if self._thread.ident is not None:
            self._thread.join(FULL_SECONDS)
        self._listener.close()


@pytest.fixture
def pusher() -> Iterator[Pusher]:
    made = Pusher()
    yield made
    made.close()


class TestApplicationNeverReads:
    def test_behind_the_destination(self, rig: Rig) -> None:
        services = {"HANG": rig.backends.never_reads(), "ECHO": rig.backends.echo()}
        addresses = {name: server.address for name, server in services.items()}
        with RuntimeProcess(rig, addresses, stall_timeout_seconds=2.5) as process:
            warm_up(process.listening["ECHO"])
            memory = Memory(process)
            with connect(process.listening["HANG"]) as client:
                assert send_until_held_up(client, memory) < MAX_TAKEN_BYTES
                memory.check()
                client.setblocking(True)
                assert_ends(client)
            warm_up(process.listening["ECHO"])
            memory.check()

    def test_in_front_of_the_source(self, rig: Rig, pusher: Pusher) -> None:
        addresses = {"PUSH": pusher.address, "ECHO": rig.backends.echo().address}
        with RuntimeProcess(rig, addresses, stall_timeout_seconds=2.5) as process:
            warm_up(process.listening["ECHO"])
            memory = Memory(process)
            pusher.push(memory)
            with connect(process.listening["PUSH"]):
                eventually(lambda: pusher.sent_bytes is not None, "a full way", FULL_SECONDS)
                assert pusher.sent_bytes < MAX_TAKEN_BYTES
                memory.check()
                pusher.close()
            warm_up(process.listening["ECHO"])
            memory.check()


class TestServiceNeverReads:
    def test_the_source(self, rig: Rig) -> None:
        sink = rig.backends.sink()
        addresses = {"SSH": sink.address, "ECHO": rig.backends.echo().address}
        with RuntimeProcess(rig, addresses) as process:
            warm_up(process.listening["ECHO"])
            memory = Memory(process)
            rig.service.stall("elsewhere", Mode.SOURCE)
            with connect(process.listening["SSH"]) as client:
                sent = send_until_held_up(client, memory)
                assert sent < MAX_TAKEN_BYTES
                memory.check()
                rig.service.resume_reading("elsewhere", Mode.SOURCE)
                client.shutdown(socket.SHUT_WR)
                (arrival,) = sink.arrivals()
            assert arrival.size_bytes == sent, "what was taken was lost"
            memory.check()

    def test_the_destination(self, rig: Rig, pusher: Pusher) -> None:
        addresses = {"PUSH": pusher.address, "ECHO": rig.backends.echo().address}
        with RuntimeProcess(rig, addresses) as process:
            warm_up(process.listening["ECHO"])
            memory = Memory(process)
            rig.service.stall("elsewhere", Mode.DESTINATION)
            pusher.push(memory)
            with connect(process.listening["PUSH"]) as client:
                eventually(lambda: pusher.sent_bytes is not None, "a full way", FULL_SECONDS)
                assert pusher.sent_bytes < MAX_TAKEN_BYTES
                memory.check()
                rig.service.resume_reading("elsewhere", Mode.DESTINATION)
                received = receive_exactly(client, pusher.sent_bytes)
                assert received[: len(BLOCK)] == BLOCK
            memory.check()


def test_both_ways_at_full_speed_take_no_memory(rig: Rig) -> None:
    """100 MB echoed beside a small echo that goes on."""
    addresses = {"BULK": rig.backends.echo().address, "ECHO": rig.backends.echo().address}
    with RuntimeProcess(rig, addresses) as process:
        warm_up(process.listening["ECHO"])
        memory = Memory(process)
        with Witness(process.listening["ECHO"]) as witness, connect(process.listening["BULK"]) as c:
            for _ in range(5):
                data = BLOCK * 160
                assert echo(c, data) == data
                memory.look()
            witness.check()
        memory.check()
