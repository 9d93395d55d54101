"""What a runtime gives to its tunnels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.actors import settle
from tests.support.fakes import Recorder
from tunnelfleet.actors.events import SessionWasReset
from tunnelfleet.actors.tunnel.context import Services

if TYPE_CHECKING:
    from tests.support.actors import Log
    from tunnelfleet.actors.kernel import Dispatcher

EVENT = SessionWasReset("press-4")


def test_an_event_goes_to_the_present_relay(dispatcher: Dispatcher) -> None:
    services = Services()
    logs: list[Log] = []
    for _ in range(2):
        services.relay = Recorder.start(dispatcher=dispatcher)
        logs.append(services.relay.ask(lambda actor: actor.log))
    services.publish(EVENT)
    settle(dispatcher)
    assert [log.items for log in logs] == [[], [EVENT]]


def test_without_a_relay_an_event_is_nobody_s(dispatcher: Dispatcher) -> None:
    services = Services()
    services.publish(EVENT)
    services.relay = Recorder.start(dispatcher=dispatcher)
    services.relay.stop()
    services.publish(EVENT)
    assert dispatcher.stats.dead_letters == 0
