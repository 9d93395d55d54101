"""The root of a runtime's actors: what it tells, and how its children are kept up."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Log, crash
from tests.support.fakes import Recorder, make_config
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.events import EventRelay, SessionWasReset, Subscribe
from tunnelfleet.actors.kernel import ChildSpec, Dispatcher, Restart, WhichChildren, kill
from tunnelfleet.actors.transport.connect_gate import ConnectGate
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.transport.governor import ConnectGovernor
from tunnelfleet.actors.tunnel.context import Services
from tunnelfleet.proto import Mode
from tunnelfleet.runtime.supervisor import (
    CHILD_BACKOFF,
    SHARED_BACKOFF,
    TUNNEL_BACKOFF,
    RuntimeSupervisor,
    governor_spec,
    relay_spec,
    runtime_spec,
    tunnel_child_id,
    tunnel_spec,
)
from tunnelfleet.runtime.tunnel import make_parts

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT = SessionWasReset("press-4")


def shared_children(observed: Log, subscriptions: list[Subscribe]) -> list[ChildSpec]:
    relay = relay_spec(observed.add, lambda: list(subscriptions))
    return [relay, governor_spec(ConnectGate(), 1_000.0, 4)]


class TestRoot:
    def test_tunnels_find_the_present_governor_and_relay(self, dispatcher: Dispatcher) -> None:
        services, observed = Services(), Log()
        inbox, late = Log(), Log()
        subscriptions = [Subscribe(Recorder.start(inbox, dispatcher=dispatcher))]
        root = RuntimeSupervisor.start(
            services, shared_children(observed, subscriptions), dispatcher=dispatcher
        )
        root.ask(WhichChildren(), timeout=WAIT_SECONDS)
        before = (services.relay, services.governor)
        assert [type(ref._actor_weakref()) for ref in before] == [EventRelay, ConnectGovernor]  # type: ignore[union-attr]
        services.publish(EVENT)
        assert inbox.wait() == [EVENT]
        # The next relay begins with those who have subscribed meanwhile.
        subscriptions.append(Subscribe(Recorder.start(late, dispatcher=dispatcher)))
        for ref in before:
            assert ref is not None
            kill(ref)
        eventually(lambda: services.relay != before[0] and services.governor != before[1])
        services.publish(EVENT)
        assert late.wait() == [EVENT]
        assert observed.items == inbox.items == [EVENT, EVENT]
        root.stop(timeout=WAIT_SECONDS)

    def test_other_children_are_no_business_of_tunnels(self, dispatcher: Dispatcher) -> None:
        services = Services()
        spec = ChildSpec(id=tunnel_child_id("governor"), start=Recorder.start)
        root = RuntimeSupervisor.start(services, [spec], dispatcher=dispatcher)
        root.ask(WhichChildren(), timeout=WAIT_SECONDS)
        assert (services.governor, services.relay) == (None, None)
        root.stop(timeout=WAIT_SECONDS)

    @pytest.mark.parametrize(
        ("end", "is_normal", "is_failure"),
        [
            (lambda root: root.stop(timeout=WAIT_SECONDS), True, False),
            (kill, False, False),
            (crash, False, True),
        ],
        ids=["stopped", "killed", "crashed"],
    )
    def test_its_end_is_told_once_with_its_reason(
        self,
        dispatcher: Dispatcher,
        end: Callable[[Any], object],
        is_normal: bool,
        is_failure: bool,
    ) -> None:
        ended = Log()
        root = RuntimeSupervisor.start(Services(), [], ended.add, dispatcher=dispatcher)
        end(root)
        [reason] = ended.wait()
        assert (reason.is_normal, reason.is_failure) == (is_normal, is_failure)


class Handle:
    """Stands for a Tunnel."""

    def __init__(self, stop_timeout_seconds: float) -> None:
        config = make_config(Mode.SOURCE)
        limits = replace(config.limits, stop_timeout_seconds=stop_timeout_seconds)
        self.config = make_config(Mode.SOURCE, limits=limits)
        self.name = self.config.name
        self.started: list[tuple[object, object]] = []

    def start_actors(self, parts: object, dispatcher: object) -> str:
        self.started.append((parts, dispatcher))
        return "the ref"


class TestSpecs:
    @pytest.mark.parametrize("spec", shared_children(Log(), []), ids=lambda spec: spec.id)
    def test_what_tunnels_share_never_ends_the_runtime(self, spec: ChildSpec) -> None:
        assert (spec.restart, spec.backoff) == (Restart.PERMANENT, SHARED_BACKOFF)

    @pytest.mark.parametrize("stop_timeout_seconds", [0.5, 30.0])
    def test_a_tunnel_has_longer_to_stop_than_it_needs(self, stop_timeout_seconds: float) -> None:
        handle: Any = Handle(stop_timeout_seconds)
        spec = tunnel_spec(handle, make_parts(Connector(1)), Dispatcher("never started"))
        assert spec.id == tunnel_child_id("press-4") == "tunnel press-4"
        assert isinstance(spec.shutdown, float)
        assert spec.shutdown > stop_timeout_seconds
        assert (spec.restart, spec.backoff) == (Restart.PERMANENT, TUNNEL_BACKOFF)
        assert spec.independent
        assert spec.quarantine_after

    def test_a_tunnel_is_started_on_its_dispatcher_each_time(self) -> None:
        handle: Any = Handle(1.0)
        parts, dispatcher = make_parts(Connector(1)), Dispatcher("never started")
        spec = tunnel_spec(handle, parts, dispatcher)
        assert [spec.start(), spec.start()] == ["the ref", "the ref"]
        assert handle.started == [(parts, dispatcher)] * 2

    def test_a_host_restarts_a_runtime_and_gives_it_time_to_stop(self) -> None:
        root: Any = SimpleNamespace()
        spec = runtime_spec("fleet", lambda: root)
        assert (spec.id, spec.restart, spec.backoff) == ("fleet", Restart.PERMANENT, CHILD_BACKOFF)
        assert spec.start() is root
        assert isinstance(spec.shutdown, float)
        assert spec.shutdown >= 15.0
