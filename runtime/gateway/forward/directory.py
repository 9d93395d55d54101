"""Which gateway of a shared fleet has a tunnel, and whether the state has such a tunnel at all.

`FleetDirectory` owns one thread for look-ups in the state, and what it found before: names that are
known are found while the store is away, too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from tunnelfleet.proto import NotConnected, TunnelError, printable
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.door.resolver import NobodyYet, Refused, SendTo, Way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelfleet.runtime.gateway.placement import Placement
    from tunnelfleet.runtime.gateway.store import Store

MAX_LOOKUPS = 64
"""Questions that may wait for the state; a further one is refused."""
MAX_REMEMBERED = 10_000
"""Names that were found, the last ones."""


class FleetDirectory:
    """Knows who has what.

    Args:
        name: of this gateway.
        placement: says who owns which shards.
        store: has the tunnels that were added at run time.
    """

    def __init__(self, name: str, placement: Placement, store: Store | None) -> None:
        self._name = name
        self._placement = placement
        self._store = store
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="tunnelfleet-directory")
        self._guard = threading.Lock()
        self._waiting = 0
        self._found: OrderedDict[str, None] = OrderedDict()

    def way_to(self, name: str, *, can_ask: bool) -> Way:
        """Who has a tunnel of this name.

        Args:
            name: of the tunnel.
            can_ask: whether this gateway can ask others at all.
        """
        member, shown = self._placement.owner(name), printable(name)
        if member is None:
            return NobodyYet("is about to be taken over: no gateway has it now")
        if member.name == self._name:
            return NobodyYet("is about to start")
        other = f"gateway {printable(member.name)}"
        if not member.fresh:
            return NobodyYet(f"is with {other}, which was not heard of; another takes over")
        if member.address is not None and can_ask:
            return SendTo(member)
        why = "this one has" if not can_ask else "that one has"
        text = f"tunnel {shown} is with {other}: ask there"
        return Refused(Denial.ELSEWHERE, f"{text}, or forward ({why} no fleet_listen)")

    def find(self, names: Sequence[str]) -> Future[str | None]:
        """Begin to look for the first of some names in the state; see `OtherGateways`."""
        answer: Future[str | None] = Future()
        with self._guard:
            if self._waiting >= MAX_LOOKUPS:
                answer.set_exception(NotConnected("too many look-ups wait; try again"))
                return answer
            self._waiting += 1
        try:
            answer = self._threads.submit(self._look_up, list(names))
        except RuntimeError:
            self._is_done()
            answer.set_exception(NotConnected("the gateway is stopping"))
            return answer
        answer.add_done_callback(self._is_done)
        return answer

    def _is_done(self, _done: object = None) -> None:
        with self._guard:
            self._waiting -= 1

    def _look_up(self, names: list[str]) -> str | None:
        if self._store is None:
            return None
        try:
            there = self._store.names_among(names)
        except TunnelError:
            known = next((name for name in names if name in self._found), None)
            if known is None:
                raise
            return known
        found = [name for name in names if name in there]
        for name in names:
            self._found.pop(name, None)
        self._found.update(dict.fromkeys(found))
        while len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)
        return next(iter(found), None)

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        self._threads.shutdown(wait=True, cancel_futures=True)
