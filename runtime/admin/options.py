"""What an HTTP server of ours is told: its address, its limits, and the names it is asked by.

A page of a browser can make a name of its own point to this machine, and read what is answered (DNS
rebinding). It cannot make the browser send another Host header, and it can give neither an address
nor `localhost` another meaning. So `HostCheck` admits those two always, and other names if they are
this server's.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import web

from tunnelfleet.actors import addresses
from tunnelfleet.proto import ConfigError
from tunnelfleet.proto.endpoint import MAX_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """How much clients may ask of an HTTP server.

    Attributes:
        max_connections: at once; when there are more, the one that has kept the server waiting for
            the longest is closed.
        request_seconds: how long a client has for TLS and its first request, and for each further
            one from its first byte on.
        response_seconds: how long it has to take a response.
        idle_seconds: how long a connection is kept that asks for nothing more.
    """

    max_connections: int = 64
    request_seconds: float = 10.0
    response_seconds: float = 30.0
    idle_seconds: float = 75.0


class BearerToken:
    """The token that clients have to send, as it is at the moment.

    Args:
        token: the one of the start; None lets all in, for good.
        current: another one that counts from now on, such as that of a file which was read again;
            None for no other. Called at each request.
    """

    def __init__(self, token: str | None, current: Callable[[], str | None]) -> None:
        self._token = token
        self._current = current

    def get(self) -> str | None:
        """Return it. What has counted once and was replaced never counts again by itself."""
        if self._token is not None:
            self._token = self._current() or self._token
        return self._token

    def lets_in(self, shows: Callable[[str], bool]) -> bool:
        """Whether the request that the present task answers may be answered.

        An answer that lasts asks again: see `is_still_let_in`.

        Args:
            shows: tells whether the request shows a token; called with the one of the moment.
        """

        def ask() -> bool:
            token = self.get()
            return token is None or shows(token)

        _let_in.set(ask)
        return ask()


def _anybody() -> bool:
    return True


_let_in: ContextVar[Callable[[], bool]] = ContextVar("tunnelfleet_let_in", default=_anybody)


def is_still_let_in() -> bool:
    """Whether the token that came with the request still counts, or none was asked for.

    For the task that answers the request.
    """
    return _let_in.get()()


def no_other_token() -> None:
    """Of a server whose token does not change."""
    return


DEFAULT_PORT: Final = 9464
"""The port that OpenTelemetry's exporters for Prometheus use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions(HttpLimits):
    """Options of an AdminServer, and the limits of its clients.

    Attributes:
        host: address to listen on; loopback unless told otherwise.
        port: port to listen on; 0 picks a free one.
        certificate: PEM of a certificate, for TLS.
        private_key: PEM of its key.
        bearer_token: what a client must send as `Authorization: Bearer TOKEN`; None lets all in.
        plain_token: whether the token may be sent without TLS to other machines, in a network where
            nobody listens who must not know it.
        ready_fraction: the part of the tunnels that must be connected to be ready.
        ready_hysteresis: how far below `ready_fraction` a ready fleet may fall and stay ready.
        open_to_all: serve without a token although `host` is not loopback.

    Raises:
        ConfigError: they do not go together, or a number is out of its range.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    certificate: Path | None = None
    private_key: Path | None = None
    bearer_token: str | None = field(default=None, repr=False)
    plain_token: bool = False
    ready_fraction: float = 0.9
    ready_hysteresis: float = 0.1
    open_to_all: bool = False

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise ConfigError("a certificate and its private key go together; give both or none")
        if not 0 < self.ready_fraction <= 1 or not 0 <= self.ready_hysteresis <= 1:
            raise ConfigError(
                "ready_fraction takes more than 0 and at most 1, ready_hysteresis 0 to 1"
            )
        if not 0 <= self.port <= MAX_PORT:
            raise ConfigError(f"a port is 0 to {MAX_PORT}, not {self.port}")
        times = (self.request_seconds, self.response_seconds, self.idle_seconds)
        if self.max_connections < 1 or not all(0 < each < float("inf") for each in times):
            raise ConfigError(
                "max_connections takes at least 1; request_seconds, response_seconds and "
                "idle_seconds take more than 0"
            )
        self._check_token()

    def _check_token(self) -> None:
        token = self.bearer_token
        if token is None:
            if not self.open_to_all and not addresses.is_loopback(self.host):
                raise ConfigError(
                    "the administration server would be open to everyone who can reach this "
                    "machine: listen on 127.0.0.1, ask for a bearer token, or open it on purpose "
                    "(on the command line: --admin-open)"
                )
            return
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("the bearer token must be printable ASCII without blanks")
        if not self.is_tls and not self.plain_token and not addresses.is_loopback(self.host):
            raise ConfigError(
                "a bearer token off loopback needs TLS, or anyone on the way could read it: "
                "give a certificate and its private key"
            )

    @property
    def is_tls(self) -> bool:
        """Whether it speaks https."""
        return self.certificate is not None


def parse_admin_address(text: str) -> addresses.TcpAddress:
    """Read HOST:PORT, a port alone being one of 127.0.0.1.

    Raises:
        ConfigError: it is neither.
    """
    address = addresses.parse_address(text)
    if not isinstance(address, addresses.TcpAddress):
        raise ConfigError("the address of the administration server is HOST:PORT")
    return address


MAX_HOST_CHARACTERS: Final = 260
"""The longest Host header: a name has at most 253 characters, and there may be a port."""
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::[0-9]{1,5})?")


class HostCheck:
    """Knows the names of a server: `localhost`, the machine's, and those that it is given.

    Args:
        names: more names that it may be asked by.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        machine = socket.gethostname()
        own = ("localhost", machine, machine.partition(".")[0])
        self._names = frozenset(map(_normal, (*own, *names)))

    def admits(self, request: web.BaseRequest) -> bool:
        """Return whether a request comes by one of the names, or by an address."""
        given = request.headers.getall("Host", [])
        if len(given) != 1 or len(given[0]) > MAX_HOST_CHARACTERS:
            return False
        found = _HOST.fullmatch(given[0].strip())
        if found is None:
            return False
        name = found["name"]
        if name.startswith("["):
            return addresses.parse_ip(addresses.without_brackets(name)) is not None
        return addresses.parse_ip(name) is not None or _normal(name) in self._names


def _normal(name: str) -> str:
    return name.rstrip(".").lower()
