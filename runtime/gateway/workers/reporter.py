"""WorkerReporter: what a worker process tells the gateway.

Owns the way up: one thread that sends, in order, what has happened, the answers, and once a second
what each tunnel has counted since, with a sign of life of the dispatchers. Events wait within a
limit: when the gateway does not read, those who tell of events wait, and so do their tunnels.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.events import (
    ListenerClosed,
    ListenerOpened,
    ServiceIdsReceived,
    TunnelEvent,
    TunnelStateChanged,
)
from tunnelfleet.actors.kernel import label_here
from tunnelfleet.runtime import Tunnel, TunnelRuntime
from tunnelfleet.runtime.gateway.process import Heartbeat

from .messages import Is, encode_frame, to_json
from .sums import numbers_of

REPORT_SECONDS: Final = 1.0
MAX_WAITING_EVENTS: Final = 10_000
MAX_WAITING_LINES: Final = 1_000
TUNNELS_A_REPORT: Final = 50
MAX_LIVE_ROWS: Final = 20_000
"""Connections of one tunnel whose bytes are reported while they are open, and of one report."""
MAX_LINE_LENGTH: Final = 10_000
BREATH_SECONDS: Final = 0.001
"""The pause between two parts of a report, in which the tunnels go on."""
_SHOWS_FACE: Final = (TunnelStateChanged, ListenerOpened, ListenerClosed, ServiceIdsReceived)


class WorkerReporter:
    """Sends what there is to tell.

    Args:
        sock: the way to the gateway.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: queue.SimpleQueue[Callable[[], dict[str, Any]] | None] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(MAX_WAITING_EVENTS)
        self._is_closed = threading.Event()
        self._heartbeat = Heartbeat()
        self._reported: dict[int, tuple[Any, ...]] = {}
        self._thread: threading.Thread | None = None
        self.tunnels: dict[int, Tunnel] = {}
        """The open tunnels by serial; only the worker's main thread writes it."""
        self.serials: dict[str, int] = {}
        """The serials by the tunnel's name, entered before a tunnel is opened."""

    def start(self, runtime: TunnelRuntime) -> None:
        """Begin to tell of the tunnels of a runtime."""
        self._thread = threading.Thread(
            target=self._run, args=(runtime,), name="tunnelfleet-report", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Send nothing more: the gateway has gone, or all is over. Nobody waits for room now."""
        self._is_closed.set()
        self._queue.put(None)
        # Whoever waits for room finds that there is nothing to wait for.
        with contextlib.suppress(ValueError):
            self._room.release()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(REPORT_SECONDS)

    def answer(self, make: Callable[[], dict[str, Any]]) -> None:
        """Tell what answers a command; `make` is called when it is sent. Never waits."""
        self._queue.put(make)

    def on_event(self, event: TunnelEvent) -> None:
        """Tell of an event; may wait, on a thread that may."""
        serial = self.serials.get(event.tunnel)
        if serial is None:
            return
        while not self._room.acquire(timeout=REPORT_SECONDS):
            if self._is_closed.is_set():
                return
        message = {"is": Is.EVENT, "serial": serial, "event": to_json(event)}
        tunnel = self.tunnels.get(serial)
        if isinstance(event, _SHOWS_FACE) and tunnel is not None:
            message["face"] = face_of(tunnel.stats)

        def make() -> dict[str, Any]:
            with contextlib.suppress(ValueError):
                self._room.release()
            return message

        self._queue.put(make)

    def _run(self, runtime: TunnelRuntime) -> None:
        try:
            due = time.monotonic()
            while not self._is_closed.is_set():
                left_seconds = due - time.monotonic()
                if left_seconds <= 0:
                    # However much there is to tell.
                    self._report(runtime)
                    due = time.monotonic() + REPORT_SECONDS
                    continue
                with contextlib.suppress(queue.Empty):
                    make = self._queue.get(timeout=left_seconds)
                    if make is not None:
                        self._send(make())
        except OSError:
            # The gateway has gone; the main thread reads that too.
            pass
        finally:
            # A worker that cannot tell is of no use: this ends its main thread.
            self._is_closed.set()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _send(self, message: dict[str, Any]) -> None:
        self._sock.sendall(encode_frame(message))

    def _report(self, runtime: TunnelRuntime) -> None:
        dispatchers = runtime.dispatchers
        is_alive = bool(dispatchers) and self._heartbeat.beat(dispatchers)
        connects = to_json(runtime.connect_stats())
        self._send({"is": Is.BEAT, "alive": is_alive, "connects": connects})
        found: list[dict[str, Any]] = []
        rows = 0
        tunnels = self.tunnels.copy()
        for serial, tunnel in tunnels.items():
            signature = _signature(tunnel.stats)
            if self._reported.get(serial) == signature:
                continue
            self._reported[serial] = signature
            found.append(report_of(serial, tunnel.stats))
            rows += len(found[-1]["live"])
            if len(found) >= TUNNELS_A_REPORT or rows >= MAX_LIVE_ROWS:
                self._send({"is": Is.REPORT, "tunnels": found})
                found, rows = [], 0
                time.sleep(BREATH_SECONDS)
        if found:
            self._send({"is": Is.REPORT, "tunnels": found})
        for serial in self._reported.keys() - tunnels.keys():
            del self._reported[serial]


def report_of(serial: int, stats: TunnelStats) -> dict[str, Any]:
    """Return how a tunnel is, what it has counted, and what its open connections have carried."""
    return {
        "serial": serial,
        "numbers": numbers_of(stats),
        "face": face_of(stats),
        "live": [
            [live.serial, live.sent_bytes, live.received_bytes]
            for live in list(stats.connections.values())[:MAX_LIVE_ROWS]
        ],
    }


def face_of(stats: TunnelStats) -> dict[str, Any]:
    """Return how a tunnel is, beside its numbers."""
    return {
        "state": stats.state.value,
        "reason": stats.reason,
        "since": stats.since,
        "last_event": stats.last_event,
        "channel_id": stats.channel_id,
        "service_ids": list(stats.service_ids),
        "listening": {key: list(each) for key, each in stats.listening.copy().items()},
    }


def _signature(stats: TunnelStats) -> tuple[Any, ...]:
    """Another one whenever there is something new; much cheaper than a report."""
    services = tuple(stats.services.copy().values())
    return (
        stats.state,
        stats.reason,
        stats.last_event,
        stats.connect_attempts,
        stats.session_resets,
        stats.failed_listens,
        stats.failed_sends,
        stats.stalled_connections,
        stats.throttled_seconds,
        stats.queue_bytes,
        stats.ping_seconds.count,
        stats.connect_seconds.count,
        stats.queue_wait.count,
        *(sum(each.copy().values()) for each in _reasons(stats)),
        *(
            number
            for each in services
            for number in (
                each.sent_messages,
                each.received_messages,
                each.streams_opened,
                each.streams_active,
                each.connections_opened,
                each.connections_active,
            )
        ),
    )


def _reasons(stats: TunnelStats) -> tuple[dict[str, int], ...]:
    return (
        stats.connect_failures,
        stats.reconnects,
        stats.dropped_messages,
        stats.exhausted_operations,
    )


class LogForwarder(logging.Handler):
    """Has the gateway write the log of a worker; lines that find no room are left out.

    Args:
        reporter: takes them.
    """

    def __init__(self, reporter: WorkerReporter) -> None:
        super().__init__()
        self._reporter = reporter
        self._room = threading.BoundedSemaphore(MAX_WAITING_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on."""
        if not self._room.acquire(blocking=False):
            return
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        except Exception:  # noqa: BLE001 - a wrong line of a log harms nobody who logs it
            self._room.release()
            self.handleError(record)
            return
        message = {"is": Is.LOG, "level": record.levelno, "name": record.name}
        message["text"] = text[:MAX_LINE_LENGTH]
        tunnel = getattr(record, "tunnel", None) or label_here()
        if tunnel:
            message["tunnel"] = tunnel

        def make() -> dict[str, Any]:
            self._room.release()
            return message

        self._reporter.answer(make)
