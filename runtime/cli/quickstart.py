"""``tunnelfleet quickstart``: a fleet on this machine, to look at, from the command line.

Owns the options, what is printed, and the exit status. What it starts is in
`tunnelfleet.runtime.quickstart`.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Annotated

import typer

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.admin import parse_admin_address
from tunnelfleet.runtime.quickstart import Quickstart, QuickstartOptions

from .errors import EXIT_FAILURE, EXIT_OK, CommandFailed
from .output import log_lines, outputs
from .signals import stop_signals

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
        float | None, typer.Option(metavar="SECONDS", help="End after this time; else at Ctrl-C.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is there as one JSON object.")
    ] = False,
) -> int:
    """Start a service, three devices and a gateway with their tunnels, and say what to try.

    All of it is on this machine and in a folder that goes away at the end. Nothing leaves loopback.
    """
    address = parse_admin_address(metrics)
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
