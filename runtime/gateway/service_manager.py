"""What a gateway tells the service manager that started it: ready, alive, stopping.

Owns the protocol of `sd_notify(3)`: datagrams to the socket that `$NOTIFY_SOCKET` names. Without
that variable nothing is sent. The watchdog of systemd is fed by the health of the dispatchers: a
process whose dispatchers do not turn is started again by whoever watches it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.actors.kernel.log import get_logger

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"
BEATS_A_PERIOD: Final = 3
"""How often the watchdog is fed within its time; sd_watchdog_enabled(3) advises at least two."""

_log = get_logger(__name__)


class Heartbeat:
    """Knows whether all dispatchers turn, without waiting for them.

    Each `beat` asks every dispatcher something, and looks whether the last question was answered.
    """

    def __init__(self) -> None:
        self._asked: dict[str, list[bool]] = {}

    def beat(self, dispatchers: Sequence[Dispatcher]) -> bool:
        """Ask again.

        Returns:
            Whether every dispatcher has answered the question of the beat before. One that is new
            counts as answering.
        """
        is_alive = True
        asked: dict[str, list[bool]] = {}
        for dispatcher in dispatchers:
            last = self._asked.get(dispatcher.name)
            if last is not None and not last[0]:
                # The old question still stands: another one would only make the queue longer.
                is_alive = False
                asked[dispatcher.name] = last
                continue
            answer = [False]
            try:
                dispatcher.call_soon(answer.__setitem__, 0, True)
            except RuntimeError:
                is_alive = False
            asked[dispatcher.name] = answer
        self._asked = asked
        return is_alive


MAX_STATUS_LENGTH: Final = 200


class ServiceManager:
    """The service manager of this process, or nobody.

    Args:
        environ: where its variables are; they are not taken out of it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = os.environ if environ is None else environ
        self._clock = clock
        self._address = _address(given.get(SOCKET_VARIABLE, ""))
        self._interval_seconds = _watchdog_seconds(given)
        self._fed_at = float("-inf")
        self._status = ""
        self._is_silent_told = False

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def ready(self) -> None:
        """The gateway has started: its files are good, and its actors run."""
        self._send("READY=1")

    def stopping(self) -> None:
        """It ends in good order; this may take `drain_seconds`."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in a line how it is; the same line again is not sent."""
        line = " ".join(text.split())[:MAX_STATUS_LENGTH]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def extend(self, seconds: float) -> None:
        """The end takes so long from now on: `TimeoutStopSec` is not to cut it off."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def tick(self, beat: Callable[[], bool]) -> None:
        """Feed the watchdog when it is time.

        Args:
            beat: asked then whether the process is alive; if not, the watchdog goes hungry.
        """
        now = self._clock()
        if self._interval_seconds is None or now - self._fed_at < self._interval_seconds:
            return
        self._fed_at = now
        if beat():
            self._is_silent_told = False
            self._send("WATCHDOG=1")
        elif not self._is_silent_told:
            self._is_silent_told = True
            _log.error("a dispatcher does not turn; the watchdog is not fed")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(text.encode(), self._address)
            except OSError as error:
                # It has gone, or does not read: the gateway goes on without it.
                _log.debug("the service manager was not told %s: %s", text, error.strerror)


def _address(text: str) -> bytes | str | None:
    if text.startswith("@"):
        return b"\0" + text[1:].encode()
    return text if text.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    microseconds = environ.get(WATCHDOG_VARIABLE, "")
    process = environ.get(WATCHDOG_PID_VARIABLE, "")
    is_for_us = not process or process == str(os.getpid())
    if not is_for_us or not microseconds.isascii() or not microseconds.isdigit():
        return None
    if len(microseconds) > 18 or not int(microseconds):
        return None
    return int(microseconds) / 1_000_000 / BEATS_A_PERIOD
