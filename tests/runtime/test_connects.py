"""Connects of a whole runtime: suspended and resumed, and an endpoint that is down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.support.actors import settle
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import kill
from tunnelfleet.actors.transport import connect_gate
from tunnelfleet.actors.transport.connect_gate import BREAKER_DELAYS, BREAKER_FAILURES, EXPIRED
from tunnelfleet.runtime import (
    Backoff,
    Endpoint,
    Limits,
    Mode,
    TcpAddress,
    Tunnel,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
)
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

RETURN_SECONDS = 4 * BREAKER_DELAYS.max_seconds
LIMITS = Limits(backoff=Backoff(min_seconds=0.01, max_seconds=0.05))


@pytest.fixture
def runtime() -> Iterator[TunnelRuntime]:
    with TunnelRuntime(connect_rate_per_second=500.0) as running:
        yield running


def open_one(runtime: TunnelRuntime, service: TunnelService, name: str) -> Tunnel:
    tokens = service.open_tunnel(name, ["SSH"])
    return runtime.open_tunnel(
        TunnelConfig(
            name=name,
            mode=Mode.DESTINATION,
            endpoint=Endpoint.parse(service.endpoint),
            access_token=tokens.destination_token,
            services={"SSH": TcpAddress("127.0.0.1", 9)},
            limits=LIMITS,
        )
    )


def wait_waiting(runtime: TunnelRuntime, count: int) -> None:
    eventually(lambda: runtime.connect_stats().waiting == count)


def test_no_tunnel_connects_while_connects_are_suspended(
    runtime: TunnelRuntime, service: TunnelService
) -> None:
    before = open_one(runtime, service, "before")
    before.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    runtime.suspend_connects("no lease")
    late = open_one(runtime, service, "late")
    wait_waiting(runtime, 1)
    assert late.reason == "connects are suspended: no lease"
    assert before.stats.state is TunnelState.CONNECTED, "links stay"
    service.drop("before")
    wait_waiting(runtime, 2)
    stats = runtime.connect_stats()
    assert (stats.suspended, stats.under_way, stats.granted) == ("no lease", 0, 1)
    runtime.resume_connects()
    for tunnel in (before, late):
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    assert runtime.connect_stats().suspended == ""


def test_a_runtime_may_begin_suspended(service: TunnelService) -> None:
    runtime = TunnelRuntime()
    runtime.suspend_connects("no lease yet")
    with runtime:
        tunnel = open_one(runtime, service, "one")
        wait_waiting(runtime, 1)
        runtime.resume_connects()
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)


def test_a_suspension_outlives_the_governor(runtime: TunnelRuntime, service: TunnelService) -> None:
    runtime.suspend_connects("no lease")
    eventually(lambda: runtime._services.governor is not None)
    governor = runtime._services.governor
    assert governor is not None
    kill(governor)
    eventually(lambda: runtime._services.governor not in (governor, None))
    tunnel = open_one(runtime, service, "one")
    wait_waiting(runtime, 1)
    assert tunnel.stats.connect_attempts == 0
    runtime.resume_connects()
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)


def test_leave_that_nobody_renews_runs_out(runtime: TunnelRuntime, service: TunnelService) -> None:
    runtime.resume_connects(valid_seconds=0.0)
    assert runtime.connect_stats().suspended == EXPIRED
    tunnel = open_one(runtime, service, "one")
    wait_waiting(runtime, 1)
    runtime.resume_connects(valid_seconds=3_600.0)
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    assert runtime.connect_stats().suspended == ""


def test_an_endpoint_that_is_down_has_few_attempts_and_its_tunnels_come_back(
    runtime: TunnelRuntime, service: TunnelService
) -> None:
    count = 4 * BREAKER_FAILURES
    service.refuse_next(None, 503, count=10**6)
    tunnels = [open_one(runtime, service, f"t{number}") for number in range(count)]
    eventually(lambda: bool(runtime.connect_stats().breakers))
    (down,) = runtime.connect_stats().breakers
    assert down.endpoint == str(service.endpoint)
    with TunnelService(tls=False) as another:
        open_one(runtime, another, "well").wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    for dispatcher in runtime.dispatchers:
        settle(dispatcher)
    # Without the breaker each tunnel tries every few hundredths of a second.
    assert sum(tunnel.stats.connect_attempts for tunnel in tunnels) < 2 * count
    service.refuse_next(None, 503, count=0)
    for tunnel in tunnels:
        tunnel.wait_for(TunnelState.CONNECTED, RETURN_SECONDS)
    eventually(lambda: runtime.connect_stats().breakers == ())
    assert runtime.connect_stats().breaker_openings >= 1


def test_one_that_may_not_try_says_why_and_tries_when_it_is_asked_to(
    runtime: TunnelRuntime, service: TunnelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not drawn: a short one would let another try first.
    hour = SimpleNamespace(delay=lambda _openings, _rng: 3_600.0)
    monkeypatch.setattr(connect_gate, "BREAKER_DELAYS", hour)
    for number in range(BREAKER_FAILURES):
        open_one(runtime, service, f"t{number}")
        service.refuse_next(f"t{number}", 503, count=10**6)
        service.drop(f"t{number}")
    eventually(lambda: bool(runtime.connect_stats().breakers))
    late = open_one(runtime, service, "late")
    eventually(lambda: "is down: its tunnels wait" in late.status().reason)
    assert late.status().state is TunnelState.CONNECTING
    assert late.status().reason == late.reason
    assert str(service.endpoint) in late.reason
    assert late.stats.connect_attempts == 0
    # Who has not asked yet is not tried, but the next one that waits.
    eventually(lambda: runtime.connect_stats().held_back == BREAKER_FAILURES + 1)
    # The delay is an hour: it is the command that ends it.
    assert runtime.try_now("late")
    late.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    assert late.reason == ""


def test_tokens_that_are_refused_say_nothing_of_their_endpoint(
    runtime: TunnelRuntime, service: TunnelService
) -> None:
    count = 2 * BREAKER_FAILURES
    service.refuse_next(None, 403, count=count)
    tunnels = [open_one(runtime, service, f"t{number}") for number in range(count)]
    for tunnel in tunnels:
        tunnel.wait_for(TunnelState.REFUSED, WAIT_SECONDS)
    assert runtime.connect_stats().breaker_openings == 0
