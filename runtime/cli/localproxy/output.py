"""What `tunnelfleet localproxy` says: lines for people or JSON for programs, and the log.

Owns the wording of the lines and the form of the objects. Must not know where events come from or
what is done about them. Events carry no token and no payload, so neither can what is written here.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import TextIO

from tunnelfleet.actors.events import (
    ConnectionClosed,
    ConnectionOpened,
    ListenerClosed,
    ListenerOpened,
    ServiceIdsReceived,
    SessionWasReset,
    StreamClosed,
    StreamOpened,
    TunnelEvent,
    TunnelState,
    TunnelStateChanged,
)
from tunnelfleet.runtime.cli import output as logs
from tunnelfleet.runtime.cli.errors import one_line

VERBOSITY_WARNING = 3
VERBOSITY_INFO = 4
VERBOSITY_DEBUG = 5


class Reporter:
    """Writes what happens to the tunnel.

    Args:
        out: where to; stdout when the command runs.
        as_json: one JSON object a line, every event, instead of lines for people.
        verbosity: 0 to 6; from 4 on lines for people are written, from 5 on also those about single
            connections.
        err: where warnings and notes go; None means stderr.
    """

    def __init__(
        self, out: TextIO, *, as_json: bool, verbosity: int, err: TextIO | None = None
    ) -> None:
        self._out = out
        self._err = err
        self._as_json = as_json
        self._verbosity = verbosity

    def event(self, event: TunnelEvent) -> None:
        """Write `event`, if it is to be written."""
        if self._as_json:
            import json  # noqa: PLC0415 - most runs write lines for people

            self._write(json.dumps(event_object(event, time.time())))
            return
        line = event_line(event)
        detail = isinstance(
            event, StreamOpened | StreamClosed | ConnectionOpened | ConnectionClosed
        )
        if line and self._verbosity >= (VERBOSITY_DEBUG if detail else VERBOSITY_INFO):
            self._write(line)

    def services(self, services: Mapping[str, object]) -> None:
        """Write what a destination connects its services to."""
        if not self._as_json and self._verbosity >= VERBOSITY_INFO:
            for service_id, address in services.items():
                self._write(f"{service_id or 'the tunnel'} connects to {address}")

    def warning(self, text: str) -> None:
        """Write a warning on stderr, from verbosity 3 on."""
        if self._verbosity >= VERBOSITY_WARNING:
            self._say(f"warning: {one_line(text)}\n")

    def note(self, text: str) -> None:
        """Write something that the user may want to know on stderr, from verbosity 4 on."""
        if self._verbosity >= VERBOSITY_INFO:
            self._say(f"note: {one_line(text)}\n")

    def _say(self, line: str) -> None:
        (self._err or sys.stderr).write(line)

    def _write(self, line: str) -> None:
        # Whoever reads through a pipe waits for the port: nothing may stay in a buffer.
        self._out.write(line + "\n")
        self._out.flush()


def event_line(event: TunnelEvent) -> str:
    """Return the event in words, or an empty text when it tells people nothing."""
    match event:
        case TunnelStateChanged(state=state, reason=reason):
            line = _state_line(state, reason)
        case ServiceIdsReceived(service_ids=service_ids, channel_id=channel_id):
            names = ", ".join(service_ids) or "none named"
            line = f"channel id {channel_id or 'not given'}, services: {names}"
        case ListenerOpened(service_id=service_id, address=address):
            line = f"{service_id} listening on {address}".strip()
        case ListenerClosed(service_id=service_id, reason=reason):
            line = f"{service_id} not listening: {reason}".strip() if reason else ""
        case SessionWasReset():
            line = "the service reset the session: every stream ended"
        case StreamOpened(service_id=service_id, stream_id=stream_id):
            line = f"{service_id} stream {stream_id} opened"
        case StreamClosed(service_id=service_id, stream_id=stream_id, reason=reason):
            line = f"{service_id} stream {stream_id} closed: {reason}"
        case ConnectionOpened(service_id=service_id, connection_id=connection_id):
            line = f"{service_id} connection {connection_id} opened"
        case ConnectionClosed(service_id=service_id, connection_id=connection_id, reason=reason):
            line = f"{service_id} connection {connection_id} closed: {reason}"
        case _:
            line = ""
    return one_line(line)


def _state_line(state: TunnelState, reason: str) -> str:
    match state:
        case TunnelState.REFUSED:
            return ""  # what ends the command is told once, as its error
        case TunnelState.CONNECTED if reason:
            return ""  # so is that no connection can work
        case TunnelState.CONNECTING if reason:
            return ""  # a try after a failure, which was told with its delay
    return f"{state}: {reason}" if reason not in ("", state) else str(state)


_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")


def event_object(event: TunnelEvent, now: float) -> dict[str, object]:
    """Return the event as what `--json` writes.

    Args:
        event: what happened.
        now: Unix time in seconds.

    Returns:
        `event` (the event's name, `listener_opened`), `time`, and the event's own fields; addresses
        are texts.
    """
    name = _WORD_START.sub("_", type(event).__name__).lower()
    values = {field.name: _plain(getattr(event, field.name)) for field in fields(event)}
    return {"event": name, "time": round(now, 3), **values}


_LOG_LEVELS = {
    0: logging.CRITICAL + 1,
    1: logging.CRITICAL,
    2: logging.ERROR,
    3: logging.WARNING,
    4: logging.INFO,
    5: logging.DEBUG,
    6: logging.NOTSET + 1,
}


def configure_logging(verbosity: int, stream: TextIO | None = None) -> logging.Handler:
    """Send the project's log to `stream` (stderr) from the level that `verbosity` stands for.

    Returns:
        The handler, for whoever wants to remove it again.
    """
    return logs.start(_LOG_LEVELS[verbosity], stream)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value)
