"""Where a tunneling service listens, and the URL of a tunnel there (docs/protocol.md section 1).

Owns the reading of endpoints that people type. Knows nothing of tokens, and quotes no text that it
refuses: a token may stand where an endpoint should.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from .modes import Mode

TUNNEL_PATH = "/tunnel"
MODE_PARAMETER = "local-proxy-mode"

_DEFAULT_PORTS = {"wss": 443, "ws": 80}
MAX_PORT = 65_535
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d{1,2}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a tunneling service listens.

    Args:
        scheme: "wss", or "ws" for a service without TLS.
        host: a name or an IP address, without brackets.
        port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST`, `HOST:PORT`, `[IPV6]:PORT`, or one of these after `wss://` or `ws://`.

        Raises:
            ConfigError: `text` is none of these. It is not quoted: it may be a token by mistake.
        """
        scheme, found, rest = text.strip().rpartition("://")
        scheme = scheme.lower() if found else "wss"
        if scheme not in _DEFAULT_PORTS:
            raise _endpoint_error("has a scheme that is neither wss nor ws")
        if "@" in rest:
            raise _endpoint_error("has a user name or password in it")
        rest = rest.removesuffix("/")
        if any(mark in rest for mark in "/?#"):
            raise _endpoint_error("has a path, query or fragment")
        host, port = _split(rest)
        return cls(scheme, _checked_host(host), _checked_port(port, _DEFAULT_PORTS[scheme]))

    @classmethod
    def for_region(cls, region: str) -> Endpoint:
        """Return the endpoint of AWS in `region`, such as `eu-central-1`.

        Raises:
            ConfigError: `region` does not look like one.
        """
        if not _REGION.fullmatch(region):
            raise ConfigError("the region is not valid: give one such as eu-central-1")
        suffix = ".cn" if region.startswith("cn-") else ""
        return cls("wss", f"data.tunneling.iot.{region}.amazonaws.com{suffix}", 443)

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "wss"

    def url(self, mode: Mode) -> str:
        """Return what to request to connect in `mode`."""
        return f"{self}{TUNNEL_PATH}?{MODE_PARAMETER}={mode.value}"

    def __str__(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{bracketed(self.host)}{port}"


def bracketed(host: str) -> str:
    """Return a host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def split_host_port(text: str) -> tuple[str, str | None]:
    """Split `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`; a bare IPv6 address has no port.

    Returns:
        The host without brackets, and the port if there is one. Neither has been checked.

    Raises:
        ValueError: a bracket is not closed, or something other than a port follows it.
    """
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address lacks its closing bracket")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, found, port = text.partition(":")
    return host, port if found else None


def parse_port(text: str) -> int | None:
    """Read a port from 0 to `MAX_PORT`; None when it is none.

    It counts digits before it makes a number of them: Python refuses one of thousands of digits
    with an error of its own.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0")
    port = int(digits or "0") if len(digits) <= len(str(MAX_PORT)) else MAX_PORT + 1
    return port if port <= MAX_PORT else None


_ENDPOINT_ADVICE = "give HOST, HOST:PORT, [IPV6]:PORT, or one of these after wss:// or ws://"


def _endpoint_error(problem: str) -> ConfigError:
    return ConfigError(f"the endpoint {problem}: {_ENDPOINT_ADVICE}")


def _split(text: str) -> tuple[str, str | None]:
    try:
        host, port = split_host_port(text)
    except ValueError:
        raise _endpoint_error("has an IPv6 address without its closing bracket") from None
    if text.startswith("[") and not _is_ipv6(host):
        raise _endpoint_error("has brackets around what is not an IPv6 address")
    return host, port


def _is_ipv6(text: str) -> bool:
    if ":" not in text:
        return False
    import ipaddress  # noqa: PLC0415 - few endpoints are such addresses

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
_MAX_HOST_LENGTH = 253


def _checked_host(host: str) -> str:
    if not _is_ipv6(host) and (len(host) > _MAX_HOST_LENGTH or not _HOST.fullmatch(host)):
        raise _endpoint_error("has no valid host name")
    return host


def _checked_port(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= MAX_PORT:
        raise _endpoint_error(f"has a port that is not a number from 1 to {MAX_PORT}")
    return int(text)
