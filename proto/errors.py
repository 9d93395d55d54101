"""The errors of tunnelfleet: whose fault it is, and what to do about it.

    TunnelError
     |- ConfigError                 what the user gave cannot work
     |   `- CannotListen            an address that this machine does not give at the moment
     |- LocalProtocolError          this side asked for what the protocol forbids; nothing was sent
     |   |- NotConnected
     |   |- PayloadTooLarge
     |   |- WrongMode
     |   |- NoActiveStream
     |   |- ServiceIdUnknown
     |   |- ServiceWithoutStream
     |   |- ConnectionIdUnknown
     |   |- ConnectionIdUnusable
     |   |- TooManyConnections
     |   `- VersionMismatch
     |- RemoteProtocolError         the peer broke the protocol; its connection must be dropped
     |- HandshakeError              the service refused the connection
     |- ConnectionLost              the WebSocket ended, or did not come up
     |- AbnormalEnd                 a stream or connection was cut off
     `- TunnelClosed                the tunnel ended before the operation did

Data is in fields, text in `__str__`. No error carries a token or a payload.
"""

# The names are states of a tunnel that read as such ("except NoActiveStream"), so no Error suffix.
# ruff: noqa: N818

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .text import MAX_ID_CHARACTERS, MAX_REASON_CHARACTERS, counted, printable

if TYPE_CHECKING:
    from .modes import Mode, ProtocolVersion


class TunnelError(Exception):
    """The base of every error that tunnelfleet raises on purpose."""


class ConfigError(TunnelError):
    """A setting cannot work. The text says which one, and what would."""


class CannotListen(ConfigError):
    """An address cannot be listened on: it is taken, or is not this machine's, or not yet.

    The same settings may work in a moment, so a command that fails by it ends as failed (1) and not
    as asked for wrongly (2), and a service manager starts it again.

    Args:
        what: who wanted to listen; empty where the address says it.
        address: which.
        error: what the system said.
    """

    def __init__(self, what: str, address: object, error: OSError) -> None:
        is_elsewhere = error.errno == errno.EADDRNOTAVAIL
        advice = "give an address of this machine" if is_elsewhere else "choose another address"
        who = f"{what} cannot" if what else "cannot"
        super().__init__(f"{who} listen on {address}: {error.strerror or error}; {advice}")


class RemoteProtocolError(TunnelError):
    """The peer sent what the protocol forbids: drop the connection and connect anew."""


class TunnelClosed(TunnelError):
    """The tunnel was stopped or closed, so the operation did not take place."""


class AbnormalEnd(TunnelError):
    """A stream or connection did not end in good order: bytes may be missing at its end."""


KNOWN_STATUSES = frozenset({400, 401, 403, 404, 407, 408, 429, 500, 502, 503, 504})
"""HTTP statuses with a label of their own: a service can send any number, and metrics are few."""


class HandshakeError(TunnelError):
    """The service did not accept the connection (docs/protocol.md section 1).

    Args:
        message: what happened and what to do, without any token.
        status: the HTTP status, or None when there was no HTTP answer.
        channel_id: the service's `channel-id`, to quote to support, if it sent one. It and the
            message are made printable and bounded: parts of both came from the service.
        retryable: whether the same request may succeed later.
    """

    def __init__(
        self, message: str, *, status: int | None, channel_id: str | None, retryable: bool
    ) -> None:
        super().__init__(printable(message, MAX_REASON_CHARACTERS))
        self.status = status
        self.channel_id = printable(channel_id or "", MAX_ID_CHARACTERS) or None
        self.retryable = retryable

    @property
    def label(self) -> str:
        """Why, in one word, for metrics: `http_403`, `http_4xx`, `http_other`, `connect_failed`."""
        status = self.status
        if status is None:
            return "connect_failed"
        if status in KNOWN_STATUSES:
            return f"http_{status}"
        return f"http_{status // 100}xx" if 100 <= status < 600 else "http_other"

    def __str__(self) -> str:
        text = str(self.args[0])
        return f"{text} (channel-id {self.channel_id})" if self.channel_id else text


class ConnectionLost(TunnelError):
    """The WebSocket to the service ended, or the attempt to connect it did.

    Attributes:
        label: why, in one word, for metrics: `closed`, `lost`, `ping_timeout`, `protocol_error`,
            `connect_failed`...
        was_established: whether the upgrade had succeeded.
    """

    def __init__(self, label: str, text: str, *, was_established: bool = True) -> None:
        super().__init__(text)
        self.label = label
        self.was_established = was_established


class LocalProtocolError(TunnelError):
    """This side asked for what the protocol forbids; nothing was sent.

    See docs/protocol.md section 5.
    """


class NotConnected(LocalProtocolError):
    """The service has not announced the tunnel's services on this connection yet.

    Args:
        text: what is not there, if it is something else than that.
    """

    def __str__(self) -> str:
        waits = "the tunnel is not connected: wait until its services are announced, then send"
        return super().__str__() or waits


class PayloadTooLarge(LocalProtocolError):
    """A DATA payload is above the limit of one message.

    Args:
        payload_bytes: the size that was asked for.
        max_bytes: the largest size that is allowed.
    """

    def __init__(self, payload_bytes: int, max_bytes: int) -> None:
        super().__init__(payload_bytes, max_bytes)
        self.payload_bytes = payload_bytes
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        return (
            f"a payload of {self.payload_bytes} bytes is above the limit of {self.max_bytes}: "
            "send it in several messages"
        )


class WrongMode(LocalProtocolError):
    """Only a source starts streams and connections.

    Args:
        mode: the mode of this side.
        operation: what was asked for.
    """

    def __init__(self, mode: Mode, operation: str) -> None:
        super().__init__(mode, operation)
        self.mode = mode
        self.operation = operation

    def __str__(self) -> str:
        return f"a {self.mode} cannot {self.operation}: open the tunnel in source mode to do so"


class NoActiveStream(LocalProtocolError):
    """No service of the tunnel has an active stream."""

    def __str__(self) -> str:
        return "the tunnel has no active stream: start one, or wait until the source starts one"


class _ServiceError(LocalProtocolError):
    """An error about one service. Args: service_id: the service."""

    def __init__(self, service_id: str) -> None:
        super().__init__(service_id)
        self.service_id = service_id

    @property
    def _shown_id(self) -> str:
        """The service id for people: the peer may have chosen it, at any length."""
        return f"{printable(self.service_id, MAX_ID_CHARACTERS)!r}"


class ServiceIdUnknown(_ServiceError):
    """The tunnel was not opened with this service.

    Args:
        service_id: the service that was asked for.
        announced: the services of the tunnel.
    """

    def __init__(self, service_id: str, announced: tuple[str, ...]) -> None:
        super().__init__(service_id)
        self.args = (service_id, announced)
        self.announced = announced

    def __str__(self) -> str:
        known = printable(", ".join(self.announced)) or "none"
        return (
            f"the tunnel has no service {self._shown_id} (its services: {known}): "
            "use one of these, or open the tunnel with this service"
        )


class ServiceWithoutStream(_ServiceError):
    """The service has no active stream, though another one has."""

    def __str__(self) -> str:
        return (
            f"service {self._shown_id} has no active stream: start one, "
            "or wait until the source starts one"
        )


class _ConnectionError(_ServiceError):
    """An error about one connection. Args: service_id, connection_id: which."""

    def __init__(self, service_id: str, connection_id: int) -> None:
        super().__init__(service_id)
        self.args = (service_id, connection_id)
        self.connection_id = connection_id


class ConnectionIdUnknown(_ConnectionError):
    """The connection is not open: it never was, or it has ended."""

    def __str__(self) -> str:
        return (
            f"service {self._shown_id} has no open connection {self.connection_id}: "
            "it has ended, or was never started"
        )


class ConnectionIdUnusable(_ConnectionError):
    """A new connection cannot have this id: it is open already or out of range."""

    def __str__(self) -> str:
        return (
            f"connection id {self.connection_id} of service {self._shown_id} is open already "
            "or out of range: leave the id out to get the next free one"
        )


class TooManyConnections(_ServiceError):
    """The stream, or the tunnel, has as many connections as are allowed.

    Args:
        service_id: the service.
        max_connections: the limit.
    """

    def __init__(self, service_id: str, max_connections: int) -> None:
        super().__init__(service_id)
        self.args = (service_id, max_connections)
        self.max_connections = max_connections

    def __str__(self) -> str:
        return (
            f"no more connections to service {self._shown_id}: "
            f"{counted(self.max_connections, 'connection', 'is', 'are')} open, which is the limit: "
            "close one first"
        )


class VersionMismatch(LocalProtocolError):
    """The tunnel's protocol version cannot express what was asked for.

    Args:
        version: the version that the tunnel speaks.
        reason: what that version cannot do, and what to do instead.
    """

    def __init__(self, version: ProtocolVersion, reason: str) -> None:
        super().__init__(version, reason)
        self.version = version
        self.reason = reason

    def __str__(self) -> str:
        return f"not possible in V{self.version.value}: {self.reason}"
