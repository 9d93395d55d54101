"""What a user of localproxy says beside options: the file of fine settings, the proxy's variables.

Owns which settings (`--settings-json`, `--export-default-settings`) are known, which mean something
here, their ranges and defaults; a key that has no effect is told. Owns also what HTTPS_PROXY,
ALL_PROXY and NO_PROXY mean, which is as curl has it. Pure: nothing is opened, and no text repeats a
proxy's credentials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.actors.addresses import HttpProxy, parse_ip
from tunnelfleet.actors.config import Limits
from tunnelfleet.proto import MAX_PAYLOAD_BYTES, ConfigError, Endpoint
from tunnelfleet.proto.endpoint import parse_port, split_host_port

from .options import Given, from_environment, suggest

if TYPE_CHECKING:
    from tunnelfleet.actors.addresses import IpAddress

DEFAULT_PORTS = {"http": 3128, "https": 443}
"""localproxy's for http; for https it is curl's, and that of the scheme."""


class ProxyChoice(NamedTuple):
    """The proxy to take, or None, and what the user may want to know about it."""

    proxy: HttpProxy | None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY")
ALL_PROXY_VARIABLES = ("all_proxy", "ALL_PROXY")
NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")
"""Lower case goes first, as with curl and localproxy."""


def choose_proxy(endpoint: Endpoint, environ: Mapping[str, str]) -> ProxyChoice:
    """Return the proxy for `endpoint`.

    Args:
        endpoint: where the tunnel connects to.
        environ: the environment; a variable that is empty counts as not set.

    Raises:
        ConfigError: HTTPS_PROXY is not the address of an HTTP proxy.
    """
    given = from_environment(PROXY_VARIABLES, environ)
    is_own = given is not None
    given = given or from_environment(ALL_PROXY_VARIABLES, environ)
    if given is None:
        return ProxyChoice(None)
    exempt = from_environment(NO_PROXY_VARIABLES, environ)
    if exempt is not None and is_exempt(endpoint.host, endpoint.port, exempt.text):
        note = f"{given.origin} is not used for {endpoint.host}: {exempt.origin}"
        return ProxyChoice(None, (note,))
    if not is_own and _scheme(given.text) not in DEFAULT_PORTS:
        # It is there for all programs, and localproxy does not look at it.
        warning = (
            f"{given.origin} is not used: it names no HTTP proxy, and no other kind works here"
        )
        return ProxyChoice(None, (), (warning,))
    return _read(given)


def _scheme(text: str) -> str:
    scheme, found, _ = text.partition("://")
    return scheme.lower() if found else "http"


def _read(given: Given) -> ProxyChoice:
    from urllib.parse import urlsplit  # noqa: PLC0415 - most runs have no proxy

    scheme = _scheme(given.text)
    url = given.text if "://" in given.text else f"http://{given.text}"
    notes: tuple[str, ...] = ()
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.port is None and scheme in DEFAULT_PORTS:
            port = DEFAULT_PORTS[scheme]
            url = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{port}").geturl()
            notes = (f"{given.origin} has no port; {port} is taken",)
    except ValueError:
        pass  # a host or port that is none: HttpProxy says so
    try:
        return ProxyChoice(HttpProxy.parse(url), notes)
    except ConfigError as error:
        raise given.error(str(error)) from error


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Return whether NO_PROXY names a host.

    Names are separated by commas or blanks. A name stands for itself and for everything below it,
    with or without a dot in front; case and a dot at the end do not matter. `*` stands for all. An
    IP address is named by itself or by its network, `127.0.0.0/8`. Beyond what curl takes, a name
    may have a port, which then has to be the same, and an IPv6 address may have brackets.

    Args:
        host: a name, or an IP address without brackets.
        port: of the endpoint.
        no_proxy: the value of the variable.
    """
    host = host.lower().removesuffix(".")
    address = parse_ip(host)
    for entry in no_proxy.replace(",", " ").lower().split():
        if entry == "*":
            return True
        name, entry_port = _split_port(entry)
        if entry_port is not None and entry_port != port:
            continue
        if _is_below(host, name) if address is None else _holds(name, address):
            return True
    return False


def _is_below(host: str, name: str) -> bool:
    name = name.removesuffix(".").removeprefix(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


_NO_PORT = -1


def _split_port(entry: str) -> tuple[str, int | None]:
    try:
        name, port = split_host_port(entry)
    except ValueError:
        return entry, None
    if not (port and port.isascii() and port.isdecimal()):
        return name, None
    number = parse_port(port)
    # One that is too large for a port is that of no endpoint.
    return name, _NO_PORT if number is None else number


def _holds(name: str, address: IpAddress) -> bool:
    """Return whether `name` is this address, or a network with it."""
    import ipaddress  # noqa: PLC0415 - few have NO_PROXY and an address as the endpoint

    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


_PREFIX = "tunneling.proxy."

BIND_ADDRESS = _PREFIX + "default_bind_address"
ENDPOINT_FORMAT = _PREFIX + "endpoint_format"
REGION_OVERRIDES = _PREFIX + "region_endpoint_overrides"
PAYLOAD_BYTES = _PREFIX + "message.max_payload_size"
MAX_CONNECTIONS = _PREFIX + "tcp.max_active_connections"
PING_PERIOD = _PREFIX + "websocket.ping_period_ms"
RETRY_DELAY = _PREFIX + "websocket.retry_delay_ms"
RETRY_COUNT = _PREFIX + "websocket.connect_retry_count"
DATA_ERROR = _PREFIX + "websocket.reconnect_on_data_error"
RETRY_FOR_EVER = -1
_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings that mean something here, with this project's defaults.

    Attributes:
        bind_address: where a source listens when `-b` is not given; None for the default.
        endpoint_format: the endpoint of a region, with `%s` for the region; None for the region's
            own endpoint.
        region_endpoints: region -> endpoint, before `endpoint_format`.
        payload_bytes: the largest payload of a DATA message.
        max_connections: simultaneous connections.
        ping_interval_seconds: how often the WebSocket is pinged.
        retry_min_seconds: the first delay before connecting again; later ones grow from it.
        retry_count: consecutive failed connects after which to give up, or `RETRY_FOR_EVER`.
        reconnect: False to end when the WebSocket is lost.
        notes: for people: what in the file has no effect.
        warnings: for people: what in the file nobody knows.
    """

    bind_address: str | None = None
    endpoint_format: str | None = None
    region_endpoints: Mapping[str, str] = field(default_factory=dict)
    payload_bytes: int = _LIMITS.data_payload_bytes
    max_connections: int = _LIMITS.max_connections
    ping_interval_seconds: float = _LIMITS.ping_interval_seconds
    retry_min_seconds: float = _LIMITS.backoff.min_seconds
    retry_count: int = RETRY_FOR_EVER
    reconnect: bool = True
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


KNOWN = (
    BIND_ADDRESS,
    ENDPOINT_FORMAT,
    PAYLOAD_BYTES,
    MAX_CONNECTIONS,
    PING_PERIOD,
    RETRY_DELAY,
    RETRY_COUNT,
    DATA_ERROR,
)
WITHOUT_MEANING = tuple(
    _PREFIX + name
    for name in (
        "message.data_length_size",
        "message.data_frame_max_size",
        "message.max_size",
        "tcp.connection_retry_count",
        "tcp.connection_retry_delay_ms",
        "tcp.read_buffer_size",
        "tcp.write_buffer_size",
        "websocket.subprotocol",
        "websocket.max_frame_size",
        "websocket.write_buffer_size",
        "websocket.read_buffer_size",
    )
)


def parse_settings(text: str, file_name: str) -> Settings:
    """Read a settings file.

    Args:
        text: JSON as localproxy exports it: nested objects, values as strings or as themselves.
        file_name: for errors.

    Raises:
        ConfigError: it is not JSON, or a value is out of its range.
    """
    values = dict(_flatten(_load(text, file_name), file_name))
    regions = {
        key.removeprefix(f"{REGION_OVERRIDES}."): _Reader(file_name, key, value).text()
        for key, value in values.items()
        if key.startswith(f"{REGION_OVERRIDES}.")
    }
    settings = Settings(region_endpoints=regions)
    without_meaning, warnings = [], []
    for key, value in values.items():
        if key in WITHOUT_MEANING:
            without_meaning.append(key.removeprefix(_PREFIX))
        elif key in KNOWN:
            settings = _apply(settings, _Reader(file_name, key, value))
        elif not key.startswith(f"{REGION_OVERRIDES}."):
            near = suggest(key, KNOWN + WITHOUT_MEANING)
            warnings.append(f"{file_name}: {key}: there is no such setting{near}; it has no effect")
    names = ", ".join(without_meaning)
    notes = (f"{file_name}: these have no effect here: {names}",) if names else ()
    return replace(settings, notes=notes, warnings=tuple(warnings))


def default_settings() -> str:
    """Return the defaults of what means something here, as `parse_settings` reads it."""
    defaults = Settings()
    values: dict[str, Any] = {
        BIND_ADDRESS: "127.0.0.1",
        PAYLOAD_BYTES: defaults.payload_bytes,
        MAX_CONNECTIONS: defaults.max_connections,
        PING_PERIOD: int(defaults.ping_interval_seconds * 1000),
        RETRY_DELAY: int(defaults.retry_min_seconds * 1000),
        RETRY_COUNT: defaults.retry_count,
        DATA_ERROR: defaults.reconnect,
    }
    root: dict[str, Any] = {}
    for key, value in values.items():
        *folders, name = key.split(".")
        at = root
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = value
    return _as_json(root, indent=4) + "\n"


MAX_MILLISECONDS = 86_400_000
MAX_COUNT = 1_000_000


def _apply(settings: Settings, value: _Reader) -> Settings:
    match value.key:
        case key if key == BIND_ADDRESS:
            return replace(settings, bind_address=value.text())
        case key if key == ENDPOINT_FORMAT:
            return replace(settings, endpoint_format=value.format())
        case key if key == PAYLOAD_BYTES:
            return replace(settings, payload_bytes=value.integer(1, MAX_PAYLOAD_BYTES))
        case key if key == MAX_CONNECTIONS:
            return replace(settings, max_connections=value.integer(1, MAX_COUNT))
        case key if key == PING_PERIOD:
            seconds = value.integer(1, MAX_MILLISECONDS) / 1000
            return replace(settings, ping_interval_seconds=seconds)
        case key if key == RETRY_DELAY:
            seconds = value.integer(1, MAX_MILLISECONDS) / 1000
            return replace(settings, retry_min_seconds=seconds)
        case key if key == RETRY_COUNT:
            return replace(settings, retry_count=value.integer(RETRY_FOR_EVER, MAX_COUNT))
    return replace(settings, reconnect=value.boolean())


@dataclass(frozen=True, slots=True)
class _Reader:
    """A value of the file, read as the type that its setting has."""

    file_name: str
    key: str
    value: object

    def error(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.file_name}: {self.key}: {problem}")

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.error(f"write a text, not {_as_json(self.value)}")
        return self.value.strip()

    def format(self) -> str:
        text = self.text()
        if text.count("%s") != 1 or text.count("%") != 1:
            raise self.error("write it with one %s, which stands for the region")
        return text

    def integer(self, least: int, most: int) -> int:
        # localproxy exports numbers as strings.
        if not isinstance(self.value, bool) and isinstance(self.value, int | str):
            try:
                number = int(self.value)
            except ValueError:
                pass
            else:
                if least <= number <= most:
                    return number
        raise self.error(f"write a number from {least} to {most}, not {_as_json(self.value)}")

    def boolean(self) -> bool:
        # As a setting's "1" and "true" mean the same to localproxy, so here.
        text = str(self.value).lower()
        if text in ("true", "1"):
            return True
        if text in ("false", "0"):
            return False
        raise self.error(f"write true or false, not {_as_json(self.value)}")


def _as_json(value: object, indent: int | None = None) -> str:
    import json  # noqa: PLC0415 - most runs have no settings file

    return json.dumps(value, indent=indent)


def _load(text: str, file_name: str) -> dict[str, object]:
    import json  # noqa: PLC0415 - as above

    try:
        root = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file_name}:{error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError(f"{file_name}: objects nested too deeply") from error
    except ValueError as error:
        # Python makes no number of thousands of digits.
        raise ConfigError(f"{file_name}: a number has too many digits") from error
    if not isinstance(root, dict):
        raise ConfigError(f'{file_name}: write a JSON object, {{"tunneling": {{"proxy": ...}}}}')
    return root


def _flatten(
    node: dict[str, object], file_name: str, path: str = ""
) -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        key = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            yield from _flatten(value, file_name, key)
        elif isinstance(value, list):
            raise ConfigError(f"{file_name}: {key}: a setting is a text or a number, not a list")
        else:
            yield key, value
