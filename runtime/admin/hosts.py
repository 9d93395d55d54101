"""Which names a server may be asked by: the Host header of a request.

A page of a browser can make a name of its own point to this machine and ask through it (DNS
rebinding); it cannot make the browser send another Host. Owns the names that count as this server.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tunnelfleet.actors.addresses import is_loopback, parse_ip, without_brackets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

__all__ = ["HostCheck"]


class HostCheck:
    """Knows the names of a server.

    Args:
        host: that it listens on.
        names: more names that it may be asked by.
    """

    def __init__(self, host: str, names: Iterable[str] = ()) -> None:
        self._names = frozenset(map(_normal, {host, socket.gethostname(), *names}))

    def admits(self, request: web.BaseRequest) -> bool:
        """Whether a request is for this server: by a name that it has, or its address."""
        given = request.headers.getall("Host", [])
        if len(given) != 1:
            return False
        host, own = _host_of(given[0]), _own_address(request)
        if host in self._names:
            return True
        if host == "localhost":
            return own is not None and is_loopback(own)
        return parse_ip(host) is not None and host == own


def _host_of(text: str) -> str:
    """Without the port."""
    text = text.strip()
    if text.startswith("["):
        return _normal(text.partition("]")[0])
    return _normal(text.partition(":")[0])


def _normal(host: str) -> str:
    host = without_brackets(host).rstrip(".").lower()
    address = parse_ip(host)
    return host if address is None else address.compressed


def _own_address(request: web.BaseRequest) -> str | None:
    """Where the client has connected to."""
    found = request.get_extra_info("sockname")
    return _normal(str(found[0]).partition("%")[0]) if isinstance(found, tuple) else None
