"""The console of `tunnelfleet service`: what it prints, and the commands that are typed into it.

Owns the wording and the JSON objects, the commands that connect to a tunnel, and what a line on
standard input (`--control`) does. It does not know where events come from.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tunnelfleet.proto import ConfigError, Mode, counted
from tunnelfleet.proto.endpoint import MAX_PORT
from tunnelfleet.runtime.cli.errors import one_line
from tunnelfleet.runtime.cli.output import LineOutput
from tunnelfleet.runtime.service import Origin, ServiceEvent, TunnelService, TunnelTokens
from tunnelfleet.runtime.service.controls import FAULTS, run_words

FIRST_LISTEN_PORT: Final = 5555
"""The source commands that are printed listen from here on, each service on a port of its own."""

USUAL_PORTS: Final = {"SSH": 22, "HTTP": 80, "HTTPS": 443, "VNC": 5900, "RDP": 3389}
OTHER_PORT: Final = 8080
"""Where the application of a service with another name is supposed to be; to be changed."""
_TOKEN_VARIABLE: Final = "AWSIOT_TUNNEL_ACCESS_TOKEN"  # noqa: S105 (the name of a variable)


class ConnectCommands:
    """The commands that connect to a tunnel, ready to paste.

    Tokens stand in front, as environment variables: the list of processes shows only arguments.

    Args:
        endpoint: where clients connect to.
        ca: what they have to trust, or None if they trust it anyway.
    """

    def __init__(self, endpoint: str, ca: Path | None) -> None:
        # Without TLS the URL needs its scheme. AWS's localproxy takes only host and port.
        options = ["-e", endpoint.removeprefix("wss://")]
        self._options = options if ca is None else [*options, "-c", str(ca)]
        self._next_port = FIRST_LISTEN_PORT

    def both(self, tokens: TunnelTokens) -> dict[Mode, str]:
        """Return the command of each side."""
        services = tokens.services or ("",)
        listen = {each: str(self._listen_port()) for each in services}
        apps = {each: f"127.0.0.1:{USUAL_PORTS.get(each, OTHER_PORT)}" for each in services}
        if not tokens.services:
            apps = {"": f"127.0.0.1:{USUAL_PORTS['SSH']}"}
        return {
            Mode.SOURCE: self._command(tokens.source_token, "-s", listen),
            Mode.DESTINATION: self._command(tokens.destination_token, "-d", apps),
        }

    def _listen_port(self) -> int:
        port = self._next_port
        self._next_port = port + 1 if port < MAX_PORT else FIRST_LISTEN_PORT
        return port

    def _command(self, token: str, option: str, mapping: dict[str, str]) -> str:
        pairs = [f"{key}={value}" if key else value for key, value in mapping.items()]
        words = ["tunnelfleet", "localproxy", *self._options, option, ",".join(pairs)]
        return f"{_TOKEN_VARIABLE}={shlex.quote(token)} {shlex.join(words)}"


_KEPT: Final = "the one that its client has"
_URL_NAMES: Final = {
    "management": "management API (an AWS SDK's endpoint_url)",
    "admin": "metrics and health",
}


class Console:
    """Prints for people, or one JSON object a line for programs. Used by the main thread alone."""

    def __init__(self, out: LineOutput, *, as_json: bool) -> None:
        self._out = out
        self._as_json = as_json
        self._commands = ConnectCommands("", None)

    def ready(
        self,
        service: TunnelService,
        tunnels: list[TunnelTokens],
        ca: Path | None,
        urls: Mapping[str, str],
    ) -> None:
        """Print where the service is and how to connect; from now on tokens have commands.

        Args:
            service: the service.
            tunnels: what was opened for the start.
            ca: what clients have to trust; None: what they trust anyway.
            urls: where else it listens, by name.
        """
        self._commands = ConnectCommands(service.endpoint, ca)
        if self._as_json:
            fields: dict[str, object] = {
                "endpoint": service.endpoint,
                "endpoints": list(service.endpoints),
                "ca": None if ca is None else str(ca),
                "tunnels": [self._token_fields(each) for each in tunnels],
                **urls,
            }
            self._object("ready", fields)
            return
        others = ", ".join(service.endpoints[1:])
        self._line(f"tunneling service at {service.endpoint}" + (others and f" (also {others})"))
        if ca is not None:
            self._line(f"its CA certificate, for clients to trust: {ca}")
        for name, url in urls.items():
            self._line(f"{_URL_NAMES.get(name, name)} at {url}")
        for tokens in tunnels:
            self.tokens(tokens)
        self._line("stop with Ctrl-C")

    def tokens(self, tokens: TunnelTokens) -> None:
        """Print the tokens of a tunnel and the commands that use them."""
        if self._as_json:
            self._object("tokens", self._token_fields(tokens))
            return
        services = ", ".join(tokens.services) or "none"
        commands = self._commands.both(tokens)
        self._line(f"tunnel {tokens.name} (services: {services})")
        self._line(f"  source      access token: {tokens.source_token or _KEPT}")
        self._line(f"  destination access token: {tokens.destination_token or _KEPT}")
        if tokens.destination_token:
            self._line("  on the device, with the addresses of its applications behind -d:")
            self._line(f"    {commands[Mode.DESTINATION]}")
        if tokens.source_token:
            self._line("  on your side, where -s names the ports to connect to:")
            self._line(f"    {commands[Mode.SOURCE]}")

    def _token_fields(self, tokens: TunnelTokens) -> dict[str, object]:
        commands = self._commands.both(tokens)
        return {
            "name": tokens.name,
            "services": list(tokens.services),
            # A token that was issued before a restart is known to its client alone.
            "source_token": tokens.source_token or None,
            "destination_token": tokens.destination_token or None,
            "source_command": commands[Mode.SOURCE] if tokens.source_token else None,
            "destination_command": (
                commands[Mode.DESTINATION] if tokens.destination_token else None
            ),
        }

    def event(self, event: ServiceEvent) -> None:
        """Print what happened."""
        if self._as_json:
            self._line(event.to_json())
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.time_seconds))
        words = (event.tunnel, event.mode or "", event.kind.replace("_", " "), event.detail)
        self._line(one_line(" ".join(word for word in (clock, *words) if word)))

    def answer(self, command: str, text: str, *, ok: bool) -> None:
        """Print the answer to a command."""
        if self._as_json:
            self._object("control", {"command": command, "ok": ok, "detail": text})
        else:
            self._line(text if ok else f"error: {text}")

    def lost(self, count: int) -> None:
        """Print how many events were dropped."""
        if self._as_json:
            self._object("events_lost", {"count": count})
        else:
            text = counted(count, "event", "was", "were")
            self._line(f"{text} not shown: the output is too slow")

    def _object(self, event: str, fields: dict[str, object]) -> None:
        self._line(json.dumps({"event": event, **fields}))

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")


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
    ids = [each.strip() for each in services.split(",")] if services.strip() else []
    if not all(ids):
        raise ConfigError(f"{text!r} has a service without a name: give NAME=SERVICE,SERVICE")
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
        f"{counted(each.source_sent_bytes, 'byte')} out, "
        f"{counted(each.destination_sent_bytes, 'byte')} back"
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
