"""The fine-grained settings of localproxy (`--settings-json`, `--export-default-settings`).

Owns which of localproxy's settings are known, which of them mean something here, their ranges and
defaults. A key that nobody knows has no effect, as with localproxy, but it is told: it may be a
typing mistake. A key that is known and has no meaning here (a buffer size of localproxy's, a size
that the protocol fixes) is noted. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tunnelfleet.actors.config import Limits
from tunnelfleet.proto import MAX_PAYLOAD_BYTES, ConfigError

from .options import suggest

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
