"""From the options of `tunnelfleet localproxy` to the tunnel that they ask for.

Owns the meaning of each option and the rules between them (one of `-r` and `-e`, one of `-s` and
`-d`, ...). Pure: it is given what was written and returns a `Plan`, or says in one line what is
wrong, where it was written and what to do about it. It opens no file and no socket, and makes no
SSL context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from tunnelfleet.actors.addresses import (
    Address,
    HttpProxy,
    TcpAddress,
    UnixAddress,
    without_brackets,
)
from tunnelfleet.actors.config import ANY_SERVICE, Limits, TunnelConfig
from tunnelfleet.proto import (
    MAX_PAYLOAD_BYTES,
    ConfigError,
    Endpoint,
    LenientClientToken,
    Mode,
    ProtocolVersion,
    validate_access_token,
    validate_client_token,
)

from .mappings import parse_mapping, to_addresses
from .options import FROM_COMMAND_LINE, OPTIONS, Given
from .settings import Settings, choose_proxy

if TYPE_CHECKING:
    from tunnelfleet.runtime.admin import AdminOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        config: the tunnel, without an SSL context.
        verbosity: 0 (nothing) to 6 (everything), as localproxy counts.
        ca_path: certificate authorities to trust besides the system's: a directory or a PEM file.
        verify: False to trust any certificate.
        retry_count: consecutive failed connects after which to give up; -1 never.
        reconnect: False to end when the WebSocket is lost.
        admin: where to serve metrics, liveness and readiness.
        is_mapped: whether a destination was given anything to connect to. localproxy learns the
            services first and complains then.
        from_files: whether the mappings are those of a directory alone, which may hold more than
            this tunnel's.
        warnings: what the user should change.
        notes: what the user may want to know.
    """

    config: TunnelConfig
    verbosity: int
    ca_path: str | None
    verify: bool
    retry_count: int
    reconnect: bool
    admin: AdminOptions | None = None
    is_mapped: bool = True
    from_files: bool = False
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


TUNNEL_NAME = "localproxy"
DEFAULT_BIND_HOST = OPTIONS["local-bind-address"].default
NOWHERE = UnixAddress("/dev/null/nothing-is-mapped")
"""The target of a destination that is given nothing to connect to. No such path can exist."""
DEFAULT_VERBOSITY = int(OPTIONS["verbose"].default)
MAX_VERBOSITY = 6
LARGEST_VERBOSITY_ARGUMENT = 255
_MODES = {
    "src": Mode.SOURCE,
    "source": Mode.SOURCE,
    "dst": Mode.DESTINATION,
    "destination": Mode.DESTINATION,
}
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class PlanBuilder:
    """Reads the options one by one; `plan` puts them together.

    Args:
        given: the options in force, see `options.collect`.
        mappings: service id -> address as written, from the configuration directory.
        settings: from `--settings-json`.
        environ: the environment, for the HTTP proxy.
    """

    def __init__(
        self,
        given: Mapping[str, Given],
        mappings: Mapping[str, Given] | None = None,
        settings: Settings | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._given = given
        self._mappings = mappings or {}
        self._settings = settings or Settings()
        self._environ = environ or {}
        self._warnings: list[str] = list(self._settings.warnings)
        self._notes: list[str] = list(self._settings.notes)

    def plan(self) -> Plan:
        """Return what to run.

        Raises:
            ConfigError: an option is wrong, or they do not go together.
        """
        mode = self._mode()
        config = self._config(mode)
        verify = not self._boolean("no-ssl-host-verify")
        if not verify and config.endpoint.is_tls:
            self._warnings.append(
                "-k turns off the check of the service's certificate: "
                "anyone on the way can read the tunnel; use -c with the right authority instead"
            )
        capath = self._given.get("capath")
        return Plan(
            config=config,
            verbosity=self.verbosity(),
            ca_path=None if capath is None else capath.text,
            verify=verify,
            retry_count=self._settings.retry_count,
            reconnect=self._settings.reconnect,
            admin=self._admin(),
            is_mapped=config.services is None or NOWHERE not in config.services.values(),
            from_files=self._uses_files_alone(mode),
            warnings=tuple(self._warnings),
            notes=tuple(self._notes),
        )

    def _admin(self) -> AdminOptions | None:
        given = self._given.get("admin")
        if given is None:
            return None
        # It is imported here, so that only those who ask for it wait for an HTTP server.
        from tunnelfleet.runtime.admin import AdminOptions, parse_admin_address  # noqa: PLC0415

        is_open = self._boolean("admin-open")
        try:
            address = parse_admin_address(given.text)
            return AdminOptions(host=address.host, port=address.port, open_to_all=is_open)
        except ConfigError as error:
            raise given.error(str(error)) from error

    def verbosity(self) -> int:
        """Return the log level, 0 to 6."""
        given = self._given.get("verbose")
        if given is None:
            return DEFAULT_VERBOSITY
        return min(_integer(given, 0, LARGEST_VERBOSITY_ARGUMENT), MAX_VERBOSITY)

    def _config(self, mode: Mode) -> TunnelConfig:
        access_token = self._access_token()
        endpoint = self._endpoint()
        bind_host = self._bind_host()
        local_bind = self._given.get("local-bind-address")
        services = self._services(mode, bind_host)
        files_alone = mode is Mode.SOURCE and self._uses_files_alone(mode)
        return TunnelConfig(
            name=TUNNEL_NAME,
            mode=mode,
            endpoint=endpoint,
            access_token=access_token,
            client_token=self._client_token(),
            services=None if files_alone else services,
            # As with localproxy: services that the files do not name get free ports.
            listen_on=(services or {}) if files_alone else {},
            bind_host=bind_host,
            version=self._version(mode),
            bandwidth_bytes_per_second=self._bandwidth(),
            http_proxy=self._http_proxy(endpoint),
            local_bind=(
                local_bind.text
                if local_bind and local_bind.text and mode is Mode.DESTINATION
                else None
            ),
            marks=not self._boolean("no-marks"),
            pacing=not self._boolean("no-pacing"),
            limits=self._limits(),
        )

    def _mode(self) -> Mode:
        source, destination = (
            self._given.get("source-listen-port"),
            self._given.get("destination-app"),
        )
        if source and destination:
            raise ConfigError(
                f"{source.origin} and {destination.origin} exclude each other: "
                "one end of a tunnel listens (-s), the other one connects (-d); keep one"
            )
        implied = Mode.SOURCE if source else Mode.DESTINATION if destination else None
        given = self._given.get("mode")
        if given is None:
            if implied is None:
                raise ConfigError(
                    "say which end of the tunnel this is: -s PORT to listen, -d PORT to connect, "
                    "or -m source for free ports"
                )
            return implied
        mode = _MODES.get(given.text)
        if mode is None:
            raise given.error(
                f"{given.text!r} is not a mode; write source (src) or destination (dst)"
            )
        mapping = source or destination
        if mapping is not None and mode is not implied:
            raise ConfigError(
                f"{given.origin} says {mode} and {mapping.origin} says {implied}; change one"
            )
        return mode

    def _access_token(self) -> str:
        given = self._given.get("access-token")
        if given is None:
            raise ConfigError(
                "no access token: set the environment variable AWSIOT_TUNNEL_ACCESS_TOKEN "
                "to the token of this end (or give it with -t, where others can see it)"
            )
        if given.rank == FROM_COMMAND_LINE:
            self._warnings.append(
                "an access token on the command line can be seen in the process list and the "
                "shell's history; use the environment variable AWSIOT_TUNNEL_ACCESS_TOKEN instead"
            )
        _judge(given, validate_access_token)
        return given.text

    def _client_token(self) -> str | None:
        given = self._given.get("client-token")
        if given is None:
            return None
        if "_" in given.text:
            self._warnings.append(
                f"{given.origin}: the client token has a '_', which the service may not take; "
                "write letters, digits and hyphens alone"
            )
            return _judge(given, lambda text: validate_client_token(LenientClientToken(text)))
        return _judge(given, validate_client_token)

    def _endpoint(self) -> Endpoint:
        region, endpoint = self._given.get("region"), self._given.get("proxy-endpoint")
        if region and endpoint and region.rank == endpoint.rank:
            raise ConfigError(f"{region.origin} and {endpoint.origin} exclude each other; keep one")
        if region and endpoint:
            used, unused = sorted((region, endpoint), key=lambda given: given.rank)
            self._notes.append(f"{used.origin} is used, not {unused.origin}")
            region, endpoint = (region, None) if used is region else (None, endpoint)
        if endpoint is not None:
            return _judge(endpoint, Endpoint.parse)
        if region is not None:
            return _judge(region, self._region_endpoint)
        raise ConfigError(
            "no endpoint: give the tunnel's region with -r (or AWSIOT_TUNNEL_REGION), "
            "or the service's address with -e HOST[:PORT] (or AWSIOT_TUNNEL_ENDPOINT)"
        )

    def _region_endpoint(self, region: str) -> Endpoint:
        host = self._settings.region_endpoints.get(region)
        if host is None and self._settings.endpoint_format is not None:
            host = self._settings.endpoint_format.replace("%s", region)
        return Endpoint.for_region(region) if host is None else Endpoint.parse(host)

    def _bind_host(self) -> str:
        given = self._given.get("local-bind-address")
        if given is None or not given.text:
            return self._settings.bind_address or DEFAULT_BIND_HOST
        host = without_brackets(given.text)
        if not host or any(c.isspace() or c == "/" for c in host):
            raise given.error(
                f"{given.text!r} is not an address; write for example 127.0.0.1 or ::1"
            )
        return host

    def _mapping_option(self, mode: Mode) -> Given | None:
        return self._given.get("source-listen-port" if mode is Mode.SOURCE else "destination-app")

    def _uses_files_alone(self, mode: Mode) -> bool:
        return self._mapping_option(mode) is None and bool(self._mappings)

    def _services(self, mode: Mode, bind_host: str) -> dict[str, Address] | None:
        given = self._mapping_option(mode)
        mapping = {} if given is None else parse_mapping(given)
        if ANY_SERVICE not in mapping:
            # An address that stands alone is for the tunnel's only service; files cannot add to it.
            mapping = {**self._mappings, **mapping}
        if not mapping:
            return {ANY_SERVICE: NOWHERE} if mode is Mode.DESTINATION else None
        default_host = bind_host if mode is Mode.SOURCE else DEFAULT_BIND_HOST
        addresses = to_addresses(mapping, default_host)
        for service_id, address in addresses.items():
            if mode is Mode.DESTINATION and isinstance(address, TcpAddress) and address.port == 0:
                raise mapping[service_id].error("port 0 cannot be connected to; give the port")
        return addresses

    def _version(self, mode: Mode) -> ProtocolVersion:
        given = self._given.get("destination-client-type")
        if given is None:
            return ProtocolVersion.parse(OPTIONS["destination-client-type"].default)
        try:
            version = ProtocolVersion.parse(given.text)
        except ValueError as error:
            raise given.error(str(error)) from None
        if mode is Mode.DESTINATION:
            # Device software gives it to destinations too, where it has no meaning.
            self._notes.append(
                f"{given.origin} has no effect on a destination, which sees the version"
            )
            return ProtocolVersion.V3
        return version

    def _bandwidth(self) -> float | None:
        given = self._given.get("bandwidth")
        if given is None:
            return None
        # Importing the service's package loads an HTTP server, which only few runs need.
        from tunnelfleet.actors.token_bucket import parse_rate  # noqa: PLC0415

        return _judge(given, parse_rate)

    def _http_proxy(self, endpoint: Endpoint) -> HttpProxy | None:
        choice = choose_proxy(endpoint, self._environ)
        self._notes += choice.notes
        self._warnings += choice.warnings
        return choice.proxy

    def _limits(self) -> Limits:
        settings = self._settings
        given = self._given.get("payload-bytes")
        payload = settings.payload_bytes if given is None else _integer(given, 1, MAX_PAYLOAD_BYTES)
        limits = Limits()
        backoff = replace(
            limits.backoff,
            min_seconds=settings.retry_min_seconds,
            max_seconds=max(limits.backoff.max_seconds, settings.retry_min_seconds),
        )
        return replace(
            limits,
            data_payload_bytes=payload,
            max_connections=settings.max_connections,
            ping_interval_seconds=settings.ping_interval_seconds,
            backoff=backoff,
        )

    def _boolean(self, name: str) -> bool:
        given = self._given.get(name)
        if given is None or given.text.lower() in _FALSE:
            return False
        if given.text.lower() in _TRUE:
            return True
        raise given.error(f"{given.text!r} is neither true nor false")


T = TypeVar("T")


def _judge(given: Given, read: Callable[[str], T]) -> T:
    """Read a value with a function that raises ConfigError, and add where the value was given."""
    try:
        return read(given.text)
    except ConfigError as error:
        raise given.error(str(error)) from error


def _integer(given: Given, least: int, most: int) -> int:
    text = given.text
    if text.isascii() and text.isdecimal() and len(text) <= len(str(most)):
        number = int(text)
        if least <= number <= most:
            return number
    raise given.error(f"{text!r} is not a number from {least} to {most}")
