"""The client API: a tunnel whose streams end at callbacks, coroutines or actors.

What the device SDK for C++ v2 has in its SecureTunnel, for Python. All names are in
`tunnelfleet.runtime` as well.
"""

from .builder import SecureTunnelBuilder
from .options import EventStream
from .secure_tunnel import SecureTunnel

__all__ = ["EventStream", "SecureTunnel", "SecureTunnelBuilder"]
