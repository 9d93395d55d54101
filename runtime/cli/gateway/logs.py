"""`tunnelfleet logs`: what happens at a running gateway, as lines or as JSON objects.

Owns which events are shown, how a line looks, and how it goes on after the connection has ended:
it asks again for what came after the last event that it has seen.
"""

from __future__ import annotations

import fnmatch
import time
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Final, NoReturn

import typer

from tunnelfleet.proto import ConfigError, printable
from tunnelfleet.runtime.cli.errors import EXIT_OK
from tunnelfleet.runtime.gateway.api.address import GatewayNotReached
from tunnelfleet.runtime.gateway.api.client import GatewayClient, GatewayEvent

from .reach import GatewayOption, JsonOption, TokenFileOption, gateway_at
from .screen import Line, Styled, note, write_json, write_lines

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
RECENT_EVENTS: Final = 50
MAX_RECENT_EVENTS: Final = 1_000
"""A gateway has no more."""


def logs_command(
    tunnels: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Of tunnels, * standing for anything."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C, over restarts too.")
    ] = False,
    recent: Annotated[
        int,
        typer.Option(
            "-n",
            "--recent",
            metavar="N",
            min=0,
            max=MAX_RECENT_EVENTS,
            help="Begin with the last N of those that are asked for.",
        ),
    ] = RECENT_EVENTS,
    level: Annotated[
        str,
        typer.Option("--level", metavar="LEVEL", help="Of the least important: debug to error."),
    ] = "debug",
    gateway: GatewayOption = None,
    gateway_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show what has happened at a running gateway, and with -f what happens.

    With --json it is one object a line, the same as `up --json` writes.
    """
    if level not in LEVELS:
        raise ConfigError(f"--level {level}: write one of {', '.join(LEVELS)}")
    view = _LogView(tunnels or (), LEVELS.index(level), as_json=as_json)
    with gateway_at(gateway, gateway_token_file) as client:
        if recent and not view.show_past(client, recent) and not follow:
            note("nothing of the last events of this gateway is what was asked for")
        if not follow:
            return EXIT_OK
        try:
            _follow(client, view, recent)
        except KeyboardInterrupt:
            # The way to end it.
            return EXIT_OK


RETRY_SECONDS: Final = 1.0
LOST: Final = "lost"
"""The name of the event that says that this reader was too slow."""


def _follow(client: GatewayClient, view: _LogView, recent: int) -> NoReturn:
    """Show events until Ctrl-C."""
    is_told = False
    while True:
        failure = None
        try:
            view.show_all(client, recent)
        except GatewayNotReached as error:
            # The first time it is a mistake; later the gateway is being restarted, perhaps.
            if not view.has_answered:
                raise
            failure = error
        is_told = is_told and not view.has_shown
        if failure is not None and not is_told:
            note(f"{failure}; waiting for it")
            is_told = True
        if view.last is None:
            recent = 0
        time.sleep(RETRY_SECONDS)


class _LogView:
    """Chooses and writes events.

    Attributes:
        last: the id of the last event that came, which may not have been written.
        has_answered: whether the gateway has ever answered.
        has_shown: whether events came at the last `show_all`.
    """

    def __init__(self, names: Sequence[str], level: int, *, as_json: bool) -> None:
        self.last: str | None = None
        self.has_answered = False
        self.has_shown = False
        self._names = names
        self._level = level
        self._as_json = as_json

    def show_past(self, client: GatewayClient, recent: int) -> bool:
        """Write what has happened: at most so many events, the last ones of those asked for.

        Returns:
            Whether there was any.
        """
        is_choosy = self._names or self._level > 0
        asked = MAX_RECENT_EVENTS if is_choosy else recent
        wanted: deque[GatewayEvent] = deque(maxlen=recent)
        for event in client.events(recent=asked, only_past=True):
            self.last = event.id or self.last
            if self._is_wanted(event.data):
                wanted.append(event)
        self.has_answered = True
        for event in wanted:
            self._write(event)
        return bool(wanted)

    def show_all(self, client: GatewayClient, recent: int) -> None:
        """Write events until there are no more, or some were lost.

        Raises:
            GatewayNotReached: the gateway does not answer any more.
        """
        self.has_shown = False
        for event in client.events(recent=recent, after=self.last):
            self.has_answered = self.has_shown = True
            if event.name == LOST:
                note("events came faster than they were read; some are missing")
                return
            self.last = event.id or self.last
            self.show(event)
        self.has_answered = True

    def show(self, event: GatewayEvent) -> None:
        """Write it, if it is asked for."""
        if self._is_wanted(event.data):
            self._write(event)

    def _write(self, event: GatewayEvent) -> None:
        if self._as_json:
            write_json(event.data)
        else:
            write_lines([event_line(event.name, event.data)])

    def _is_wanted(self, data: dict[str, Any]) -> bool:
        found = str(data.get("level", "info"))
        if found in LEVELS and LEVELS.index(found) < self._level:
            return False
        tunnel = str(data.get("tunnel", ""))
        return not self._names or any(fnmatch.fnmatchcase(tunnel, each) for each in self._names)


_SHOWN_APART: Final = frozenset({"event", "time", "level", "logger", "tunnel", "message", "id"})


LEVEL_STYLES: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red"}
MAX_MESSAGE_CHARACTERS: Final = 4_000


def event_line(name: str, data: dict[str, Any]) -> Line:
    """Return an event as a line of the log: when, level, tunnel, what."""
    when = data.get("time")
    clock = _clock(when) if isinstance(when, int | float) else ""
    level = str(data.get("level", "info"))
    tunnel = printable(str(data.get("tunnel", "")))
    said = data.get("message")
    if said is None:
        fields = [f"{key}={each}" for key, each in data.items() if key not in _SHOWN_APART]
        said = " ".join([name.replace("_", " "), *fields])
    style = LEVEL_STYLES.get(level, "")
    return (
        Styled(f"{clock} ", "bright_black"),
        Styled(f"{printable(level, 12):<7} ", style),
        Styled(f"{tunnel}: " if tunnel else "", "bold"),
        Styled(printable(str(said), MAX_MESSAGE_CHARACTERS), style),
    )


def _clock(when: float) -> str:
    try:
        return (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when % 1 * 1000):03d}Z"
        )
    except (OverflowError, ValueError, OSError):
        return ""
