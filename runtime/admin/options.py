"""What the administration server is told: where to listen, whom to let in, when to be ready.

Owns the check of these options. It opens nothing.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tunnelfleet.actors.config import TcpAddress, parse_address
from tunnelfleet.proto import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEFAULT_PORT", "AdminOptions", "parse_admin_address"]

DEFAULT_PORT: Final = 9464
"""The port that OpenTelemetry's exporters for Prometheus use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions:
    """Options of an AdminServer.

    Attributes:
        host: address to listen on; loopback unless told otherwise.
        port: port to listen on; 0 picks a free one.
        certificate: PEM of a certificate, for TLS.
        private_key: PEM of its key.
        bearer_token: what a client must send as `Authorization: Bearer TOKEN`; None lets all in.
        ready_fraction: the part of the tunnels that must be connected to be ready.
        ready_hysteresis: how far below `ready_fraction` a ready fleet may fall and stay ready.

    Raises:
        ConfigError: they do not go together, or a number is out of its range.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    certificate: Path | None = None
    private_key: Path | None = None
    bearer_token: str | None = field(default=None, repr=False)
    ready_fraction: float = 0.9
    ready_hysteresis: float = 0.1

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise ConfigError("a certificate and its private key go together; give both or none")
        if not 0 < self.ready_fraction <= 1 or not 0 <= self.ready_hysteresis <= 1:
            raise ConfigError(
                "ready_fraction takes more than 0 and at most 1, ready_hysteresis 0 to 1"
            )
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"a port is 0 to 65535, not {self.port}")
        self._check_token()

    def _check_token(self) -> None:
        token = self.bearer_token
        if token is None:
            return
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("the bearer token must be printable ASCII without blanks")
        if not self.is_tls and not is_loopback(self.host):
            raise ConfigError(
                "a bearer token off loopback needs TLS, or anyone on the way could read it: "
                "give a certificate and its private key"
            )

    @property
    def is_tls(self) -> bool:
        """Whether it speaks https."""
        return self.certificate is not None


def parse_admin_address(text: str) -> TcpAddress:
    """Read HOST:PORT, a port alone being one of 127.0.0.1.

    Raises:
        ConfigError: it is neither.
    """
    address = parse_address(text)
    if not isinstance(address, TcpAddress):
        raise ConfigError("the address of the administration server is HOST:PORT")
    return address


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
