"""``tunnelfleet service``: the embedded tunneling service from the command line.

Owns options, signals, and the order in which events and commands are taken. Must not know how the
service works: it holds a ``TunnelService`` and nothing below it.
"""

from __future__ import annotations

import queue
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime import memory
from tunnelfleet.runtime.cli.app import main
from tunnelfleet.runtime.cli.errors import (
    STOP_SIGNALS,
    CommandFailed,
    cannot_write,
    deliver_signals,
    one_line,
)
from tunnelfleet.runtime.cli.output import LineOutput, log_lines, outputs, take
from tunnelfleet.runtime.service import (
    Origin,
    ServiceEvent,
    ServiceEventKind,
    TunnelService,
    TunnelTokens,
    parse_rate,
    write_file,
)

from .assembly import DEFAULT_REGION, Around, Surroundings, parse_listen
from .console import Console, ControlReader, open_tunnel, run_command


@dataclass(frozen=True, slots=True)
class _Stop:
    """A signal asked the command to stop."""


@dataclass(frozen=True, slots=True)
class _RenewCertificate:
    """A signal asked for the certificate to be read again."""


_Item: TypeAlias = ServiceEvent | str | _Stop | _RenewCertificate


MAX_EVENTS_WAITING: Final = 10_000
"""Events beyond this are dropped, and counted, when standard output does not take them."""


class _Inbox:
    """The queue of the main thread, fed by the service, by signals and by the control reader."""

    def __init__(self) -> None:
        # A SimpleQueue may be fed from a signal handler; a Queue would deadlock.
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lost = 0

    def put_event(self, event: ServiceEvent) -> None:
        if self._queue.qsize() < MAX_EVENTS_WAITING:
            self._queue.put(event)
        else:
            self._lost += 1

    def put_command(self, line: str) -> None:
        self._queue.put(line)

    def put_stop(self) -> None:
        self._queue.put(_Stop())

    def put_reload(self) -> None:
        self._queue.put(_RenewCertificate())

    def get(self) -> _Item:
        return take(self._queue)

    def clear(self) -> None:
        while not self._queue.empty():
            self._queue.get()

    def take_lost(self) -> int:
        lost, self._lost = self._lost, 0
        return lost


DEFAULT_TUNNEL: Final = "tunnel-1=SSH"


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
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name or address for the certificate that is made; may be repeated. Clients "
            "are told the first one.",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the certificate that is made, and tunnels and digests of their tokens, here "
            "over restarts.",
        ),
    ] = None,
    tunnel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=SERVICE,SERVICE]",
            help=f"Open a tunnel; may be repeated. Without it, and without --management: "
            f"{DEFAULT_TUNNEL}.",
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
    management: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve AWS's API to open, list, rotate and close tunnels there (extra aws).",
        ),
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Who may call --management, written as ~/.aws/credentials. Without it anybody on "
            "this machine may.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"What stands in ARNs and notifications; {DEFAULT_REGION} without it.",
        ),
    ] = None,
    aws_limits: Annotated[
        bool, typer.Option("--aws-limits", help="AWS's limits for what --management opens.")
    ] = False,
    max_tunnels: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="So many tunnels may be open by --management."),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="TUNNELFLEET_MQTT",
            help="Tell devices of their tunnels at this broker, mqtt://HOST or mqtts://HOST "
            "(extra mqtt).",
        ),
    ] = None,
    mqtt_ca: Annotated[
        Path | None, typer.Option(metavar="PEM", help="What to trust of the broker.")
    ] = None,
    mqtt_cert: Annotated[
        Path | None, typer.Option(metavar="PEM", help="A client's certificate for the broker.")
    ] = None,
    mqtt_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key.")] = None,
    admin: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve /metrics and /healthz there."),
    ] = None,
    admin_open: Annotated[
        bool, typer.Option("--admin-open", help="Let --admin listen beyond this machine.")
    ] = False,
    chaos_api: Annotated[
        bool, typer.Option("--chaos-api", help="Cause faults by requests to /chaos of --admin.")
    ] = False,
    chaos_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The token that --chaos-api asks for."),
    ] = None,
) -> None:
    """Run a tunneling service: it pairs sources with destinations, as AWS's does."""
    if ca_out is not None and (plain or cert is not None):
        raise ConfigError("--ca-out is for the certificate that the service makes for itself")
    if plain and (cert is not None or key is not None):
        raise ConfigError("--cert and --key are for TLS, which --plain turns off")
    host, port = parse_listen("--listen", listen, "127.0.0.1:8443")
    around = Around(
        state=state,
        management=_parse_given("--management", management, "127.0.0.1:8444"),
        credentials=credentials,
        region=region,
        aws_limits=aws_limits,
        max_tunnels=max_tunnels,
        mqtt=mqtt,
        mqtt_ca=mqtt_ca,
        mqtt_cert=mqtt_cert,
        mqtt_key=mqtt_key,
        admin=_parse_given("--admin", admin, "127.0.0.1:9465"),
        admin_open=admin_open,
        chaos=chaos_api,
        chaos_token_file=chaos_token_file,
    )
    names_around = () if plain or cert is not None else around.certificate_names(host)
    memory.settle_malloc()
    inbox = _Inbox()
    with (
        outputs(as_json=as_json, goes_on="the service") as (out, err),
        log_lines(stream=err.as_text()),
        ExitStack() as stack,
    ):
        _warn_of_an_open_key(key, err)
        store = around.open_state()
        if store is not None:
            stack.callback(store.close)
        service = TunnelService(
            host=host,
            port=port,
            tls=not plain,
            certificate=cert,
            private_key=key,
            state_dir=state,
            names=[*(name or ()), *names_around],
            bandwidth_bytes_per_second=None if bandwidth is None else parse_rate(bandwidth),
            connects_per_second=around.connects_per_second,
            on_event=inbox.put_event,
            keeper=store,
        )
        # At the start it would be told as a failure of this machine.
        service.check_certificate()
        default = [] if management else [DEFAULT_TUNNEL]
        tunnels = [open_tunnel(service, text, Origin.START) for text in tunnel or default]
        service.close_unclaimed()
        surroundings = stack.enter_context(Surroundings(service, store, around))
        inbox.clear()
        stack.callback(service.stop)
        _start(service)
        with _signals_to(inbox, reloads=cert is not None):
            try:
                _start(surroundings)
                console = Console(out, as_json=as_json)
                _serve(service, surroundings, tunnels, inbox, console, ca_out, control=control)
            finally:
                surroundings.stop()


def _parse_given(option: str, text: str | None, example: str) -> tuple[str, int] | None:
    return None if text is None else parse_listen(option, text, example)


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as the user may: each connection takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warn_of_an_open_key(key: Path | None, err: LineOutput) -> None:
    """A file that the user names may be a link and have any mode; he is told if others read it."""
    try:
        is_open = key is not None and bool(key.stat().st_mode & 0o077)
    except OSError:
        return  # whoever uses the file reports what is wrong with it
    if is_open:
        text = f"others can read or change the private key {key}; chmod 600 it"
        err.write(f"warning: {one_line(text)}\n")


def _start(part: TunnelService | Surroundings) -> None:
    try:
        part.start()
    except ConfigError as error:
        # The options are right, but this machine does not allow what they ask for.
        raise CommandFailed(str(error)) from error


def _serve(
    service: TunnelService,
    surroundings: Surroundings,
    tunnels: list[TunnelTokens],
    inbox: _Inbox,
    console: Console,
    ca_out: Path | None,
    *,
    control: bool,
) -> None:
    ca = service.ca_path
    if ca_out is not None and ca is not None:
        ca = _copy_ca(ca, ca_out)
    console.ready(service, tunnels, ca, surroundings.urls())
    reader = ControlReader(inbox.put_command) if control else None
    try:
        while not isinstance(item := inbox.get(), _Stop):
            _handle(item, service, console)
            if lost := inbox.take_lost():
                console.lost(lost)
    finally:
        if reader is not None:
            reader.stop()


CA_OUT_MODE: Final = 0o644


def _copy_ca(ca: Path, ca_out: Path) -> Path:
    # It is meant to be handed on and holds no secret, so its mode is not a private one.
    target = ca_out.absolute()
    try:
        write_file(target, ca.read_bytes(), CA_OUT_MODE)
    except OSError as error:
        raise cannot_write("--ca-out", target, error) from error
    return target


def _handle(
    item: ServiceEvent | str | _RenewCertificate, service: TunnelService, console: Console
) -> None:
    if isinstance(item, ServiceEvent):
        console.event(item)
        return
    if isinstance(item, _RenewCertificate):
        _reload_certificate(service, console)
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


def _reload_certificate(service: TunnelService, console: Console) -> None:
    try:
        service.reload_certificate()
    except TunnelError as error:
        text = f"the one that is in use stays: {error}"
        console.event(ServiceEvent(ServiceEventKind.CERTIFICATE_REFUSED, detail=text))


@contextmanager
def _signals_to(inbox: _Inbox, *, reloads: bool) -> Iterator[None]:
    """Put what signals mean into the inbox.

    SIGINT and SIGTERM mean stop. SIGHUP means to take the certificate anew (``reloads``); without
    one that was given it is a terminal that was closed, and means stop, unless it was to be ignored
    (``nohup``).
    """
    is_heeded = reloads or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    numbers = (*STOP_SIGNALS, signal.SIGHUP) if is_heeded else STOP_SIGNALS

    def put(number: signal.Signals) -> None:
        if number is signal.SIGHUP and reloads:
            inbox.put_reload()
        else:
            inbox.put_stop()

    with deliver_signals(numbers, put):
        yield


if __name__ == "__main__":
    sys.exit(main(["service", *sys.argv[1:]]))
