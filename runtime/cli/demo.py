"""``tunnelfleet demo``: service, tunnels, traffic and chaos on this machine, from the command line.

Owns the options, which stream says what, and the exit status. Must not know how the demo works: it
holds a ``Demo`` and nothing below it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunnelfleet.runtime.admin import AdminOptions, parse_admin_address
from tunnelfleet.runtime.demo import Demo, DemoOptions, make_view

from .errors import EXIT_FAILURE, EXIT_OK
from .options import ADMIN, ADMIN_OPEN, takes
from .output import log_lines, outputs
from .signals import stop_signals


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
