"""An actor that makes one attempt to connect, for the tests of what it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunnelfleet.actors.kernel import DispatchedActor
from tunnelfleet.actors.net.dial import DialStep
from tunnelfleet.actors.transport.attempt import ConnectAttempt

if TYPE_CHECKING:
    from tests.support.actors import Log
    from tunnelfleet.actors.transport.connector import Connector, ConnectRequest


class Attempter(DispatchedActor):
    """Makes one attempt, and logs what it is told of it."""

    def __init__(
        self,
        connector: Connector,
        request: ConnectRequest,
        log: Log,
        now: float = 0.0,
        waited_seconds: float = 0.0,
    ) -> None:
        super().__init__()
        self.connector = connector
        self.request = request
        self.log = log
        self.now = now
        self.waited_seconds = waited_seconds
        self.attempt: ConnectAttempt | None = None

    def on_start(self) -> None:
        request = self.request
        self.attempt = attempt = ConnectAttempt(
            self,
            self.connector,
            request.endpoint,
            request.http_proxy,
            timeout_seconds=request.timeout_seconds,
            tunnel=self.actor_urn,
            next_address_after_seconds=0.25,
        )
        prepared_at = self.now - self.waited_seconds
        attempt.prepare(lambda: attempt.connect(request, self.now), lambda: prepared_at)

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, DialStep):
            message.run()
        elif callable(message):
            return message(self.attempt)
        else:
            self.log.add(message)
        return None

    def on_stop(self) -> None:
        assert self.attempt is not None
        self.attempt.cancel()
