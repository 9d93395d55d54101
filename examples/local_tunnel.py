r"""Where the examples get a tunnel from: your own, or one of a service that runs in the program.

With TUNNEL_ENDPOINT and the tokens in the environment an example uses them:

    TUNNEL_ENDPOINT=data.tunneling.iot.eu-west-1.amazonaws.com \
    TUNNEL_DESTINATION_TOKEN=... python examples/echo_device.py

Without them it starts the embedded service and opens a tunnel in it: nothing else is needed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Given(NamedTuple):
    """A tunnel that was opened; a token is empty when that side is somebody else's."""

    endpoint: str
    source_token: str
    destination_token: str
    root_ca: Path | None

    def __repr__(self) -> str:
        return f"Given({self.endpoint})"


@contextlib.contextmanager
def a_tunnel(services: Sequence[str] = ("ECHO",)) -> Iterator[Given]:
    """The tunnel of the environment, or a new one."""
    endpoint = os.environ.get("TUNNEL_ENDPOINT")
    if endpoint:
        source = os.environ.get("TUNNEL_SOURCE_TOKEN", "")
        destination = os.environ.get("TUNNEL_DESTINATION_TOKEN", "")
        ca = os.environ.get("TUNNEL_CA")
        yield Given(endpoint, source, destination, Path(ca) if ca else None)
        return
    with TunnelService() as service:
        tokens = service.open_tunnel("example", services)
        token = tokens.source_token
        yield Given(service.endpoint, token, tokens.destination_token, service.ca_path)
