"""ConnectGovernor: how many connects may be under way, and how many a second, in a runtime.

It grants permits in the order of the requests and forgets whoever ends. It does not know what is
connected to. PROTOCOL.md section 6: AWS allows about ten tunnel connects a second per account.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from .kernel import DispatchedActor, Terminated
from .messages import PermitGranted, ReleasePermit, RequestPermit

if TYPE_CHECKING:
    from pykka import ActorRef

    from .kernel import Timer

__all__ = ["ConnectGovernor"]


class _GrantNow(NamedTuple):
    """The next permit is due."""


class ConnectGovernor(DispatchedActor):
    """Grants connect permits.

    Args:
        rate_per_second: permits a second, on average; up to one second's worth may be granted at
            once.
        concurrency: permits that may be out at once.
    """

    def __init__(self, *, rate_per_second: float, concurrency: int) -> None:
        super().__init__()
        self._rate = rate_per_second
        self._concurrency = concurrency
        self._tokens = max(1.0, rate_per_second)
        self._refilled = time.monotonic()
        self._waiting: OrderedDict[str, ActorRef[Any]] = OrderedDict()
        self._granted: set[str] = set()
        self._watched: set[str] = set()
        self._timer: Timer | None = None

    def on_receive(self, message: Any) -> Any:
        """Handle a request, a release, the end of a requester, or the timer."""
        if isinstance(message, RequestPermit):
            self._request(message.requester)
        elif isinstance(message, ReleasePermit):
            self._forget(message.requester, ended=False)
        elif isinstance(message, Terminated):
            self._forget(message.ref, ended=True)
        elif isinstance(message, _GrantNow):
            self._timer = None
        else:
            return super().on_receive(message)
        self._grant()
        return None

    def _request(self, requester: ActorRef[Any]) -> None:
        self._waiting[requester.actor_urn] = requester
        self._watched.add(requester.actor_urn)
        self.watch(requester)

    def _forget(self, requester: ActorRef[Any], *, ended: bool) -> None:
        urn = requester.actor_urn
        self._granted.discard(urn)
        if urn not in self._watched:
            return
        self._watched.discard(urn)
        self._waiting.pop(urn, None)
        if not ended:
            self.unwatch(requester)

    def _grant(self) -> None:
        self._refill()
        while self._waiting and len(self._granted) < self._concurrency:
            if self._tokens < 1.0:
                self._wait_for_token()
                return
            self._tokens -= 1.0
            urn, requester = self._waiting.popitem(last=False)
            self._granted.add(urn)
            requester.tell(PermitGranted())

    def _refill(self) -> None:
        now = time.monotonic()
        gained = (now - self._refilled) * self._rate
        self._tokens = min(max(1.0, self._rate), self._tokens + gained)
        self._refilled = now

    def _wait_for_token(self) -> None:
        if self._timer is None:
            delay_seconds = (1.0 - self._tokens) / self._rate
            self._timer = self.schedule(delay_seconds, _GrantNow())
