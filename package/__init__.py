"""tunnelfleet: fleets of AWS IoT Secure Tunneling tunnels, as actors in one process.

The public names are those of `tunnelfleet.runtime`, and `__version__`:

    from tunnelfleet import SecureTunnel, TunnelRuntime

A name is loaded when somebody first asks for it (PEP 562), so `import tunnelfleet.proto` loads the
protocol and nothing else of ours.
"""

# The star stands only for type checkers, which must know the names below.
# ruff: noqa: F403, F405

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunnelfleet.runtime import *

    from .version import VERSION as __version__  # noqa: N811

__all__ = [
    "ANY_SERVICE",
    "MAX_PAYLOAD_BYTES",
    "AbnormalEnd",
    "Address",
    "ApiEvent",
    "ApiService",
    "Backoff",
    "CallbackStats",
    "ConfigError",
    "ConnectionClosed",
    "ConnectionFailure",
    "ConnectionIdUnknown",
    "ConnectionIdUnusable",
    "ConnectionLost",
    "ConnectionOpened",
    "ConnectionReset",
    "ConnectionShutdown",
    "ConnectionStarted",
    "ConnectionSuccess",
    "Endpoint",
    "EventStream",
    "HandshakeError",
    "HttpProxy",
    "InputEnded",
    "LaneStats",
    "Limits",
    "ListenerClosed",
    "ListenerOpened",
    "LocalProtocolError",
    "Message",
    "MessageReceived",
    "MessageType",
    "Mode",
    "NoActiveStream",
    "NotConnected",
    "PayloadTooLarge",
    "ProtocolVersion",
    "RemoteProtocolError",
    "RuntimeStats",
    "SecureTunnel",
    "SecureTunnelBuilder",
    "SendMessageComplete",
    "SendQueueFull",
    "ServiceIdUnknown",
    "ServiceIdsReceived",
    "ServiceWithoutStream",
    "ServicesMismatched",
    "SessionReset",
    "SessionWasReset",
    "Stopped",
    "StreamClosed",
    "StreamOpened",
    "StreamStarted",
    "StreamStopped",
    "Subscribe",
    "TcpAddress",
    "TooManyConnections",
    "Tunnel",
    "TunnelClosed",
    "TunnelConfig",
    "TunnelError",
    "TunnelEvent",
    "TunnelRuntime",
    "TunnelState",
    "TunnelStateChanged",
    "TunnelStatus",
    "UnixAddress",
    "Unsubscribe",
    "VersionMismatch",
    "WrongMode",
    "__version__",
    "make_ssl_context",
    "parse_address",
]

if not TYPE_CHECKING:  # With this function in sight a type checker would let every name pass.

    def __getattr__(name: str) -> object:
        """Load a public name.

        Raises:
            AttributeError: there is no such name.
        """
        if name == "__version__":
            value = importlib.import_module("tunnelfleet.version").VERSION
        elif name in __all__:
            value = getattr(importlib.import_module("tunnelfleet.runtime"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
