"""What the tests of the demo share: tunnels that are not there, and a wire that can be faulty."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from tunnelfleet.actors.events import TunnelState
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.demo.report import DemoPhase, FleetSnapshot, TableRow
from tunnelfleet.runtime.demo.servers import close_writer
from tunnelfleet.runtime.tunnel import TunnelStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def make_status(**changes: Any) -> TunnelStatus:
    fields: dict[str, Any] = {
        "name": "press-01 source",
        "mode": Mode.SOURCE,
        "state": TunnelState.CONNECTED,
        "reason": "",
        "since": 1_000.0,
        "service_ids": ("ECHO", "HTTP", "BULK"),
        "listening": {},
        "streams_active": 0,
        "connections_active": 0,
        "streams_opened": 0,
        "connections_opened": 0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "reconnects": 0,
        "session_resets": 0,
        "connect_attempts": 1,
        "connect_failures": 0,
        "channel_id": "",
        "last_event": "",
    }
    return TunnelStatus(**{**fields, **changes})


class FakeTunnel:
    """One end of a tunnel, in whatever state a test wants."""

    def __init__(self, mode: Mode = Mode.SOURCE) -> None:
        self.fields: dict[str, Any] = {"mode": mode}

    def set(self, **fields: Any) -> None:
        self.fields.update(fields)

    def status(self) -> TunnelStatus:
        return make_status(**self.fields)


def make_row(name: str = "press-01", **changes: Any) -> TableRow:
    fields: dict[str, Any] = {
        "name": name,
        "state": TunnelState.CONNECTED,
        "streams": 3,
        "connections": 4,
        "sent_bytes": 1_500,
        "received_bytes": 2_000_000,
        "bytes_per_second": 12_345.0,
        "streams_opened": 5,
        "reconnects": 2,
        "session_resets": 1,
        "last_event": "back after 0.4 s",
        "event_age_seconds": 1.0,
    }
    return TableRow(**{**fields, **changes})


def make_snapshot(*rows: TableRow, **changes: Any) -> FleetSnapshot:
    fields: dict[str, Any] = {
        "phase": DemoPhase.RUNNING,
        "tunnels": len(rows),
        "elapsed_seconds": 7.0,
        "phase_seconds": 5.0,
        "duration_seconds": 20.0,
        "rows": rows,
    }
    return FleetSnapshot(**{**fields, **changes})


class FaultyWire:
    """Forwards TCP to a server, as a tunnel does, and can damage what it forwards.

    Args:
        port: of the server.
        damage: changes each piece that the server sends; None ends the connection there and then.
    """

    def __init__(
        self, port: int, damage: Callable[[bytes], bytes | None] = lambda data: data
    ) -> None:
        self._server_port = port
        self._damage = damage
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        up = asyncio.create_task(_pump(reader, far_writer, lambda data: data))
        try:
            await _pump(far_reader, writer, self._damage)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            await close_writer(far_writer)
            await close_writer(writer)


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    damage: Callable[[bytes], bytes | None],
) -> None:
    try:
        while data := await reader.read(65_536):
            changed = damage(data)
            if changed is None:
                return
            writer.write(changed)
            await writer.drain()
    except OSError:
        return


def run_coroutine(work: Awaitable[Any]) -> Any:
    """Run a coroutine to its end."""

    async def main() -> Any:
        return await work

    return asyncio.run(main())
