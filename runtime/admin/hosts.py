"""Which names a server may be asked by: the Host header of a request.

A page of a browser can make a name of its own point to this machine, and read what is answered (DNS
rebinding). It cannot make the browser send another Host, and it can give neither an address nor
`localhost` another meaning. So those two are always good, also where a port is passed on and the
client knows another address than this machine. Owns which other names count as this server.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

from tunnelfleet.actors.addresses import parse_ip, without_brackets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

__all__ = ["HostCheck"]

MAX_HOST_CHARACTERS: Final = 260
"""Of a header: a name has at most 253, and there may be a port."""
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
        """Whether a request comes by one of the names, or by an address."""
        given = request.headers.getall("Host", [])
        if len(given) != 1 or len(given[0]) > MAX_HOST_CHARACTERS:
            return False
        found = _HOST.fullmatch(given[0].strip())
        if found is None:
            return False
        name = found["name"]
        if name.startswith("["):
            return parse_ip(without_brackets(name)) is not None
        return parse_ip(name) is not None or _normal(name) in self._names


def _normal(name: str) -> str:
    return name.rstrip(".").lower()
