"""TunnelRuntime against the embedded service: opening, looking, waiting, closing, and its end."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.support.actors import Log, hold, settle
from tests.support.fakes import Recorder
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import Dispatcher, kill
from tunnelfleet.proto import (
    ConfigError,
    Endpoint,
    Mode,
    ProtocolVersion,
    TunnelClosed,
    TunnelError,
)
from tunnelfleet.runtime import (
    Backoff,
    Limits,
    ListenerOpened,
    ServiceIdsReceived,
    StreamOpened,
    TcpAddress,
    TunnelConfig,
    TunnelEvent,
    TunnelRuntime,
    TunnelState,
    TunnelStateChanged,
)
from tunnelfleet.runtime import engine as engine_module
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.runtime import Tunnel
    from tunnelfleet.runtime.service import TunnelTokens

    Configure = Callable[..., TunnelConfig]

QUICK = Limits(
    backoff=Backoff(min_seconds=0.01, max_seconds=0.05, stability_seconds=0.1),
    stop_timeout_seconds=1.0,
)
PAYLOAD = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def echo() -> Iterator[TcpAddress]:
    """A server that sends back what it gets until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65_536):
                sock.sendall(data)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            if closing.is_set():
                sock.close()
                return
            threads.append(threading.Thread(target=answer, args=(sock,), daemon=True))
            threads[-1].start()

    closing = threading.Event()
    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    address = TcpAddress(*listener.getsockname()[:2])
    yield address
    closing.set()
    socket.create_connection((address.host, address.port)).close()
    for thread in [acceptor, *threads]:
        thread.join(WAIT_SECONDS)
    listener.close()


@pytest.fixture
def runtime() -> Iterator[TunnelRuntime]:
    with TunnelRuntime(connect_rate_per_second=1_000.0) as running:
        yield running


@pytest.fixture
def configure(service: TunnelService, echo: TcpAddress) -> Configure:
    """Return a maker of configurations for tunnels of the service, opened as they are needed."""
    opened: dict[str, TunnelTokens] = {}

    def make(mode: Mode, tunnel: str = "press-4", **settings: Any) -> TunnelConfig:
        if tunnel not in opened:
            opened[tunnel] = service.open_tunnel(tunnel, ["SSH"])
        tokens = opened[tunnel]
        is_source = mode is Mode.SOURCE
        defaults: dict[str, Any] = {
            "name": f"{tunnel}-{mode}",
            "endpoint": service.endpoint,
            "access_token": tokens.source_token if is_source else tokens.destination_token,
            "services": {"SSH": TcpAddress("127.0.0.1", 0) if is_source else echo},
            "limits": QUICK,
        }
        return TunnelConfig(mode=mode, **(defaults | settings))

    return make


def open_pair(runtime: TunnelRuntime, configure: Configure, tunnel: str = "press-4") -> Tunnel:
    """Open both ends of a tunnel and wait until they are connected; return the source."""
    ends = [runtime.open_tunnel(configure(m, tunnel)) for m in (Mode.DESTINATION, Mode.SOURCE)]
    for end in ends:
        end.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    return ends[1]


def round_trip(source: Tunnel, payload: bytes = PAYLOAD) -> bytes:
    """Send through the tunnel to the echo server; return what comes back."""
    address = source.wait_listening("SSH", WAIT_SECONDS)
    assert isinstance(address, TcpAddress)
    with socket.create_connection((address.host, address.port), WAIT_SECONDS) as sock:
        sender = threading.Thread(target=lambda: (sock.sendall(payload), sock.shutdown(1)))
        sender.start()
        answer = b""
        while piece := sock.recv(65_536):
            answer += piece
        sender.join()
    return answer


def refused_config(configure: Configure, **settings: Any) -> TunnelConfig:
    return configure(Mode.SOURCE, access_token="not-the-token", **settings)


# -- life


def test_bytes_travel_through_two_ends(runtime: TunnelRuntime, configure: Configure) -> None:
    source = open_pair(runtime, configure)
    assert round_trip(source) == PAYLOAD
    status = source.status()
    assert (status.name, status.mode, status.state) == (
        "press-4-source",
        Mode.SOURCE,
        TunnelState.CONNECTED,
    )
    assert (status.sent_bytes, status.received_bytes) == (len(PAYLOAD), len(PAYLOAD))
    assert status.service_ids == ("SSH",)
    assert status.connections_opened == 1
    assert (status.connect_attempts, status.connect_failures, status.reconnects) == (1, 0, 0)
    assert status.channel_id
    assert list(status.listening) == ["SSH"]
    assert status.since <= time.time()


@pytest.mark.parametrize("version", list(ProtocolVersion))
def test_every_version_carries_bytes(
    runtime: TunnelRuntime, configure: Configure, version: ProtocolVersion
) -> None:
    runtime.open_tunnel(configure(Mode.DESTINATION)).wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    source = runtime.open_tunnel(configure(Mode.SOURCE, version=version))
    source.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    for _ in range(3):
        assert round_trip(source) == PAYLOAD


def test_two_runtimes_know_nothing_of_each_other(
    configure: Configure, service: TunnelService
) -> None:
    with TunnelRuntime() as one, TunnelRuntime(dispatchers=2) as other:
        one.open_tunnel(configure(Mode.DESTINATION)).wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        source = other.open_tunnel(configure(Mode.SOURCE))
        source.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        assert round_trip(source) == PAYLOAD
        assert [tunnel.name for tunnel in one.tunnels()] == ["press-4-destination"]
        assert [tunnel.name for tunnel in other.tunnels()] == ["press-4-source"]
        one.stop()
        assert source.stats.state is not TunnelState.STOPPED


def test_tunnels_are_spread_over_the_dispatchers(configure: Configure) -> None:
    with TunnelRuntime(dispatchers=2) as runtime:
        assert runtime.stats().dispatchers == 2
        for name in ("press-4", "press-5"):
            assert round_trip(open_pair(runtime, configure, name)) == PAYLOAD


def test_importing_and_making_a_runtime_starts_nothing() -> None:
    before = threading.active_count()
    TunnelRuntime()
    assert threading.active_count() == before


def test_no_thread_is_left_after_the_stop(configure: Configure) -> None:
    before = set(threading.enumerate())
    with TunnelRuntime(dispatchers=2, on_event=lambda _event: None) as runtime:
        open_pair(runtime, configure)
        assert len(threading.enumerate()) > len(before)
    eventually(lambda: set(threading.enumerate()) <= before)


def test_a_second_stop_is_harmless(configure: Configure) -> None:
    runtime = TunnelRuntime().start()
    tunnel = runtime.open_tunnel(configure(Mode.SOURCE))
    runtime.stop()
    runtime.stop()
    assert tunnel.status().state is TunnelState.STOPPED


def test_a_stop_that_takes_too_long_ends_by_force_and_says_what(
    configure: Configure, runtime: TunnelRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    # Before it is there, its SESSION_RESET would end what the source has begun.
    far = runtime.open_tunnel(configure(Mode.DESTINATION))
    far.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    patient = replace(QUICK, stop_timeout_seconds=3_600.0)
    stopped = TunnelRuntime(dispatchers=2).start()
    source = stopped.open_tunnel(
        configure(Mode.SOURCE, limits=patient, bandwidth_bytes_per_second=10_000.0)
    )
    address = source.wait_listening("SSH", WAIT_SECONDS)
    assert isinstance(address, TcpAddress)
    with socket.create_connection((address.host, address.port), WAIT_SECONDS) as sock:
        sock.sendall(PAYLOAD)
        # Some of it has come back: the rest was read, and a stop in good order would send it.
        assert sock.recv(1)
        with caplog.at_level(logging.WARNING, engine_module.__name__):
            stopped.stop(timeout_seconds=0.05)
    [record] = caplog.records
    assert source.name in record.getMessage()
    assert "1 of 1 tunnel " in record.getMessage()
    assert source.status().state is TunnelState.STOPPED
    assert "by force" in source.status().reason
    assert stopped.tunnels() == []
    # The other runtime has one dispatcher, and starts threads that connect when it needs them.
    eventually(lambda: "tunnelfleet-1" not in {each.name for each in threading.enumerate()})
    with pytest.raises(TunnelError, match="make a new TunnelRuntime"):
        stopped.start()
    with TunnelRuntime() as other:
        open_pair(other, configure, "press-5")


def test_a_turn_that_does_not_end_is_left_behind_and_the_rest_ends(
    configure: Configure, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "FORCED_END_SECONDS", 0.05)
    gate, entered = threading.Event(), threading.Event()
    runtime = TunnelRuntime().start()
    [dispatcher] = runtime.dispatchers
    tunnel = runtime.open_tunnel(configure(Mode.SOURCE))

    def block() -> None:
        entered.set()
        gate.wait(WAIT_SECONDS)

    dispatcher.call_soon(block)
    assert entered.wait(WAIT_SECONDS)
    runtime.stop(timeout_seconds=0.05)
    gate.set()
    assert "is left behind" in caplog.text
    assert tunnel.name in caplog.text
    assert runtime.tunnels() == []
    dispatcher.stop(WAIT_SECONDS)


def test_tunnels_stop_together(configure: Configure) -> None:
    """Each waits for the service's farewell; none waits for another's."""
    log = Log()
    with Dispatcher("host") as host, TunnelRuntime(connect_rate_per_second=1_000.0) as runtime:
        # To an actor the events of all tunnels come in one order.
        runtime.subscribe(Recorder.start(log, dispatcher=host))
        names = [f"press-{number}" for number in range(3)]
        for name in names:
            tunnel = runtime.open_tunnel(configure(Mode.DESTINATION, name))
            tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        runtime.stop()
        settle(host)
    changes = [event.state for event in log.items if isinstance(event, TunnelStateChanged)]
    first_stopped = changes.index(TunnelState.STOPPED)
    assert changes[:first_stopped].count(TunnelState.DRAINING) == len(names)


def test_a_stop_without_a_start_is_harmless() -> None:
    TunnelRuntime().stop()


def test_a_second_start_is_an_error(runtime: TunnelRuntime) -> None:
    with pytest.raises(TunnelError, match="once"):
        runtime.start()


def test_it_runs_once_and_says_what_to_do_then(configure: Configure) -> None:
    for name in ("press-4", "press-5"):
        with TunnelRuntime() as runtime:
            assert round_trip(open_pair(runtime, configure, name)) == PAYLOAD
        with pytest.raises(TunnelError, match="runs once: make a new TunnelRuntime"):
            runtime.start()
        assert runtime.dispatchers == []


def test_one_that_was_stopped_before_its_start_has_ended_too() -> None:
    runtime = TunnelRuntime()
    runtime.stop()
    with pytest.raises(TunnelError, match="make a new TunnelRuntime"):
        runtime.start()


def test_a_hundred_and_fifty_runtimes_in_a_row(configure: Configure) -> None:
    """Each ends whole before the next begins: killed before its stop, or stopped."""
    before = set(threading.enumerate())
    for number in range(150):
        runtime = TunnelRuntime(connect_rate_per_second=1_000.0).start()
        runtime.open_tunnel(configure(Mode.SOURCE, f"press-{number}"))
        if number % 2:
            kill(runtime.actor_ref)
        runtime.stop()
        assert runtime.dispatchers == []
        assert runtime.tunnels() == []
    # The threads of others that were idle may end meanwhile; none is added.
    assert not {each.name for each in set(threading.enumerate()) - before}


def test_nothing_can_be_opened_when_it_does_not_run(configure: Configure) -> None:
    runtime = TunnelRuntime()
    with pytest.raises(TunnelClosed, match=r"call start\(\) first"):
        runtime.open_tunnel(configure(Mode.SOURCE))
    with runtime:
        pass
    with pytest.raises(TunnelClosed, match="make a new TunnelRuntime"):
        runtime.open_tunnel(configure(Mode.SOURCE))


def test_while_it_stops_nothing_is_opened(configure: Configure) -> None:
    with TunnelRuntime(dispatchers=2) as runtime, hold(runtime.dispatchers[1]):
        # Its root is over, and the thread that ends the rest is held up.
        runtime.actor_ref.stop()
        with pytest.raises(TunnelClosed, match="begun to stop"):
            runtime.open_tunnel(configure(Mode.SOURCE))
        assert runtime.tunnels() == []


def test_a_host_that_stops_all_actors_stops_the_tunnels_too(configure: Configure) -> None:
    runtime = TunnelRuntime().start()
    try:
        source = open_pair(runtime, configure)
        pykka.ActorRegistry.stop_all(timeout=WAIT_SECONDS)
        assert source.status().state is TunnelState.STOPPED
    finally:
        runtime.stop()


@pytest.mark.parametrize(
    "settings",
    [
        {"dispatchers": 0},
        {"connect_rate_per_second": 0},
        {"connect_rate_per_second": -1},
        {"connect_concurrency": 0},
        {"connects_per_endpoint": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TunnelRuntime(**settings)


def test_what_it_uses_can_be_looked_at(runtime: TunnelRuntime, configure: Configure) -> None:
    open_pair(runtime, configure)
    stats = runtime.stats()
    assert (stats.tunnels, stats.dispatchers) == (2, 1)
    assert stats.threads >= 2
    assert stats.messages_handled > 0
    assert stats.longest_turn_seconds > 0


# -- names


def test_tunnels_are_found_by_name_and_listed_in_order(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    opened = [runtime.open_tunnel(configure(m)) for m in (Mode.SOURCE, Mode.DESTINATION)]
    assert runtime.tunnels() == opened
    assert runtime.tunnel("press-4-source") is opened[0]
    with pytest.raises(KeyError):
        runtime.tunnel("nobody")


def test_a_name_can_be_taken_once_and_is_free_after_the_close(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    config = configure(Mode.SOURCE)
    first = runtime.open_tunnel(config)
    with pytest.raises(ConfigError, match="press-4-source"):
        runtime.open_tunnel(config)
    assert runtime.tunnels() == [first]
    runtime.close_tunnel(config.name)
    assert runtime.tunnels() == []
    assert runtime.open_tunnel(configure(Mode.SOURCE)) is not first


@pytest.mark.parametrize(
    "act",
    [
        lambda runtime: runtime.close_tunnel("nobody"),
        lambda runtime: runtime.drain_tunnel("nobody"),
        lambda runtime: runtime.replace_token("nobody", "token"),
    ],
)
def test_an_unknown_name_is_a_key_error(
    runtime: TunnelRuntime, act: Callable[[TunnelRuntime], None]
) -> None:
    with pytest.raises(KeyError):
        act(runtime)


def test_a_handle_shows_no_token(runtime: TunnelRuntime, configure: Configure) -> None:
    tunnel = runtime.open_tunnel(configure(Mode.SOURCE, access_token="visible-token"))
    assert "visible-token" not in f"{tunnel!r} {tunnel.status()!r} {tunnel.config!r}"


# -- closing and draining


def test_a_closed_tunnel_says_how_it_ended(runtime: TunnelRuntime, configure: Configure) -> None:
    source = open_pair(runtime, configure)
    round_trip(source)
    address = source.listening["SSH"]
    assert isinstance(address, TcpAddress)
    status = runtime.close_tunnel(source.name)
    assert status.state is TunnelState.STOPPED
    assert status.sent_bytes == len(PAYLOAD)
    assert status.listening == {}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))


def test_a_drained_tunnel_finishes_what_runs(runtime: TunnelRuntime, configure: Configure) -> None:
    source = open_pair(runtime, configure)
    address = source.wait_listening("SSH", WAIT_SECONDS)
    assert isinstance(address, TcpAddress)
    with socket.create_connection((address.host, address.port), WAIT_SECONDS) as sock:
        sock.sendall(b"before")
        assert sock.recv(6) == b"before"
        runtime.drain_tunnel(source.name)
        source.wait_for(TunnelState.DRAINING, WAIT_SECONDS)
        sock.sendall(b"still")
        assert sock.recv(5) == b"still"
        with pytest.raises(ConnectionRefusedError):
            wait_until_refused(address)
    source.wait_for(TunnelState.STOPPED, WAIT_SECONDS)


def wait_until_refused(address: TcpAddress) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        socket.create_connection((address.host, address.port), WAIT_SECONDS).close()


# -- what people are told


def test_events_come_to_the_callback_in_order(configure: Configure) -> None:
    log = Log()
    with TunnelRuntime(on_event=log.add) as runtime:
        source = open_pair(runtime, configure)
        round_trip(source)
        runtime.close_tunnel(source.name)
        log.wait_for(
            lambda items: TunnelStateChanged(source.name, TunnelState.STOPPED, "stopped") in items
        )
    mine = [type(event) for event in log.items if event.tunnel == source.name]
    for type_ in (ServiceIdsReceived, ListenerOpened, StreamOpened):
        assert type_ in mine
    states = [e.state.value for e in log.items if isinstance(e, TunnelStateChanged)]
    assert "connected" in states
    source_states = [
        e.state.value
        for e in log.items
        if isinstance(e, TunnelStateChanged) and e.tunnel == source.name
    ]
    assert source_states == ["connected", "draining", "stopped"]


def test_a_callback_that_raises_stops_nothing(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()

    def fail(_event: TunnelEvent) -> None:
        called.set()
        raise RuntimeError("a bug of the user's")

    with TunnelRuntime(on_event=fail) as runtime:
        source = open_pair(runtime, configure)
        assert called.wait(WAIT_SECONDS)
        assert round_trip(source) == PAYLOAD
    assert "a bug of the user's" in caplog.text


def test_a_callback_may_look_at_the_runtime(configure: Configure) -> None:
    seen = Log()
    looked_at: TunnelRuntime

    def look(event: TunnelEvent) -> None:
        seen.add(looked_at.tunnel(event.tunnel).status().state)

    with TunnelRuntime(on_event=look) as looked_at:
        open_pair(looked_at, configure)
        seen.wait_for(lambda items: TunnelState.CONNECTED in items)


def test_an_actor_that_subscribed_gets_events(configure: Configure) -> None:
    with Dispatcher("host") as host, TunnelRuntime() as runtime:
        subscriber = Recorder.start(dispatcher=host)
        log: Log = subscriber.ask(lambda actor: actor.log)
        runtime.subscribe(subscriber)
        open_pair(runtime, configure)
        log.wait_for(lambda items: any(isinstance(event, ServiceIdsReceived) for event in items))
        runtime.unsubscribe(subscriber)


# -- waiting


def test_waiting_for_a_state_times_out_and_says_what_it_is_instead(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    tunnel = runtime.open_tunnel(refused_config(configure))
    tunnel.wait_for(TunnelState.REFUSED, WAIT_SECONDS)
    with pytest.raises(TimeoutError) as caught:
        tunnel.wait_for(TunnelState.CONNECTED, 0.05)
    text = str(caught.value)
    assert "press-4-source" in text
    assert "is refused" in text
    assert "Invalid access token" in text
    assert "not-the-token" not in text


def test_waiting_for_one_of_several_states(runtime: TunnelRuntime, configure: Configure) -> None:
    tunnel = runtime.open_tunnel(refused_config(configure))
    states = {TunnelState.CONNECTED, TunnelState.REFUSED}
    assert tunnel.wait_for(states, WAIT_SECONDS).state is TunnelState.REFUSED


def test_waiting_for_a_service_that_is_not_there_times_out(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    source = open_pair(runtime, configure)
    with pytest.raises(TimeoutError, match="'HTTP'"):
        source.wait_listening("HTTP", 0.05)


def test_a_service_on_a_port_that_is_taken_says_why(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = TcpAddress("127.0.0.1", other.getsockname()[1])
        source = runtime.open_tunnel(configure(Mode.SOURCE, services={"SSH": address}))
        source.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        with pytest.raises(TimeoutError, match=str(address)):
            source.wait_listening("SSH", 0.1)


# -- failures


def test_a_refused_tunnel_says_why_and_takes_a_new_token(
    runtime: TunnelRuntime, configure: Configure, service: TunnelService
) -> None:
    tunnel = runtime.open_tunnel(refused_config(configure))
    status = tunnel.wait_for(TunnelState.REFUSED, WAIT_SECONDS)
    assert "Invalid access token" in status.reason
    assert status.connect_failures == 1
    runtime.replace_token(tunnel.name, service.tokens("press-4").source_token)
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)


def test_a_malformed_token_is_refused_at_once_and_changes_nothing(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    tunnel = runtime.open_tunnel(configure(Mode.SOURCE))
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    with pytest.raises(ConfigError):
        runtime.replace_token(tunnel.name, "with space")
    with pytest.raises(ConfigError):
        runtime.replace_token(tunnel.name, "token", "short")
    assert tunnel.status().state is TunnelState.CONNECTED


def test_a_dropped_connection_comes_back_with_the_same_tokens(
    runtime: TunnelRuntime, configure: Configure, service: TunnelService
) -> None:
    source = open_pair(runtime, configure)
    address = source.wait_listening("SSH", WAIT_SECONDS)
    service.drop("press-4")
    for tunnel in runtime.tunnels():
        runtime.wait_until(lambda t=tunnel: t.status().reconnects == 1, WAIT_SECONDS)
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    assert source.listening["SSH"] == address
    assert round_trip(source) == PAYLOAD


def test_a_service_that_is_not_there_yet_is_waited_for(
    runtime: TunnelRuntime, configure: Configure, service: TunnelService
) -> None:
    config = configure(Mode.SOURCE)
    service.kill()
    tunnel = runtime.open_tunnel(config)
    assert "refused" in tunnel.wait_for(TunnelState.BACKOFF, WAIT_SECONDS).reason
    service.start()
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)


def test_commands_reach_a_tunnel_whose_supervisor_was_restarted(
    runtime: TunnelRuntime, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.supervisor.TUNNEL_BACKOFF", QUICK.backoff)
    tunnel = runtime.open_tunnel(configure(Mode.SOURCE))
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    former = tunnel._supervisor
    assert former is not None
    kill(former)
    eventually(lambda: tunnel._supervisor != former)
    runtime.wait_until(lambda: tunnel.status().connect_attempts == 2, WAIT_SECONDS)
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    runtime.drain_tunnel(tunnel.name)
    tunnel.wait_for(TunnelState.STOPPED, WAIT_SECONDS)


def test_an_endpoint_may_be_text(configure: Configure) -> None:
    config = configure(Mode.SOURCE, endpoint="wss://localhost:8443")
    assert config.endpoint == Endpoint("wss", "localhost", 8443)


def test_tls_without_a_context_trusts_the_system(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    """The certificate of the embedded service is its own: it is refused, and it says why."""
    with TunnelService(tls=True) as secure:
        tunnel = runtime.open_tunnel(configure(Mode.SOURCE, endpoint=secure.endpoint))
        status = tunnel.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
        assert "certificate" in status.reason.lower()


def test_a_context_of_the_runtime_serves_its_tunnels(
    echo: TcpAddress,
) -> None:
    with (
        TunnelService(tls=True) as secure,
        TunnelRuntime(ssl_context=secure.ssl_context()) as runtime,
    ):
        tokens = secure.open_tunnel("press-4", ["SSH"])
        tunnel = runtime.open_tunnel(
            TunnelConfig(
                name="press-4",
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(secure.endpoint),
                access_token=tokens.destination_token,
                services={"SSH": echo},
            )
        )
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)


def test_an_actor_opens_and_closes_tunnels_without_waiting(
    runtime: TunnelRuntime, configure: Configure
) -> None:
    tunnel = runtime.open_tunnel(configure(Mode.SOURCE))
    with Dispatcher("host") as host:
        actor = Recorder.start(dispatcher=host)
        opened = actor.ask(lambda _actor: runtime.open_tunnel(configure(Mode.DESTINATION)))
        opened.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        future = actor.ask(lambda _actor: runtime.begin_close(tunnel.name))
        assert future.result(WAIT_SECONDS).state is TunnelState.STOPPED
