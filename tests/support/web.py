"""A web server that answers every question."""

from __future__ import annotations

import contextlib
import http.server
import threading
from typing import TYPE_CHECKING

from tunnelfleet.runtime import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"you asked for {self.headers['Host']}{self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def web_server() -> Iterator[TcpAddress]:
    """Where it listens, while the block runs."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield TcpAddress("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join()
