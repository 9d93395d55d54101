"""SecureTunnelBuilder: the options of a tunnel client, one call each, as in the device SDK for C++.

Owns nothing but the options until `build`; a client that was built does not change with its
builder.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pykka import ActorRef

from tunnelfleet.actors.addresses import HttpProxy
from tunnelfleet.actors.api.messages import (
    ConnectionFailure,
    ConnectionReset,
    ConnectionShutdown,
    ConnectionStarted,
    ConnectionSuccess,
    InputEnded,
    MessageReceived,
    SendMessageComplete,
    SessionReset,
    Stopped,
    StreamStarted,
    StreamStopped,
)
from tunnelfleet.actors.config import Limits
from tunnelfleet.proto import Endpoint, Mode, ProtocolVersion
from tunnelfleet.runtime.runtime import TunnelRuntime

from .secure_tunnel import SecureTunnel

if TYPE_CHECKING:
    from .options import SecureTunnelOptions, Services


class SecureTunnelBuilder:
    """Builds tunnel clients. Every `with_` method returns the builder.

    Args:
        access_token: the client access token of `mode`.
        mode: `"source"` or `"destination"`, or a `Mode`.
        endpoint: of the service: a host, `host:port`, or a `wss://` or `ws://` URL.
    """

    def __init__(self, access_token: str, mode: Mode | str, endpoint: Endpoint | str) -> None:
        self._access_token = access_token
        self._mode = mode
        self._endpoint = endpoint
        self._options: SecureTunnelOptions[SecureTunnel] = {}

    def __repr__(self) -> str:
        return f"<SecureTunnelBuilder {self._mode} {self._endpoint}>"

    def build(self) -> SecureTunnel:
        """Make a client from the options so far. They are checked, and later ones do not change it.

        Raises:
            ConfigError: an option cannot work.
        """
        options = self._options.copy()
        return SecureTunnel(self._access_token, self._mode, self._endpoint, **options)

    def _with(self, **options: Any) -> Self:
        self._options.update(options)  # type: ignore[typeddict-item]
        return self

    # -- the connection

    def with_client_token(self, client_token: str) -> Self:
        """Connect with this client token, unique among the account's open tunnels.

        Without it one is generated, and kept for reconnecting (docs/protocol.md section 1).
        """
        return self._with(client_token=client_token)

    def with_root_ca(self, path: Path | str) -> Self:
        """Trust the authorities in this PEM file, and no others."""
        return self._with(root_ca=path)

    def with_tls_context(self, context: ssl.SSLContext) -> Self:
        """Use this context for TLS. It excludes `with_root_ca`."""
        return self._with(tls_context=context)

    def with_http_proxy(self, proxy: HttpProxy | str) -> Self:
        """Connect through an HTTP proxy: `http://[user:password@]host:port`."""
        return self._with(http_proxy=proxy)

    def with_bandwidth(self, bytes_per_second: float) -> Self:
        """Send a little slower than this, so that data waits here and not in the service."""
        return self._with(bandwidth=bytes_per_second)

    def with_version(self, version: ProtocolVersion | str) -> Self:
        """Source: speak this version; V3 by default. A destination uses the source's version."""
        return self._with(version=version)

    def with_limits(self, limits: Limits) -> Self:
        """Use these bounds."""
        return self._with(limits=limits)

    def with_half_close(self, half_close: bool = True) -> Self:
        """Keep a connection that the peer has ended in good order, to send on, until it is reset.

        `InputEnded` tells of it, in place of `ConnectionReset` or `StreamStopped`.
        """
        return self._with(half_close=half_close)

    def with_pacing(self, pacing: bool) -> Self:
        """False: do not find out by pings how fast to send, where there is no bandwidth."""
        return self._with(pacing=pacing)

    def with_marks(self, marks: bool) -> Self:
        """With False, do not tell the kinds of end apart, as with peers of another make."""
        return self._with(marks=marks)

    def with_name(self, name: str) -> Self:
        """Set the name of the client in its runtime, in logs and metrics."""
        return self._with(name=name)

    def with_runtime(self, runtime: TunnelRuntime) -> Self:
        """Run in this runtime, which must run when the client starts, and share its threads."""
        return self._with(runtime=runtime)

    def with_services(self, services: Services) -> Self:
        """Let some services of the tunnel go to sockets instead of the callbacks.

        Args:
            services: service id -> address: where a source listens, what a destination connects to.
        """
        return self._with(services=dict(services))

    # -- events

    def with_events_to(self, actor: ActorRef[Any]) -> Self:
        """Send every event to a pykka actor too, no faster than it handles them."""
        return self._with(events_to=actor)

    def with_on_connection_success(
        self, callback: Callable[[SecureTunnel, ConnectionSuccess], object]
    ) -> Self:
        """Be told when the tunnel is connected and its services are known."""
        return self._with(on_connection_success=callback)

    def with_on_connection_failure(
        self, callback: Callable[[SecureTunnel, ConnectionFailure], object]
    ) -> Self:
        """Be told when an attempt to connect failed."""
        return self._with(on_connection_failure=callback)

    def with_on_connection_shutdown(
        self, callback: Callable[[SecureTunnel, ConnectionShutdown], object]
    ) -> Self:
        """Be told when the connection ended."""
        return self._with(on_connection_shutdown=callback)

    def with_on_send_message_complete(
        self, callback: Callable[[SecureTunnel, SendMessageComplete], object]
    ) -> Self:
        """Be told when something that was sent is wholly written to the socket, or failed."""
        return self._with(on_send_message_complete=callback)

    def with_on_send_data_complete(
        self, callback: Callable[[SecureTunnel, SendMessageComplete], object]
    ) -> Self:
        """Return the older name of `with_on_send_message_complete`."""
        return self.with_on_send_message_complete(callback)

    def with_on_message_received(
        self, callback: Callable[[SecureTunnel, MessageReceived], object]
    ) -> Self:
        """Get the messages of open streams."""
        return self._with(on_message_received=callback)

    def with_on_stream_started(
        self, callback: Callable[[SecureTunnel, StreamStarted], object]
    ) -> Self:
        """Destination: be told when the source starts a stream."""
        return self._with(on_stream_started=callback)

    def with_on_stream_stopped(
        self, callback: Callable[[SecureTunnel, StreamStopped], object]
    ) -> Self:
        """Be told when a stream ended."""
        return self._with(on_stream_stopped=callback)

    def with_on_connection_started(
        self, callback: Callable[[SecureTunnel, ConnectionStarted], object]
    ) -> Self:
        """Destination, V3: be told when the source starts one more connection."""
        return self._with(on_connection_started=callback)

    def with_on_connection_reset(
        self, callback: Callable[[SecureTunnel, ConnectionReset], object]
    ) -> Self:
        """V3: be told when the peer ends a connection."""
        return self._with(on_connection_reset=callback)

    def with_on_input_ended(self, callback: Callable[[SecureTunnel, InputEnded], object]) -> Self:
        """With `with_half_close`: be told when the peer sends no more on a connection."""
        return self._with(on_input_ended=callback)

    def with_on_session_reset(
        self, callback: Callable[[SecureTunnel, SessionReset], object]
    ) -> Self:
        """Be told when the service resets the session."""
        return self._with(on_session_reset=callback)

    def with_on_stopped(self, callback: Callable[[SecureTunnel, Stopped], object]) -> Self:
        """Be told when the tunnel is fully stopped: the last call."""
        return self._with(on_stopped=callback)
