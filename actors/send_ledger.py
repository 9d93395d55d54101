"""What a user has given to be sent and does not know the outcome of.

Pure bookkeeping, by connection: it remembers who waits for what in the order of the queue, and says
who is told when messages left, were thrown away or got lost. It sends nothing and tells nobody.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .messages import ConnectionKey

__all__ = ["SendLedger"]

E = TypeVar("E")


class _Account(Generic[E]):
    __slots__ = ("entries", "on_their_way")

    def __init__(self) -> None:
        self.entries: deque[E] = deque()
        self.on_their_way = 0
        """So many from the front are out of the queue, with the WebSocketActor."""


class SendLedger(Generic[E]):
    """The entries of all connections of a tunnel."""

    def __init__(self) -> None:
        self._accounts: dict[ConnectionKey, _Account[E]] = {}

    def __len__(self) -> int:
        return sum(len(account.entries) for account in self._accounts.values())

    def queued(self, key: ConnectionKey, entry: E) -> None:
        """An entry was queued behind those of its connection."""
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account()
        account.entries.append(entry)

    def taken(self, key: ConnectionKey) -> None:
        """The next one of a connection went out of the queue."""
        account = self._accounts.get(key)
        if account is not None and account.on_their_way < len(account.entries):
            account.on_their_way += 1

    def written(self, key: ConnectionKey, messages: int) -> list[E]:
        """So many of a connection left for the kernel: who is to be told."""
        account = self._accounts.get(key)
        if account is None:
            return []
        count = min(messages, account.on_their_way)
        account.on_their_way -= count
        done = [account.entries.popleft() for _ in range(count)]
        self._drop_empty(key, account)
        return done

    def refused(self, key: ConnectionKey) -> list[E]:
        """The next one of a connection was taken out of the queue and cannot be sent."""
        account = self._accounts.get(key)
        if account is None or account.on_their_way >= len(account.entries):
            return []
        entry = account.entries[account.on_their_way]
        del account.entries[account.on_their_way]
        self._drop_empty(key, account)
        return [entry]

    def discarded(self, key: ConnectionKey) -> list[E]:
        """What a connection had in the queue was thrown away: who is to be told."""
        account = self._accounts.get(key)
        if account is None:
            return []
        entries = list(account.entries)
        account.entries = deque(entries[: account.on_their_way])
        left = entries[account.on_their_way :]
        self._drop_empty(key, account)
        return left

    def lost(self) -> list[E]:
        """Everything got lost: who is to be told."""
        accounts, self._accounts = self._accounts, {}
        return [entry for account in accounts.values() for entry in account.entries]

    def _drop_empty(self, key: ConnectionKey, account: _Account[E]) -> None:
        if not account.entries:
            del self._accounts[key]
