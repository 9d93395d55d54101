"""Commands to a running service, one a line: ``tunnelfleet service --control``.

Owns the words of the commands and reading them from standard input. Must not know how answers are
printed.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Final

from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.service import Origin, TunnelTokens
from tunnelfleet.runtime.service.chaos import FAULTS, run_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.service import TunnelService


MAX_LINE_BYTES: Final = 4096
_STDIN: Final = 0

HELP: Final = (
    "drop NAME [source|destination]; black-hole NAME [source|destination]; session-reset NAME; "
    "stream-reset NAME [SERVICE]; throttle NAME RATE|off; delay NAME SECONDS; "
    "refuse NAME|any STATUS [COUNT [SECONDS]]; corrupt NAME MODE [COUNT]; "
    "stall NAME MODE; resume NAME MODE; rotate NAME [source|destination]; "
    "open NAME[=SERVICE,SERVICE]; close NAME; list (or ls); restart; help"
)


class ControlReader:
    """Reads lines from standard input on a thread of its own, until its end or ``stop``.

    Args:
        take: called with each line, on that thread.
    """

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        # Bytes are read from the descriptor: a thread blocked in sys.stdin cannot be ended.
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        os.close(self._wake_write)
        self._thread.join()
        os.close(self._wake_read)

    def _run(self) -> None:
        partial = b""
        # Not select(), which fails on descriptors above 1023.
        poller = select.poll()
        poller.register(_STDIN, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while True:
            if self._wake_read in dict(poller.poll()):
                return
            data = os.read(_STDIN, MAX_LINE_BYTES)
            if not data:
                return
            *lines, partial = (partial + data).split(b"\n")
            partial = partial[:MAX_LINE_BYTES]
            for line in lines:
                if text := line.decode(errors="replace").strip():
                    self._take(text)


def run_command(service: TunnelService, line: str) -> str | TunnelTokens:
    """Do what a line says.

    Returns:
        What to answer; tokens, when new ones were issued.

    Raises:
        ConfigError: the command is not one, or cannot be done.
    """
    word, *arguments = line.split()
    if word in FAULTS:
        return run_words(service, word, arguments)
    command = _COMMANDS.get(word)
    if command is None:
        raise ConfigError(f"no command {word!r}; try help")
    try:
        return command(service, *arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"wrong arguments for {word}; {HELP}") from error


def open_tunnel(service: TunnelService, text: str, origin: Origin = Origin.CALL) -> TunnelTokens:
    """Open the tunnel that ``NAME[=SERVICE,SERVICE]`` describes. Raises ConfigError."""
    name, _, services = text.partition("=")
    ids = [each.strip() for each in services.split(",") if each.strip()]
    return service.open_tunnel(name, ids, origin=origin)


def _open(service: TunnelService, text: str) -> TunnelTokens:
    return open_tunnel(service, text)


def _mode(text: str | None) -> Mode | None:
    return None if text is None else Mode(text)


def _rotate(service: TunnelService, name: str, mode: str | None = None) -> TunnelTokens:
    return service.rotate(name, _mode(mode))


def _close(service: TunnelService, name: str) -> str:
    service.close_tunnel(name)
    return f"closed {name}"


def _restart(service: TunnelService) -> str:
    service.restart()
    return "restarted"


def _list(service: TunnelService) -> str:
    lines = [
        f"{each.name}: source {'on' if each.source_connected else 'off'}, "
        f"destination {'on' if each.destination_connected else 'off'}, "
        f"{each.source_sent_bytes} bytes out, {each.destination_sent_bytes} bytes back"
        for each in service.tunnels()
    ]
    return "; ".join(lines) or "no tunnels"


def _help(_service: TunnelService) -> str:
    return HELP


_COMMANDS: Final[dict[str, Callable[..., str | TunnelTokens]]] = {
    "rotate": _rotate,
    "open": _open,
    "close": _close,
    "list": _list,
    "ls": _list,
    "restart": _restart,
    "help": _help,
}
