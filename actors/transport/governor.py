"""ConnectGovernor: how many connects may be under way, and how many a second, in a runtime.

It grants permits fairly over endpoints and tunnels, by the rule of `fair_slots`: an endpoint that
accepts and says nothing keeps those busy that connect to it, and nobody else. It forgets whoever
ends. docs/protocol.md section 6: AWS allows about ten tunnel connects a second per account.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.actors.kernel import DispatchedActor, Terminated
from tunnelfleet.actors.net.fair_slots import FairSlots, reserved_share
from tunnelfleet.actors.token_bucket import TokenBucket
from tunnelfleet.actors.tunnel.messages import PermitGranted, ReleasePermit, RequestPermit

if TYPE_CHECKING:
    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Timer

__all__ = [
    "SLOW_CONNECT_SECONDS",
    "ConnectGovernor",
]


SLOW_CONNECT_SECONDS = 3.0
"""A tunnel whose attempt took longer and failed shares half of the permits with its like."""


class _GrantNow(NamedTuple):
    """The next permit is due."""


class ConnectGovernor(DispatchedActor):
    """Grants connect permits.

    Args:
        rate_per_second: permits a second, on average; up to one second's worth may be granted at
            once.
        concurrency: permits that may be out at once.
        per_endpoint: of these, how many may be out for one endpoint; None leaves a quarter, at
            least one, to other endpoints.
    """

    def __init__(
        self, *, rate_per_second: float, concurrency: int, per_endpoint: int | None = None
    ) -> None:
        super().__init__()
        capacity = max(1.0, rate_per_second)
        self._bucket = TokenBucket(rate_per_second, capacity, time.monotonic())
        self._permits: FairSlots[ActorRef[Any]] = FairSlots(
            concurrency, per_endpoint or reserved_share(concurrency), SLOW_CONNECT_SECONDS
        )
        self._watched: set[ActorRef[Any]] = set()
        self._timer: Timer | None = None

    def on_receive(self, message: Any) -> Any:
        """Handle a request, a release, the end of a requester, or the timer."""
        if isinstance(message, RequestPermit):
            self._request(message)
        elif isinstance(message, ReleasePermit):
            self._forget(message.requester, succeeded=True)
        elif isinstance(message, Terminated):
            self._forget(message.ref, succeeded=False)
        elif isinstance(message, _GrantNow):
            self._timer = None
        else:
            return super().on_receive(message)
        self._grant()
        return None

    def _request(self, message: RequestPermit) -> None:
        if message.requester not in self._watched:
            self._permits.ask(message.requester, message.endpoint, message.tunnel)
            self._watched.add(message.requester)
            self.watch(message.requester)

    def _forget(self, requester: ActorRef[Any], *, succeeded: bool) -> None:
        if requester not in self._watched:
            return
        self._watched.discard(requester)
        self._permits.give_back(requester, time.monotonic(), succeeded=succeeded)
        if succeeded:
            self.unwatch(requester)

    def _grant(self) -> None:
        now = time.monotonic()
        while not (wait_seconds := self._bucket.wait_seconds(now)):
            requester = self._permits.take_next(now)
            if requester is None:
                return
            self._bucket.take(1.0, now)
            requester.tell(PermitGranted())
        if self._permits.waiting and self._timer is None:
            self._timer = self.schedule(wait_seconds, _GrantNow())
