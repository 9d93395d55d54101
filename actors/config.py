"""What a tunnel is told before it starts: addresses, limits, the tunnel's configuration.

Owns the names, defaults and checks of every setting of a tunnel. Pure data: it opens nothing,
resolves nothing and logs nothing. Tokens are kept out of every `repr`. Longer than other modules on
purpose: all that one can say of a tunnel stands in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from tunnelfleet.proto import (
    MAX_PAYLOAD_BYTES,
    ConfigError,
    Endpoint,
    Mode,
    ProtocolVersion,
    validate_access_token,
    validate_client_token,
)
from tunnelfleet.version import USER_AGENT

from .addresses import Address, HttpProxy, TcpAddress, UnixAddress
from .kernel import Backoff

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class ApiService:
    """The value of `TunnelConfig.services` for a service whose streams the client API carries.

    With `ANY_SERVICE` it stands for every service that `services` does not name.
    """


@dataclass(frozen=True, slots=True)
class NoListener:
    """The value of `TunnelConfig.services` for a service that a source does not listen for.

    Its applications come from elsewhere: a front door hands their sockets over.
    """


MAX_NUMBER = 2**31 - 1
"""What the kernel takes where it takes a number: the int of setsockopt(2) and listen(2)."""
MAX_WAIT_SECONDS = 2_147_483
"""Some 24 days, in milliseconds what poll(2) can wait: a socket takes no longer timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound of a tunnel, by name. All are per tunnel unless they say per connection.

    Raises:
        ConfigError: a value is out of its range.
        TypeError: it is no number, or no whole one where bytes or things are counted.
    """

    data_payload_bytes: int = MAX_PAYLOAD_BYTES
    """Largest payload of a DATA message; 16384 is safe for localproxy 3.3.1 at loopback speed."""
    send_high_water_bytes: int = 262_144
    """Per connection: bytes read locally that have not yet left for the kernel of the WebSocket.

    Of the client API, per tunnel: messages that have not.
    """
    send_high_water_messages: int = 4_096
    """Messages of the client API that have not yet left for the kernel of the WebSocket."""
    event_backlog_bytes: int = 1_048_576
    """Events and their payloads that wait for callbacks, before reading stops."""
    receive_backlog_bytes: int = 262_144
    """Per connection: bytes received that the local socket has not taken, before reading stops."""
    tunnel_backlog_bytes: int = 4_194_304
    """The same, summed over the tunnel's connections."""
    wire_window_bytes: int = 262_144
    """Bytes that may be with the WebSocketActor and not yet in the kernel."""
    notsent_low_water_bytes: int = 131_072
    """TCP_NOTSENT_LOWAT of the WebSocket's socket while the link is fast."""
    max_connections: int = 1_000
    """Connections at once; above it listeners stop accepting. localproxy 3.3.1 survives 128."""
    listen_backlog: int = 128
    connect_timeout_seconds: float = 15.0
    """DNS, TCP, proxy, TLS and WebSocket handshake together."""
    announce_timeout_seconds: float = 15.0
    """How long SERVICE_IDS may take to come after the upgrade."""
    local_connect_timeout_seconds: float = 10.0
    next_address_after_seconds: float = 0.25
    """Of a name with several addresses: the next is tried beside one that has not answered by then.

    RFC 8305 section 8: the Connection Attempt Delay.
    """
    keepalive_idle_seconds: float = 60.0
    """Of a local TCP connection: after so long in silence the kernel asks whether it lives."""
    keepalive_interval_seconds: float = 15.0
    """How long the kernel waits before it asks again, when there was no answer."""
    keepalive_count: int = 4
    """Questions without an answer that end the connection: SO_KEEPALIVE, tcp(7)."""
    max_free_listeners: int = 64
    """Listeners of a source whose `services` is None; further announced services have none."""
    ping_interval_seconds: float = 20.0
    pong_timeout_seconds: float = 20.0
    max_lingering_connections: int = 1_000
    """Connections that are over on the wire while their local sockets still have bytes to write, or
    to throw away; above it the oldest are reset."""
    linger_seconds: float = 10.0
    """How long a local socket whose connection is over on the wire is kept, without a byte written,
    for its application to take what came before, and to close."""
    half_close_seconds: float = 3_600.0
    """V1 and V2: how long a connection may be closed in one direction alone. Its end is a reset."""
    hello_seconds: float = 5.0
    """How long a source waits for a sign that its peer tells the kinds of end apart
    (docs/protocol.md section 3a)."""
    stall_timeout_seconds: float = 60.0
    """A connection that takes no byte for so long while it holds up its tunnel is reset."""
    standing_seconds: float = 0.1
    """How long bytes may stand in the service, in front of its throttle: what pacing aims at."""
    offline_grace_seconds: float = 10.0
    """How long a listener keeps callers waiting while the tunnel is not connected."""
    stop_timeout_seconds: float = 10.0
    """How long a graceful stop waits for what was read to be sent."""
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name != "backoff":
                self._check_number(item.name, getattr(self, item.name))
        if not isinstance(self.backoff, Backoff):
            raise TypeError(f"Limits: backoff is {type(self.backoff).__name__}, no Backoff")
        self._check_keepalive()
        if self.data_payload_bytes > MAX_PAYLOAD_BYTES:
            raise ConfigError(
                f"data_payload_bytes is {self.data_payload_bytes}: the protocol allows at most "
                f"{MAX_PAYLOAD_BYTES} (docs/protocol.md section 2)"
            )

    def _check_number(self, name: str, value: object) -> None:
        if not isinstance(value, int | float):
            raise TypeError(f"Limits: {name} is {type(value).__name__}, but has to be a number")
        if not value > 0:
            raise ConfigError(f"{name} is {value!r}: it must be greater than 0")
        is_time = name.endswith("_seconds")
        most = MAX_WAIT_SECONDS if is_time else MAX_NUMBER
        if value > most:
            raise ConfigError(f"{name} is {value!r}: it must be at most {most}")
        if not is_time and not isinstance(value, int):
            raise TypeError(f"Limits: {name} is {value!r}, but has to be a whole number")

    def _check_keepalive(self) -> None:
        # The most that Linux takes: tcp(7), and net/tcp.h for the numbers.
        most = {
            "keepalive_idle_seconds": 32_767,
            "keepalive_interval_seconds": 32_767,
            "keepalive_count": 127,
        }
        for name, limit in most.items():
            value = getattr(self, name)
            if value > limit:
                raise ConfigError(f"{name} is {value!r}: it must be at most {limit}")


ServiceTarget: TypeAlias = Address | ApiService | NoListener
"""What a service is mapped to: see `TunnelConfig.services`."""
STOOD_STILL_SECONDS = 1.0
"""A timer that is so late says that this process stood still."""


def stood_still_seconds(due_at: float, now: float) -> float:
    """How long this process stood still before a timer came; 0 if it did not.

    SIGSTOP or a frozen container may have held it. Nothing was offered to others then, and nothing
    read of them: that they were silent is held against nobody.

    Args:
        due_at: when the timer was to come, in monotonic seconds.
        now: when it came.
    """
    late_seconds = now - due_at
    return late_seconds if late_seconds >= STOOD_STILL_SECONDS else 0.0


ANY_SERVICE = ""
"""The key of `TunnelConfig.services` that stands for the tunnel's only service, whatever its id."""
MAX_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelConfig:
    """One tunnel.

    Attributes:
        name: how people and metrics call it; unique in a runtime.
        mode: source or destination.
        endpoint: the tunneling service; text is read by `Endpoint.parse`.
        access_token: the client access token of this mode.
        client_token: makes reconnecting possible; one is generated when it is None
            (docs/protocol.md section 1).
        services: service id -> where to listen (source) or what to connect to (destination).
            `ANY_SERVICE` stands for the tunnel's only service. None in source mode: a free port of
            `bind_host` for each announced service. `ApiService()` for services that do not go to a
            socket but to callbacks: see `SecureTunnel`. `NoListener()` for services of a source
            that it does not listen for.
        bind_host: where a source listens when `services` is None.
        listen_on: when `services` is None, where to listen for these of the announced services;
            the others get a free port.
        version: what a source speaks, a `ProtocolVersion` or its name, such as `"V2"`; a
            destination sees it (docs/protocol.md section 3).
        bandwidth_bytes_per_second: pace sending a little below this rate; None finds out.
        pacing: without a bandwidth, ping the service while there is much to send, to keep the queue
            here and not there (docs/architecture.md section 6).
        http_proxy: proxy for the WebSocket, or None.
        ssl_context: for this tunnel; None takes the runtime's shared one.
        local_bind: source address or host of the connections to local applications, or None; the
            WebSocket is not bound to it.
        marks: tell the kinds of end apart with a peer that does so too (docs/protocol.md section
            3a).
        user_agent: the User-Agent header.
        limits: the bounds.

    Raises:
        ConfigError: a value is out of its range.
        TypeError: a value is of another kind; the text says what to pass.
    """

    name: str
    mode: Mode
    endpoint: Endpoint
    access_token: str = field(repr=False)
    client_token: str | None = field(default=None, repr=False)
    services: Mapping[str, ServiceTarget] | None = None
    bind_host: str = "127.0.0.1"
    listen_on: Mapping[str, Address] = field(default_factory=dict)
    version: ProtocolVersion = ProtocolVersion.V3
    bandwidth_bytes_per_second: float | None = None
    http_proxy: HttpProxy | None = None
    ssl_context: ssl.SSLContext | None = None
    local_bind: str | None = None
    marks: bool = True
    pacing: bool = True
    user_agent: str = USER_AGENT
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        self._check_types()
        if not self.name or len(self.name) > MAX_NAME_LENGTH or not self.name.isprintable():
            raise ConfigError(
                f"bad tunnel name {self.name!r}: it must have 1 to {MAX_NAME_LENGTH} "
                "printable characters"
            )
        try:
            object.__setattr__(self, "mode", Mode(self.mode))
        except ValueError:
            raise ConfigError(f"bad mode {self.mode!r}: it is 'source' or 'destination'") from None
        if not isinstance(self.endpoint, Endpoint):
            object.__setattr__(self, "endpoint", Endpoint.parse(self.endpoint))  # type: ignore[unreachable]
        try:
            object.__setattr__(self, "version", ProtocolVersion.parse(self.version))
        except ValueError as error:
            raise ConfigError(f"bad version: {error}") from None
        validate_access_token(self.access_token)
        if self.client_token is not None:
            validate_client_token(self.client_token)
        self._check_services()
        bandwidth = self.bandwidth_bytes_per_second
        if bandwidth is not None and not bandwidth > 0:
            raise ConfigError("bandwidth_bytes_per_second must be greater than 0, or None")

    def _check_types(self) -> None:
        for name, (kinds, wanted) in _FIELD_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                # Not the value itself: it may be a token.
                raise TypeError(
                    f"TunnelConfig: {name} is {type(value).__name__}, but has to be {wanted}"
                )
        targets: tuple[type, ...] = (TcpAddress, UnixAddress, ApiService, NoListener)
        values: Iterable[object] = (self.services or {}).values()
        for value in values:
            if not isinstance(value, targets):
                kind = type(value).__name__
                raise TypeError(
                    f"TunnelConfig: a value of services is {kind}, but has to be an address, as "
                    "in TcpAddress('127.0.0.1', 22) or parse_address('127.0.0.1:22')"
                )

    @property
    def needs_tls(self) -> bool:
        """Whether an SSLContext is needed: for the endpoint, or for the proxy."""
        return self.endpoint.is_tls or (self.http_proxy is not None and self.http_proxy.is_tls)

    @property
    def permit_group(self) -> str:
        """Where the TCP connection goes, and on to: permits are shared fairly over these."""
        if self.http_proxy is None:
            return str(self.endpoint)
        return f"{self.endpoint} by {self.http_proxy}"

    def _check_services(self) -> None:
        if self.listen_on and (self.services is not None or self.mode is Mode.DESTINATION):
            raise ConfigError(
                f"tunnel {self.name!r} has `listen_on`, which is for a source without `services`: "
                "give one of them"
            )
        object.__setattr__(self, "listen_on", MappingProxyType(dict(self.listen_on)))
        if self.services is not None:
            self._check_named(self.services)
            object.__setattr__(self, "services", MappingProxyType(dict(self.services)))
        elif self.mode is Mode.DESTINATION:
            raise ConfigError(
                f"tunnel {self.name!r} is a destination without services: "
                "say what to connect to, as in services={'SSH': TcpAddress('127.0.0.1', 22)}"
            )

    def _check_named(self, services: Mapping[str, ServiceTarget]) -> None:
        if not services:
            raise ConfigError(f"tunnel {self.name!r} has an empty `services`: name at least one")
        any_target = services.get(ANY_SERVICE)
        if isinstance(any_target, TcpAddress | UnixAddress) and len(services) > 1:
            raise ConfigError(
                f"tunnel {self.name!r} mixes an address without a service id with named services: "
                "give every address its service id"
            )
        if self.mode is Mode.DESTINATION:
            for service_id, address in services.items():
                self._check_connectable(service_id, address)

    def _check_connectable(self, service_id: str, address: ServiceTarget) -> None:
        """Refuse what a destination cannot connect to."""
        if isinstance(address, NoListener):
            raise ConfigError(
                f"service {service_id!r} of destination {self.name!r} has no address: "
                "say what to connect to"
            )
        if isinstance(address, TcpAddress) and address.port == 0:
            raise ConfigError(
                f"service {service_id!r} of destination {self.name!r} has port 0: "
                "say which port to connect to"
            )

    def mismatch(self, announced: tuple[str, ...]) -> str:
        """Say why no connection can be carried on a tunnel with these services.

        Args:
            announced: the services that the tunnel was opened with.

        Returns:
            The reason and what to do about it, or an empty text if something can be carried.
        """
        problem = self._mismatch_of_version(announced)
        if problem or self.services is None:
            return problem
        if ANY_SERVICE in self.services:
            return self._mismatch_of_any(self.services[ANY_SERVICE], announced)
        # A source may name any service to a tunnel that was opened with none.
        takes_any = not announced and self.mode is Mode.SOURCE
        if takes_any or not set(announced).isdisjoint(self.services):
            return ""
        return (
            f"the tunnel has the services {', '.join(announced) or 'none'}, and what is mapped is "
            f"{_listed(self.services)}: give an address for "
            f"{'a service that it has' if announced else 'it without naming a service'}"
        )

    def _mismatch_of_version(self, announced: tuple[str, ...]) -> str:
        """V1 cannot name a service."""
        if self.mode is not Mode.SOURCE or self.version is not ProtocolVersion.V1:
            return ""
        if len(announced) > 1:
            return (
                f"V1 is for a tunnel with one service, and this one has {', '.join(announced)}: "
                "use the version of a destination that can tell them apart, V2 or V3"
            )
        named = {each for each in self.services or {} if each} - set(announced)
        if named and not announced:
            return (
                f"V1 cannot name a service, and the tunnel has none called {_listed(named)}: "
                "give the address alone, without a service"
            )
        return ""

    def _mismatch_of_any(self, target: ServiceTarget, announced: tuple[str, ...]) -> str:
        """An address without a service cannot stand for several."""
        is_address = not isinstance(target, ApiService)
        if self.mode is not Mode.SOURCE or not is_address or len(announced) < 2:
            return ""
        example = ", ".join(f"{each}=..." for each in announced)
        return (
            f"an address without a service is for a tunnel with one service, and this one "
            f"has {', '.join(announced)}: give each service its address ({example})"
        )


_NONE = type(None)
_FIELD_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "name": ((str,), "text"),
    "endpoint": ((Endpoint, str), "an Endpoint, or text such as 'HOST:PORT'"),
    "access_token": ((str,), "text"),
    "client_token": ((str, _NONE), "text, or None"),
    "services": ((Mapping, _NONE), "a mapping of service ids to addresses, or None"),
    "bind_host": ((str,), "text"),
    "version": ((ProtocolVersion, str), "ProtocolVersion.V1, V2 or V3, or its name"),
    "bandwidth_bytes_per_second": ((int, float, _NONE), "a number, or None"),
    "http_proxy": (
        (HttpProxy, _NONE),
        "an HttpProxy, as in HttpProxy.parse('http://h:1'), or None",
    ),
    "local_bind": ((str, _NONE), "text, or None"),
    "user_agent": ((str,), "text"),
    "limits": ((Limits,), "Limits"),
}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
