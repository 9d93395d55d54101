"""Which HTTP proxy a tunnel takes: what HTTPS_PROXY, ALL_PROXY and NO_PROXY say.

Owns the meaning of these variables, which is curl's. Pure: it is given the environment and opens
nothing. No text that it makes repeats a proxy's credentials.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from tunnelfleet.actors.addresses import HttpProxy, IpAddress, parse_ip
from tunnelfleet.proto import ConfigError, Endpoint
from tunnelfleet.proto.endpoint import parse_port, split_host_port

from .options import Given, from_environment

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
        if address is None:
            name = name.removesuffix(".").removeprefix(".")
            if name and (host == name or host.endswith(f".{name}")):
                return True
        elif _holds(name, address):
            return True
    return False


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
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
