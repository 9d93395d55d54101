"""Who listens where, so that two sources of a fleet do not want one port.

Owns which addresses exclude each other. It opens nothing: what other programs listen on shows when
the gateway runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnelfleet.runtime import TcpAddress

if TYPE_CHECKING:
    from tunnelfleet.runtime import Address

__all__ = ["ListeningPlaces"]

_IPV4_ANY = "0.0.0.0"  # noqa: S104  # nosec B104
EVERY_HOST = frozenset({_IPV4_ANY, "::"})
"""What people write for all addresses."""
SAME_HOST = {"localhost": "127.0.0.1"}

Owner = tuple[str, str]
"""A tunnel, and where its entry stands."""


class ListeningPlaces:
    """The addresses that are listened on, and by whom."""

    def __init__(self) -> None:
        self._ports: dict[int, dict[str, Owner]] = {}
        self._paths: dict[str, Owner] = {}

    def claim(self, address: Address, owner: Owner) -> Owner | None:
        """Note that somebody listens there.

        Returns:
            Who listens there already, or on all addresses of that port; None if nobody does.
        """
        if not isinstance(address, TcpAddress):
            found = self._paths.setdefault(address.path, owner)
            return None if found is owner else found
        hosts = self._ports.setdefault(address.port, {})
        host = SAME_HOST.get(address.host, address.host)
        for other, found in hosts.items():
            if other == host or other in EVERY_HOST or host in EVERY_HOST:
                return found
        hosts[host] = owner
        return None
