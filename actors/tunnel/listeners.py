"""The listeners of a source: which there are, and whether they accept.

Owns what is wanted to be listened on, for the configured services or for those that are announced.
It starts and stops ListenerActors as children of the TransportSupervisor; it knows no connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pykka import ActorRef

from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import Address, TcpAddress
from tunnelfleet.actors.config import ApiService, NoListener
from tunnelfleet.actors.kernel import ChildSpec, Restart, StartChild, StopChild
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import Mode

from .messages import ChildEnded, ListenerBound, SetAccepting

if TYPE_CHECKING:
    from .context import Common


_CHILD_PREFIX = "listener "

logger = get_logger(__name__)


def is_listener(child_id: str) -> bool:
    """Whether a child of the TransportSupervisor is a listener."""
    return child_id.startswith(_CHILD_PREFIX)


LISTENER_SHUTDOWN_SECONDS = 1.0
TOO_MANY_LOG_SECONDS = 60.0
"""Between two log lines of a tunnel that more services are announced than it listens on."""


class Listeners:
    """The listeners of a tunnel; a destination has none.

    Args:
        common: what the parts of the tunnel have in common.
        stop_for_good: called with the id of a child that is not wanted any more: it is to be
            stopped, and its place among the children to be given up when it has ended.
    """

    __slots__ = (
        "_accepting",
        "_children",
        "_common",
        "_listeners",
        "_stop_for_good",
        "_too_many_logged_at",
    )

    def __init__(self, common: Common, stop_for_good: Callable[[str], None]) -> None:
        self._common = common
        self._stop_for_good = stop_for_good
        self._listeners: dict[str, ActorRef[Any]] = {}
        self._children: dict[str, str] = {}
        """The service ids of the listeners that are wanted, by the id of the child."""
        self._too_many_logged_at: float | None = None
        self._accepting = False

    @property
    def _are_free(self) -> bool:
        """Whether it listens for what is announced, at free ports."""
        config = self._common.config
        return config.mode is Mode.SOURCE and config.services is None

    def start(self) -> None:
        """Listen for the services that the configuration names."""
        config = self._common.config
        if config.mode is Mode.SOURCE and config.services is not None:
            for service_id, address in config.services.items():
                if not isinstance(address, ApiService | NoListener):
                    self._start(_CHILD_PREFIX + service_id, service_id, address)

    def _start(self, child_id: str, service_id: str, address: Address) -> None:
        common, context = self._common, self._common.context
        self._children[child_id] = service_id

        def start() -> ActorRef[Any]:
            make = context.parts.listener
            return make(service_id, address, common.tunnel, context.config.limits, context.bound)

        common.tell_transport(
            StartChild(
                ChildSpec(
                    id=child_id,
                    start=start,
                    restart=Restart.PERMANENT,
                    shutdown=LISTENER_SHUTDOWN_SECONDS,
                    backoff=common.limits.backoff,
                )
            )
        )

    def bound(self, message: ListenerBound) -> None:
        """A listener listens."""
        common = self._common
        self._listeners[message.service_id] = message.listener
        addresses = (message.address, *message.others)
        common.stats.listening[message.service_id] = tuple(map(str, addresses))
        common.stats.last_event = f"listening on {message.address}"
        for address in addresses:
            common.publish(events.ListenerOpened(common.config.name, message.service_id, address))
        message.listener.tell(SetAccepting(self._accepting))

    def ended(self, message: ChildEnded) -> None:
        """A listener has ended; a failure is its supervisor's to mend."""
        common = self._common
        service_id = message.child_id.removeprefix(_CHILD_PREFIX)
        if self._are_free:
            service_id = service_id.partition(" ")[2]
        if self._listeners.get(service_id) == message.ref:
            # Not its successor, if the service was announced anew.
            del self._listeners[service_id]
            common.stats.listening.pop(service_id, None)
        reason = str(message.reason.exception or "") if message.reason.is_failure else ""
        if message.reason.is_failure:
            common.stats.count_failed_listen()
        if reason:
            common.stats.last_event = reason
        common.publish(events.ListenerClosed(common.config.name, service_id, reason))

    def forget(self) -> None:
        """None of them is left, and nobody tells of their ends: their supervisor has ended."""
        common = self._common
        self._listeners.clear()
        self._children.clear()
        self._accepting = False
        # Those of an earlier life of the tunnel's actor are in it, too.
        listening = list(common.stats.listening)
        common.stats.listening.clear()
        for service_id in listening:
            common.publish(events.ListenerClosed(common.config.name, service_id, ""))

    def announced(self, service_ids: Sequence[str]) -> None:
        """Listen for what is announced, up to the limit, and for nothing else, if that is wanted.

        Args:
            service_ids: the services, or `ANY_SERVICE`.
        """
        if not self._are_free:
            return
        announced = dict.fromkeys(service_ids)
        for child_id, service_id in list(self._children.items()):
            if service_id not in announced:
                del self._children[child_id]
                # Its port is free for others, and a later listener does not wait for it.
                self._common.context.bound.pop(service_id, None)
                self._stop_for_good(child_id)
        listened_on = set(self._children.values())
        missing = [service_id for service_id in announced if service_id not in listened_on]
        room = self._common.limits.max_free_listeners - len(listened_on)
        for service_id in missing[:room]:
            self._start_free(service_id)
        if len(missing) > room:
            self._tell_too_many(len(announced), len(missing) - room)

    def _start_free(self, service_id: str) -> None:
        config = self._common.config
        # With a number: the one of the same service before may still be on its way out.
        child_id = f"{_CHILD_PREFIX}{next(self._common.serials)} {service_id}"
        free = TcpAddress(config.bind_host, 0)
        self._start(child_id, service_id, config.listen_on.get(service_id, free))

    def _tell_too_many(self, announced: int, without: int) -> None:
        common = self._common
        text = (
            f"{without} of {announced} announced services are not listened on: "
            f"max_free_listeners is {common.limits.max_free_listeners}"
        )
        common.stats.last_event = text
        now, last = time.monotonic(), self._too_many_logged_at
        if last is None or now - last > TOO_MANY_LOG_SECONDS:
            self._too_many_logged_at = now
            logger.warning("tunnel %s: %s", common.config.name, text)

    def set_accepting(self, accepting: bool) -> None:
        """Have them accept, or leave callers waiting."""
        if accepting == self._accepting:
            return
        self._accepting = accepting
        for listener in self._listeners.values():
            listener.tell(SetAccepting(accepting))

    def close(self) -> None:
        """Close them all: the tunnel ends."""
        self.set_accepting(False)
        for child_id in self._children:
            self._common.tell_transport(StopChild(child_id))

    def let_go(self) -> None:
        """Keep nothing that leads back to the actor, which has ended."""
        self._stop_for_good = _nothing


def _nothing(_child_id: str) -> None:
    """Stand for a call that leads nowhere any more."""
