"""``tunnelfleet service``: the embedded tunneling service from the command line.

Owns options, what is printed, and the commands that ``--control`` takes from standard input. Must
not know how the service works: it holds a ``TunnelService`` and nothing below it.
"""

from __future__ import annotations

import json
import queue
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime.service import ServiceEvent, TunnelService, TunnelTokens, parse_rate

from .app import main
from .errors import CommandFailed
from .service_control import ControlReader, open_tunnel, run_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

MAX_EVENTS_WAITING: Final = 10_000
"""Events beyond this are dropped, and counted, when standard output does not take them."""

DEFAULT_TUNNEL: Final = "tunnel-1=SSH"
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class _Stop:
    """A signal came."""


class _Console:
    """Prints for people, or one JSON object a line for programs. Used by the main thread alone."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def ready(self, service: TunnelService, tunnels: list[TunnelTokens], ca: Path | None) -> None:
        if self._as_json:
            fields = {"endpoint": service.endpoint, "ca": None if ca is None else str(ca)}
            self._object("ready", {**fields, "tunnels": [_token_fields(each) for each in tunnels]})
            return
        self._line(f"tunneling service at {service.endpoint}")
        if ca is not None:
            self._line(f"its CA certificate, for clients to trust: {ca}")
        for tokens in tunnels:
            self.tokens(tokens)
        self._line("stop with Ctrl-C")

    def tokens(self, tokens: TunnelTokens) -> None:
        if self._as_json:
            self._object("tokens", _token_fields(tokens))
            return
        services = ", ".join(tokens.services) or "none"
        self._line(f"tunnel {tokens.name} (services: {services})")
        self._line(f"  source      access token: {tokens.source_token}")
        self._line(f"  destination access token: {tokens.destination_token}")

    def event(self, event: ServiceEvent) -> None:
        if self._as_json:
            self._line(event.to_json())
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.time_seconds))
        words = (event.tunnel, event.mode or "", event.kind.replace("_", " "), event.detail)
        self._line(" ".join(word for word in (clock, *words) if word))

    def answer(self, command: str, text: str, *, ok: bool) -> None:
        if self._as_json:
            self._object("control", {"command": command, "ok": ok, "detail": text})
        else:
            self._line(text if ok else f"error: {text}")

    def lost(self, count: int) -> None:
        if self._as_json:
            self._object("events_lost", {"count": count})
        else:
            self._line(f"{count} events were not shown: the output is too slow")

    def _object(self, event: str, fields: dict[str, object]) -> None:
        self._line(json.dumps({"event": event, **fields}))

    @staticmethod
    def _line(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _token_fields(tokens: TunnelTokens) -> dict[str, object]:
    return {
        "name": tokens.name,
        "services": list(tokens.services),
        "source_token": tokens.source_token,
        "destination_token": tokens.destination_token,
    }


class _Inbox:
    """What the main thread has to do next; fed by the service, signals and the control reader."""

    def __init__(self) -> None:
        # A SimpleQueue may be fed from a signal handler; a Queue would deadlock.
        self._queue: queue.SimpleQueue[ServiceEvent | str | _Stop] = queue.SimpleQueue()
        self._lost = 0

    def put_event(self, event: ServiceEvent) -> None:
        if self._queue.qsize() < MAX_EVENTS_WAITING:
            self._queue.put(event)
        else:
            self._lost += 1

    def put_command(self, line: str) -> None:
        self._queue.put(line)

    def put_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._queue.put(_Stop())

    def get(self) -> ServiceEvent | str | _Stop:
        return self._queue.get()

    def clear(self) -> None:
        while not self._queue.empty():
            self._queue.get()

    def take_lost(self) -> int:
        lost, self._lost = self._lost, 0
        return lost


def service_command(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 picks a free one.")
    ] = "127.0.0.1:8443",
    plain: Annotated[
        bool, typer.Option("--plain", help="Serve ws without TLS; loopback only.")
    ] = False,
    cert: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificate; one is made if not given.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key.")] = None,
    tunnel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=SERVICE,SERVICE]",
            help=f"Open a tunnel; may be repeated. Without it: {DEFAULT_TUNNEL}.",
        ),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            metavar="RATE", help="Limit each tunnel, each way: 100kB/s, 800kbit/s, 12500."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, the first when ready.")
    ] = False,
    ca_out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the made CA certificate here too.")
    ] = None,
    control: Annotated[
        bool,
        typer.Option("--control", help="Take commands, one a line, from standard input; try help."),
    ] = False,
) -> None:
    """Run a tunneling service: it pairs sources with destinations, as AWS's does."""
    if ca_out is not None and (plain or cert is not None):
        raise ConfigError("--ca-out is for the certificate that the service makes for itself")
    inbox = _Inbox()
    host, port = _parse_listen(listen)
    service = TunnelService(
        host=host,
        port=port,
        tls=not plain,
        certificate=cert,
        private_key=key,
        bandwidth_bytes_per_second=None if bandwidth is None else parse_rate(bandwidth),
        on_event=inbox.put_event,
    )
    tunnels = [open_tunnel(service, text) for text in tunnel or [DEFAULT_TUNNEL]]
    inbox.clear()
    _allow_many_connections()
    _start(service)
    try:
        with _Signals(inbox):
            _serve(service, tunnels, inbox, _Console(as_json=as_json), ca_out, control=control)
    finally:
        service.stop()


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as the user may: each connection takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start(service: TunnelService) -> None:
    try:
        service.start()
    except ConfigError as error:
        # What was asked for is in order; this machine does not let it happen.
        raise CommandFailed(str(error)) from error


def _serve(
    service: TunnelService,
    tunnels: list[TunnelTokens],
    inbox: _Inbox,
    console: _Console,
    ca_out: Path | None,
    *,
    control: bool,
) -> None:
    ca = service.ca_path
    if ca_out is not None and ca is not None:
        ca = Path(shutil.copyfile(ca, ca_out)).absolute()
    console.ready(service, tunnels, ca)
    reader = ControlReader(inbox.put_command) if control else None
    try:
        while not isinstance(item := inbox.get(), _Stop):
            _handle(item, service, console)
            if lost := inbox.take_lost():
                console.lost(lost)
    finally:
        if reader is not None:
            reader.stop()


def _handle(item: ServiceEvent | str, service: TunnelService, console: _Console) -> None:
    if isinstance(item, ServiceEvent):
        console.event(item)
        return
    try:
        result = run_command(service, item)
    except TunnelError as error:
        console.answer(item, str(error), ok=False)
        return
    if isinstance(result, TunnelTokens):
        console.tokens(result)
    else:
        console.answer(item, result, ok=True)


class _Signals:
    """SIGINT and SIGTERM put a stop into the inbox while this is entered."""

    def __init__(self, inbox: _Inbox) -> None:
        self._inbox = inbox
        self._former: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._former[number] = signal.signal(number, self._inbox.put_stop)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)


def _parse_listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigError(f"--listen takes HOST:PORT, such as 127.0.0.1:8443, not {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


if __name__ == "__main__":
    sys.exit(main(["service", *sys.argv[1:]]))
