"""The embedded tunneling service: a data plane like AWS's, on one's own machine.

``TunnelService`` is all that a user needs. Must not import the client side of the runtime, with
which it shares only ``tunnelfleet.proto``.
"""

from tunnelfleet.actors.token_bucket import parse_rate

from .events import ServiceEvent, ServiceEventKind, TunnelSnapshot
from .files import write_file
from .service import TunnelService
from .tokens import TunnelTokens
from .tunnels import Origin

__all__ = [
    "Origin",
    "ServiceEvent",
    "ServiceEventKind",
    "TunnelService",
    "TunnelSnapshot",
    "TunnelTokens",
    "parse_rate",
    "write_file",
]
