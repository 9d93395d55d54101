"""`tunnelfleet demo`, `quickstart` and `bench`: tunnels on this machine, to look at and to measure.

Owns their options, what is printed where, and the exit status. What they start is in
`tunnelfleet.runtime.demo`, `tunnelfleet.runtime.quickstart` and `tunnelfleet.runtime.bench`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tunnelfleet.actors.addresses import is_loopback
from tunnelfleet.proto import ConfigError, TunnelError
from tunnelfleet.runtime.admin import AdminOptions, parse_admin_address
from tunnelfleet.runtime.bench import Bench, BenchOptions
from tunnelfleet.runtime.demo import Demo, DemoOptions, make_view
from tunnelfleet.runtime.quickstart import Quickstart, QuickstartOptions

from .errors import EXIT_FAILURE, EXIT_OK, CommandFailed, stop_signals
from .options import ADMIN, ADMIN_OPEN, takes
from .output import log_lines, outputs


@takes([ADMIN, ADMIN_OPEN])
def demo_command(
    tunnels: Annotated[
        int, typer.Option(metavar="N", help="How many tunnels, each with three services.")
    ] = 20,
    duration: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the traffic lasts.")
    ] = 30.0,
    chaos: Annotated[
        bool, typer.Option("--chaos/--no-chaos", help="Break connections while you watch.")
    ] = True,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Stay up afterwards; print how to reach a tunnel yourself."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the result as JSON on stdout; the rest goes to stderr."),
    ] = False,
    **given: Any,
) -> int:
    """Run service, tunnels and traffic on this machine, break connections, and watch them.

    Every byte that comes through a tunnel is compared with what was sent. The exit status is 1 if
    one was wrong, or if a tunnel did not come back.
    """
    options = DemoOptions(
        tunnels=tunnels,
        duration_seconds=duration,
        chaos=chaos,
        keep=keep,
        admin=_admin_options(**given),
    )
    with (
        outputs(as_json=as_json, goes_on="the demo") as (out, err),
        log_lines(stream=err.as_text()),
    ):
        stream = err if as_json else out
        demo = Demo(options, make_view(stream.as_text()))
        with stop_signals(demo.stop):
            report = demo.run()
        stream.write("\n".join(report.lines()) + "\n")
        if as_json:
            out.write(report.to_json() + "\n")
    return EXIT_OK if report.is_good else EXIT_FAILURE


def _admin_options(admin: str | None, admin_open: bool) -> AdminOptions | None:
    if admin is None:
        return None
    address = parse_admin_address(admin)
    return AdminOptions(host=address.host, port=address.port, open_to_all=admin_open)


TICK_SECONDS = 0.5


def quickstart_command(
    metrics: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where the status page is; port 0 for a free one."),
    ] = "127.0.0.1:0",
    ssh: Annotated[
        bool,
        typer.Option("--ssh/--no-ssh", help="Put a real sshd behind the tunnels, if there is one."),
    ] = True,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.0, help="End after this time; else at Ctrl-C."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is there as one JSON object.")
    ] = False,
) -> int:
    """Start a service, three devices and a gateway with their tunnels, and say what to try.

    All of it is on this machine and in a folder that goes away at the end. Nothing leaves loopback.
    """
    address = parse_admin_address(metrics)
    if not is_loopback(address.host):
        raise ConfigError(
            f"--metrics {metrics}: a quickstart is for this machine alone, without a token; "
            f"write 127.0.0.1:{address.port}"
        )
    options = QuickstartOptions(metrics=str(address), ssh=ssh)
    stopping = threading.Event()
    with (
        outputs(as_json=as_json, goes_on="the quickstart") as (out, err),
        log_lines(stream=err.as_text()),
        stop_signals(lambda _number: stopping.set()),
        Quickstart(options) as quickstart,
    ):
        try:
            ready = quickstart.start()
        except TunnelError as error:
            raise CommandFailed(str(error)) from None
        text = json.dumps(ready.to_json()) if as_json else "\n".join(ready.lines())
        out.write(text + "\n")
        deadline = None if seconds is None else time.monotonic() + seconds
        while not stopping.is_set():
            if deadline is not None and time.monotonic() >= deadline:
                break
            if quickstart.wait(TICK_SECONDS):
                err.write(f"the gateway has ended; its log was {ready.log}\n")
                return EXIT_FAILURE
    return EXIT_OK


def bench_command(
    endpoint: Annotated[
        str | None,
        typer.Option("-e", "--endpoint", metavar="HOST[:PORT]", help="The tunneling service."),
    ] = None,
    region: Annotated[
        str | None, typer.Option("-r", "--region", metavar="REGION", help="AWS's of that region.")
    ] = None,
    source_token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            envvar="TUNNELFLEET_SOURCE_TOKEN",
            help="Of a tunnel that is there; the environment hides it.",
        ),
    ] = None,
    destination_token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            envvar="TUNNELFLEET_DESTINATION_TOKEN",
            help="Of the same tunnel; the environment hides it.",
        ),
    ] = None,
    management: Annotated[
        str | None,
        typer.Option(
            metavar="URL|aws",
            help="Open a tunnel with this management API instead, and delete it afterwards. "
            "Needs boto3 and its credentials; AWS charges for a tunnel.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("-c", "--ca", metavar="PATH", help="More certificate authorities."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long each of five figures is measured.")
    ] = 3.0,
    tls: Annotated[
        bool, typer.Option("--tls/--plain", help="How the embedded service speaks.")
    ] = True,
    pacing: Annotated[
        bool,
        typer.Option("--pacing/--no-pacing", help="Find out by pings how fast to send."),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object.")
    ] = False,
) -> int:
    """Measure a tunnel: throughput, round trips, connections.

    Both of its ends are in this process, and so is the service if none is named: then it is this
    machine that is measured. Name a service, with the tokens of a tunnel or with --management, to
    measure it and the way to it.
    """
    options = BenchOptions(
        seconds=seconds,
        endpoint=endpoint,
        region=region,
        source_token=source_token,
        destination_token=destination_token,
        management=management,
        ca=ca,
        tls=tls,
        pacing=pacing,
    )
    with (
        outputs(as_json=as_json, goes_on="the measurement") as (out, err),
        # That a turn was slow is what is measured, and nothing to warn of.
        log_lines(logging.ERROR, err.as_text()),
    ):
        service, figures = Bench(options, lambda text: err.write(f"{text}\n")).run()
        if as_json:
            out.write(json.dumps({"service": service, **figures.to_json()}) + "\n")
        else:
            out.write("\n".join(figures.lines()) + "\n")
    return EXIT_OK
