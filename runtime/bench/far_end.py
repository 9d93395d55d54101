"""The application at the far end of a tunnel that is measured.

A TCP server that does what the first byte of a connection asks for: take what comes, give without
end, or echo. It counts what it took. A thread for each connection, of which there are few at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Final, Self

__all__ = ["CHUNK", "ECHO", "GIVE", "TAKE", "FarEnd"]

TAKE: Final = b"T"
GIVE: Final = b"G"
ECHO: Final = b"E"
CHUNK: Final = bytes(range(256)) * 256
READ_BYTES: Final = 262_144
JOIN_SECONDS: Final = 5.0
BACKLOG: Final = 128


class FarEnd:
    """The server; a context manager.

    Attributes:
        port: on loopback.
        taken_bytes: what came on connections that only take.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port: int = self._server.getsockname()[1]
        self.taken_bytes = 0
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._accepting = threading.Thread(target=self._accept, name="bench: far end", daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        # Closing alone would leave accept() waiting.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._accepting.join(JOIN_SECONDS)
        with self._lock:
            threads = list(self._open.values())
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(JOIN_SECONDS)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(
                    target=self._serve, args=(sock,), name="bench: a connection", daemon=True
                )
                with self._lock:
                    self._open[sock] = thread
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        actions = {TAKE: self._take, GIVE: self._give, ECHO: self._echo}
        try:
            with contextlib.suppress(OSError):
                asked = sock.recv(1)
                if asked in actions:
                    actions[asked](sock)
        finally:
            with self._lock:
                del self._open[sock]
                sock.close()

    def _take(self, sock: socket.socket) -> None:
        while data := sock.recv(READ_BYTES):
            self.taken_bytes += len(data)

    @staticmethod
    def _give(sock: socket.socket) -> None:
        while True:
            sock.sendall(CHUNK)

    @staticmethod
    def _echo(sock: socket.socket) -> None:
        while data := sock.recv(READ_BYTES):
            sock.sendall(data)
