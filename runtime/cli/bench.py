"""``tunnelfleet bench``: what a link and a service are worth to a tunnel, from the command line.

Owns the options, what is printed, and the exit status. How it is measured is in
`tunnelfleet.runtime.bench`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from tunnelfleet.runtime.bench import Bench, BenchOptions

from .errors import EXIT_OK
from .output import log_lines, outputs


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
