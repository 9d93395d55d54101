"""Addresses as people write them: TCP, Unix sockets, HTTP proxies.

Owns how they are read, checked and shown. Pure: it resolves and opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnelfleet.proto import ConfigError
from tunnelfleet.proto.endpoint import MAX_PORT, bracketed, parse_port, split_host_port

if TYPE_CHECKING:
    import ipaddress

    IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address; `port` 0 asks for a free port when it is listened on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix stream socket."""

    path: str

    def __str__(self) -> str:
        return self.path


Address = TcpAddress | UnixAddress


def parse_ip(text: str) -> IpAddress | None:
    """Read an IP address without brackets; None when it is none, such as a name."""
    import ipaddress  # noqa: PLC0415 - few processes read one

    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether nobody but this machine can connect to `host`."""
    address = parse_ip(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def without_brackets(host: str) -> str:
    """Return a host that was typed alone, with or without the brackets of an IPv6 address."""
    return host.removeprefix("[").removesuffix("]")


def parse_address(text: str, *, default_host: str = "127.0.0.1") -> Address:
    """Read an address as people write it.

    Args:
        text: `22`, `host:22`, `[::1]:22`, `/run/app.sock` or `unix:run/app.sock`.
        default_host: the host of a bare port.

    Returns:
        The address.

    Raises:
        ConfigError: when it is none of these; the message quotes it and shows the forms.
    """
    text = text.strip()
    if text.startswith("unix:"):
        return _unix_address(text.removeprefix("unix:"), text)
    if "/" in text:
        return _unix_address(text, text)
    try:
        host, port = split_host_port(text)
    except ValueError:
        raise _bad_address(text) from None
    is_bracketed = text.startswith("[")
    if port is None and not is_bracketed:
        host, port = default_host, text
    elif not host or is_bracketed is not (":" in host):
        raise _bad_address(text)
    number = None if port is None else parse_port(port)
    if number is None:
        raise _bad_address(text)
    return TcpAddress(host, number)


def _unix_address(path: str, text: str) -> UnixAddress:
    # sun_path of struct sockaddr_un holds 108 bytes with its terminator: unix(7).
    if not path or len(path.encode()) > 107:
        raise ConfigError(
            f"bad Unix socket path {text!r}: it must have 1 to 107 bytes; use a shorter path"
        )
    return UnixAddress(path)


MAX_SHOWN_LENGTH = 60
"""The longest address that an error repeats; the access tokens of AWS are longer."""


def _bad_address(text: str) -> ConfigError:
    # A long one may be a token in the wrong place: it is not repeated.
    shown = text if len(text) <= MAX_SHOWN_LENGTH else f"{text[:4]}..."
    return ConfigError(
        f"bad address {shown!r}: write PORT, HOST:PORT, [IPV6]:PORT or /path/to/socket "
        f"(a port is 0 to {MAX_PORT})"
    )


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """An HTTP proxy that is asked to CONNECT to the endpoint.

    Attributes:
        host: a name or an IP address, without brackets.
        port: where it listens.
        username: for Basic authentication, with the password.
        password: see there.
        is_tls: whether the proxy itself is spoken to in TLS. Its certificate is checked as the
            endpoint's is.
    """

    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    is_tls: bool = False

    def __str__(self) -> str:
        scheme = "https://" if self.is_tls else ""
        return f"{scheme}{TcpAddress(self.host, self.port)}"

    @classmethod
    def parse(cls, text: str) -> HttpProxy:
        """Read `http://[user:password@]host:port`, the same with `https`, or `host:port`.

        Raises:
            ConfigError: when it is not such an address; the message never repeats the credentials.
        """
        from urllib.parse import urlsplit  # noqa: PLC0415 - most tunnels have no proxy

        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port
        except ValueError:
            raise _bad_proxy() from None
        is_proxy = parts.scheme in ("http", "https") and parts.hostname and port
        if not is_proxy or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise _bad_proxy()
        return cls(
            parts.hostname or "",
            port or 0,
            _decoded(parts.username),
            _decoded(parts.password),
            is_tls=parts.scheme == "https",
        )


def _decoded(text: str | None) -> str:
    from urllib.parse import unquote  # noqa: PLC0415 - as above

    return unquote(text or "", errors="surrogateescape")


def _bad_proxy() -> ConfigError:
    return ConfigError(
        "bad HTTP proxy: write http://[USER:PASSWORD@]HOST:PORT, or https:// for TLS to the proxy "
        "itself; / # ? and @ in the user or password are written %2F %23 %3F and %40"
    )
