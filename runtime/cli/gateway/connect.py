"""`tunnelfleet connect`: its options for the help; what it does is in `tunnelfleet.connect`.

That module is what runs: `tunnelfleet.__main__` calls it before the command line is loaded, unless
somebody asks for help or makes a mistake.
"""

from __future__ import annotations

from typing import Annotated

import typer

from tunnelfleet.connect import connect

__all__ = ["connect_command"]


def connect_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME[:SERVICE]", help="The tunnel, and which of its services.")
    ],
    gateway: Annotated[
        str | None,
        typer.Option(
            "--gateway",
            metavar="unix:PATH",
            help="The gateway; without it $TUNNELFLEET_GATEWAY, else the socket of this machine's.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Join standard input and output to a tunnel of a running gateway, until it ends.

    For ssh: ProxyCommand tunnelfleet connect %h:SSH. The user whom the gateway's door rules are
    asked about is the one who runs this.
    """
    return connect(name, gateway)
