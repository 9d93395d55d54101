"""Those who wait for tunnels on demand: by name, each client once, not more than a limit.

Owns the way back to them. For one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Reply
    from tunnelfleet.runtime.gateway.door.resolver import AskedTunnel

__all__ = ["MAX_WAITING", "WaitingClient", "WaitingRoom"]

MAX_WAITING = 4_096
"""Clients that wait for tunnels on demand; the doors let fewer in."""


class WaitingClient(NamedTuple):
    """What it has asked for, and its answer."""

    asked: AskedTunnel
    reply: Reply


class WaitingRoom:
    """See above."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[ActorRef[Any], WaitingClient]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether nobody more may wait."""
        return self._count >= MAX_WAITING

    def enter(self, client: WaitingClient) -> None:
        """Wait for what it has asked for."""
        asked = client.asked
        self._by_name.setdefault(asked.name, {})[asked.client] = client
        self._count += 1

    def leave(self, client: ActorRef[Any]) -> list[str]:
        """A client waits no more; returns the names for which nobody waits now."""
        left = [name for name, waiting in self._by_name.items() if client in waiting]
        for name in left:
            del self._by_name[name][client]
            self._count -= 1
        alone = [name for name in left if not self._by_name[name]]
        for name in alone:
            del self._by_name[name]
        return alone

    def take(self, name: str) -> list[WaitingClient]:
        """All who wait for a name; they wait no more."""
        taken = list(self._by_name.pop(name, {}).values())
        self._count -= len(taken)
        return taken

    def names(self) -> list[str]:
        """The names for which somebody waits."""
        return list(self._by_name)
