"""A tunneling service of another make: a relay on the `websockets` library's server, throttled.

What stands in it is what pacing has to find out: the kernel's receive buffer, what the library has
parsed, and a throttle behind that. It knows one tunnel, takes any token and announces the services
that it was told. As a program it prints its port and stops at the end of its input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import websockets
from websockets.asyncio.server import ServerConnection, serve

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import Message, MessageType, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SUBPROTOCOL = "aws.iot.securetunneling-3.0"
RECEIVE_BUFFER_BYTES = 65_536
BURST_SECONDS = 0.02


class Throttle:
    """Lets so many bytes a second pass."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    async def wait(self, size_bytes: int) -> None:
        if self._rate is None:
            return
        now = time.monotonic()
        begins = max(self._free_at, now - BURST_SECONDS)
        self._free_at = begins + size_bytes / self._rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


class WebsocketsRelay:
    """The service, on a thread of its own; a context manager.

    Args:
        services: what is announced.
        bytes_per_second: the throttle of each direction; None for none.
        max_queue: how many messages the library parses ahead; None is its default.
        on_relayed: called with `relayed_bytes` whenever a message of the source has passed.

    Attributes:
        relayed_bytes: what passed from the source, WebSocket payloads.
    """

    def __init__(
        self,
        services: Sequence[str],
        bytes_per_second: float | None = None,
        max_queue: int | None = None,
        on_relayed: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        self._services = tuple(services)
        self._rate = bytes_per_second
        self._on_relayed = on_relayed
        self._options: dict[str, Any] = {} if max_queue is None else {"max_queue": max_queue}
        self._socket = socket.create_server(("127.0.0.1", 0))
        # Before it listens for long: what is accepted has it too.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.port: int = self._socket.getsockname()[1]
        self.relayed_bytes = 0
        self._ends: dict[str, asyncio.Future[ServerConnection]] = {}
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="websockets relay")

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        for mode in ("source", "destination"):
            self._ends[mode] = self._loop.create_future()
        async with serve(
            self._handle,
            sock=self._socket,
            subprotocols=[websockets.Subprotocol(SUBPROTOCOL)],
            compression=None,
            ping_interval=None,
            close_timeout=0.1,
            **self._options,
        ):
            await self._stop.wait()
        for end in self._ends.values():
            end.cancel()

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        mode = "source" if connection.request.path.endswith("source") else "destination"
        other = "destination" if mode == "source" else "source"
        ids = Message(MessageType.SERVICE_IDS, available_service_ids=self._services)
        await connection.send(encode_frame(ids))
        if self._ends[mode].done():
            # It has come again.
            self._ends[mode] = self._loop.create_future()
        self._ends[mode].set_result(connection)
        throttle = Throttle(self._rate)
        with contextlib.suppress(websockets.ConnectionClosed, asyncio.CancelledError):
            peer = await self._ends[other]
            async for message in connection:
                await throttle.wait(len(message))
                await peer.send(message)
                if mode == "source":
                    self.relayed_bytes += len(message)
                    self._on_relayed(self.relayed_bytes)


def main() -> None:
    """Serve until the end of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", default="COPY,SHELL")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--max-queue", type=int)
    given = parser.parse_args()
    with WebsocketsRelay(given.services.split(","), given.rate, given.max_queue) as relay:
        print(json.dumps({"endpoint": relay.endpoint}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
