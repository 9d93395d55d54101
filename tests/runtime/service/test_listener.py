"""The listening socket."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from tests.support.waiting import WAIT_SECONDS, until
from tunnelfleet.runtime.service import client as module
from tunnelfleet.runtime.service.client import ServiceListener


def test_hands_over_what_connects() -> None:
    accepted: list[socket.socket] = []

    async def main() -> None:
        listener = ServiceListener("127.0.0.1", 0, accepted.append, buffer_bytes=None)
        listener.attach(asyncio.get_running_loop())
        clients = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(100)]
        await asyncio.wait_for(until(lambda: len(accepted) == 100), WAIT_SECONDS)
        listener.close()
        for sock in [*clients, *accepted]:
            sock.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port))

    asyncio.run(main())


def test_limits_the_kernels_buffer_from_the_handshake_on() -> None:
    accepted: list[socket.socket] = []

    async def main() -> None:
        listener = ServiceListener("127.0.0.1", 0, accepted.append, buffer_bytes=40_000)
        listener.attach(asyncio.get_running_loop())
        client = socket.create_connection(("127.0.0.1", listener.port))
        await asyncio.wait_for(until(lambda: bool(accepted)), WAIT_SECONDS)
        # Linux doubles what is set, for its own bookkeeping.
        assert accepted[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 80_000
        listener.close()
        client.close()
        accepted[0].close()

    asyncio.run(main())


def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        ServiceListener("127.0.0.1", other.getsockname()[1], lambda _: None, buffer_bytes=None)


def test_waits_when_there_are_no_descriptors_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE_SECONDS", 0.02)
    accepted: list[socket.socket] = []

    class Exhausted:
        """Fails once as accept does when the process has no descriptor left."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock, self.failures = sock, 3

        def fileno(self) -> int:
            return self._sock.fileno()

        def shutdown(self, how: int) -> None:
            self._sock.shutdown(how)

        def close(self) -> None:
            self._sock.close()

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self._sock.accept()

    async def main() -> None:
        listener = ServiceListener("127.0.0.1", 0, accepted.append, buffer_bytes=None)
        listener._socket = Exhausted(listener._socket)  # type: ignore[assignment]
        listener.attach(asyncio.get_running_loop())
        client = socket.create_connection(("127.0.0.1", listener.port))
        await asyncio.wait_for(until(lambda: bool(accepted)), WAIT_SECONDS)
        listener.close()
        client.close()
        accepted[0].close()

    asyncio.run(main())
    assert caplog.text.count("Too many open files") == 1


def test_does_not_accept_while_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE_SECONDS", 0.001)
    accepted: list[socket.socket] = []
    asked: list[bool] = []

    def has_room() -> bool:
        asked.append(len(asked) >= 3)
        return asked[-1]

    async def main() -> None:
        listener = ServiceListener(
            "127.0.0.1", 0, accepted.append, buffer_bytes=None, has_room=has_room
        )
        listener.attach(asyncio.get_running_loop())
        client = socket.create_connection(("127.0.0.1", listener.port))
        await asyncio.wait_for(until(lambda: bool(accepted)), WAIT_SECONDS)
        listener.close()
        client.close()
        accepted[0].close()

    asyncio.run(main())
    assert asked[:4] == [False, False, False, True]
