"""A runtime inside an actor application: child, watched, subscribed to, stopped with the rest."""

from __future__ import annotations

import queue
import threading
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.support.actors import crash
from tests.support.client_bench import ClientBench, Transcript
from tests.support.rig import CONNECTS_PER_SECOND, FAST_LIMITS
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import (
    ChildSpec,
    DispatchedActor,
    Dispatcher,
    Restart,
    RestartChild,
    SupervisorActor,
    Terminated,
    TerminationReporter,
    WhichChildren,
    kill,
)
from tunnelfleet.runtime import (
    ApiService,
    Backoff,
    ConfigError,
    ConnectionSuccess,
    Endpoint,
    Message,
    MessageReceived,
    Mode,
    SecureTunnel,
    ServiceIdsReceived,
    Stopped,
    TunnelClosed,
    TunnelConfig,
    TunnelError,
    TunnelEvent,
    TunnelRuntime,
    TunnelState,
    TunnelStateChanged,
)
from tunnelfleet.runtime.admin import AdminOptions, AdminServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime.service import TunnelService


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    with Dispatcher("host").start() as running:
        yield running


def make_runtime(**options: Any) -> TunnelRuntime:
    return TunnelRuntime(connect_rate_per_second=CONNECTS_PER_SECOND, **options)


def config(service: TunnelService, name: str, mode: Mode = Mode.SOURCE) -> TunnelConfig:
    tokens = service.open_tunnel(name, ["A"])
    token = tokens.source_token if mode is Mode.SOURCE else tokens.destination_token
    return TunnelConfig(
        name=name,
        mode=mode,
        endpoint=Endpoint.parse(service.endpoint),
        access_token=token,
        limits=FAST_LIMITS,
    )


class Inbox(pykka.ThreadingActor):
    """A host's actor that keeps what it gets."""

    def __init__(self, got: queue.Queue[Any]) -> None:
        super().__init__()
        self._got = got

    def on_receive(self, message: Any) -> Any:
        self._got.put(message)


class Worker(TerminationReporter, pykka.ThreadingActor):
    """A host's actor that does nothing, and fails when told to."""

    def on_receive(self, message: Any) -> Any:
        if message == "fail":
            raise ZeroDivisionError
        return "alive"


def collect(got: queue.Queue[Any], count: int) -> list[Any]:
    return [got.get(timeout=WAIT_SECONDS) for _ in range(count)]


def page(server: AdminServer, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path, timeout=WAIT_SECONDS) as answer:
        return bytes(answer.read())


class TestChildOfASupervisor:
    def start_host(
        self, dispatcher: Dispatcher, *specs: ChildSpec
    ) -> pykka.ActorRef[SupervisorActor]:
        return SupervisorActor.start(list(specs), dispatcher=dispatcher, register=True)

    def test_it_starts_runs_and_stops_with_its_host(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        runtime = make_runtime()
        worker = ChildSpec(id="worker", start=Worker.start)
        host = self.start_host(dispatcher, worker, runtime.child_spec())
        eventually(lambda: len(host.ask(WhichChildren(), block=True)) == 2)
        tunnel = runtime.open_tunnel(config(service, "one"))
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        assert [info.id for info in host.ask(WhichChildren(), block=True)] == [
            "worker",
            "tunnelfleet",
        ]
        assert threading.active_count() <= 16
        host.stop(timeout=WAIT_SECONDS)
        assert tunnel.stats.state is TunnelState.STOPPED
        with pytest.raises(TunnelClosed):
            runtime.open_tunnel(tunnel.config)
        eventually(lambda: not any("tunnelfleet-0" in t.name for t in threading.enumerate()))

    def test_stop_all_stops_it_in_order(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        runtime = make_runtime()
        host = self.start_host(dispatcher, runtime.child_spec())
        eventually(lambda: len(host.ask(WhichChildren(), block=True)) == 1)
        tokens = service.open_tunnel("t", ["A"])
        heard = Transcript()
        client = SecureTunnel(
            tokens.source_token, "source", service.endpoint, runtime=runtime, **heard.callbacks()
        )
        client.start().result(WAIT_SECONDS)
        assert pykka.ActorRegistry.stop_all(timeout=WAIT_SECONDS) == [True]
        heard.wait(Stopped)
        assert heard.names() == ["ConnectionSuccess", "ConnectionShutdown", "Stopped"]
        client.stop().result(WAIT_SECONDS)

    def test_after_a_crash_it_comes_back_with_its_tunnels(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        runtime = make_runtime()
        worker = ChildSpec(id="worker", start=Worker.start)
        host = self.start_host(dispatcher, worker, runtime.child_spec())
        eventually(lambda: len(host.ask(WhichChildren(), block=True)) == 2)
        tokens = service.open_tunnel("api", ["A"])
        heard = Transcript()
        client = SecureTunnel(
            tokens.source_token,
            "source",
            service.endpoint,
            runtime=runtime,
            limits=FAST_LIMITS,
            **heard.callbacks(),
        )
        client.start().result(WAIT_SECONDS)
        tunnel = runtime.open_tunnel(config(service, "one"))
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        for connects in (2, 3):
            failed = runtime.present
            crash(failed.actor_ref)
            # They are the tunnels again, with tokens that only a client token makes usable again.
            heard.wait(ConnectionSuccess, connects)
            eventually(lambda: tunnel.stats.state is TunnelState.CONNECTED)
            assert runtime.present not in (failed, runtime)
            assert failed.present is runtime.present
            with pytest.raises(TunnelError, match="make a new TunnelRuntime"):
                failed.start()
        assert runtime.present.tunnels() == [runtime.present.tunnel(client.name), tunnel]
        assert client.status().state is TunnelState.CONNECTED
        assert "Stopped" not in heard.names()
        (worker_info, _runtime_info) = host.ask(WhichChildren(), block=True)
        assert worker_info.restarts == 0
        assert worker_info.ref is not None
        assert worker_info.ref.ask("are you there") == "alive"
        # What is opened and closed from here on is with the present one.
        with pytest.raises(TunnelClosed, match="present"):
            runtime.open_tunnel(config(service, "refused"))
        two = runtime.present.open_tunnel(config(service, "two"))
        two.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        client.stop().result(WAIT_SECONDS)
        heard.wait(Stopped)
        assert runtime.present.tunnels() == [tunnel, two]
        host.stop(timeout=WAIT_SECONDS)
        assert [each.stats.state for each in (tunnel, two)] == [TunnelState.STOPPED] * 2

    def test_options_subscribers_and_callbacks_go_over(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        got: queue.Queue[Any] = queue.Queue()
        heard: queue.Queue[Any] = queue.Queue()
        inbox = Inbox.start(got)
        runtime = make_runtime(dispatchers=2, on_event=heard.put)
        host = self.start_host(dispatcher, runtime.child_spec())
        eventually(lambda: len(runtime.dispatchers) == 2)
        runtime.subscribe(inbox, kinds=[ServiceIdsReceived])
        tunnel = runtime.open_tunnel(config(service, "one"))
        assert collect(got, 1)
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        kill(runtime.actor_ref)
        assert collect(got, 1)
        assert len(runtime.present.dispatchers) == 2
        while not isinstance(heard.get(timeout=WAIT_SECONDS), ServiceIdsReceived):
            pass
        while not isinstance(heard.get(timeout=WAIT_SECONDS), ServiceIdsReceived):
            pass
        host.stop(timeout=WAIT_SECONDS)
        inbox.stop()

    def test_a_stop_after_a_failure_ends_the_tunnels_and_the_next_begins_with_none(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        runtime = make_runtime()
        spec = replace(runtime.child_spec(), backoff=Backoff(3_600.0, 3_600.0))
        host = self.start_host(dispatcher, spec)
        eventually(lambda: len(runtime.dispatchers) == 1)
        tokens = service.open_tunnel("api", ["A"])
        heard = Transcript()
        client = SecureTunnel(
            tokens.source_token, "source", service.endpoint, runtime=runtime, **heard.callbacks()
        )
        client.start().result(WAIT_SECONDS)
        kill(runtime.actor_ref)
        eventually(lambda: runtime.present is not runtime)
        assert [each.name for each in runtime.present.tunnels()] == [client.name]
        runtime.stop()
        heard.wait(Stopped)
        assert runtime.present.tunnels() == []
        host.ask(RestartChild("tunnelfleet"))
        runtime.present.open_tunnel(config(service, "two")).wait_for(
            TunnelState.CONNECTED, WAIT_SECONDS
        )
        host.stop(timeout=WAIT_SECONDS)

    def test_a_client_that_is_stopped_after_a_failure_does_not_come_back(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        runtime = make_runtime()
        spec = replace(runtime.child_spec(), backoff=Backoff(3_600.0, 3_600.0))
        host = self.start_host(dispatcher, spec)
        eventually(lambda: len(runtime.dispatchers) == 1)
        tunnel = runtime.open_tunnel(config(service, "one"))
        tokens = service.open_tunnel("api", ["A"])
        heard = Transcript()
        client = SecureTunnel(
            tokens.source_token, "source", service.endpoint, runtime=runtime, **heard.callbacks()
        )
        client.start().result(WAIT_SECONDS)
        kill(runtime.actor_ref)
        eventually(lambda: runtime.present is not runtime)
        client.stop().result(WAIT_SECONDS)
        host.ask(RestartChild("tunnelfleet"))
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        assert runtime.present.tunnels() == [tunnel]
        assert client.start().result(WAIT_SECONDS) == ("A",)
        host.stop(timeout=WAIT_SECONDS)

    def test_an_admin_server_goes_on_with_the_present_one(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        runtime = make_runtime(name="north")
        host = self.start_host(dispatcher, runtime.child_spec())
        eventually(lambda: len(runtime.dispatchers) == 1)
        tunnel = runtime.open_tunnel(config(service, "one"))
        with AdminServer(runtime, AdminOptions(port=0)) as server:
            for _ in range(2):
                tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
                assert b'"healthy": true' in page(server, "/healthz")
                assert b'"ready": true' in page(server, "/readyz")
                metrics = page(server, "/metrics").decode()
                assert metrics.count("\ntunnelfleet_messages_handled_total{") == 1
                failed = runtime.present
                kill(failed.actor_ref)
                eventually(lambda failed=failed: runtime.present is not failed)
        host.stop(timeout=WAIT_SECONDS)

    def test_the_failure_of_a_tunnel_stops_nobody(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        runtime = make_runtime()
        worker = ChildSpec(id="worker", start=Worker.start)
        host = self.start_host(dispatcher, worker, runtime.child_spec())
        eventually(lambda: len(host.ask(WhichChildren(), block=True)) == 2)
        tunnels = [runtime.open_tunnel(config(service, name)) for name in ("one", "two")]
        for tunnel in tunnels:
            tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        before = tunnels[0].status().channel_id
        kill(tunnels[0]._supervisor)  # type: ignore[arg-type]
        # It may be back before anybody looks: a new link has a new channel id.
        eventually(lambda: tunnels[0].status().channel_id not in ("", before))
        eventually(lambda: service.tunnels()[0].source_connected is True)
        assert tunnels[1].status().reconnects == 0
        assert [info.restarts for info in host.ask(WhichChildren(), block=True)] == [0, 0]
        host.stop(timeout=WAIT_SECONDS)

    def test_a_host_supervises_its_own_actors_with_ours(self, dispatcher: Dispatcher) -> None:
        spec = ChildSpec(id="worker", start=Worker.start, restart=Restart.PERMANENT)
        host = self.start_host(dispatcher, spec)
        (before,) = host.ask(WhichChildren(), block=True)
        before.ref.tell("fail")
        eventually(lambda: host.ask(WhichChildren(), block=True)[0].restarts == 1)
        (after,) = host.ask(WhichChildren(), block=True)
        assert after.ref.ask("are you there") == "alive"
        host.stop(timeout=WAIT_SECONDS)


class Owner(TerminationReporter, pykka.ThreadingActor):
    """A plain pykka actor of a host that has a runtime."""

    def __init__(self, runtime: TunnelRuntime, got: queue.Queue[Any]) -> None:
        super().__init__()
        self._runtime = runtime
        self._got = got

    def on_start(self) -> None:
        self._runtime.start()
        self.watch(self._runtime.actor_ref)
        self._runtime.subscribe(self.actor_ref, kinds=[TunnelStateChanged])

    def on_stop(self) -> None:
        self._runtime.stop()

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, TunnelConfig):
            return self._runtime.open_tunnel(message)
        self._got.put(message)
        return None


class TestChildOfAThreadingActor:
    def test_it_lives_as_long(self, service: TunnelService) -> None:
        runtime = make_runtime()
        got: queue.Queue[Any] = queue.Queue()
        owner = Owner.start(runtime, got)
        tunnel = owner.ask(config(service, "one"))
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        owner.stop(timeout=WAIT_SECONDS)
        assert tunnel.stats.state is TunnelState.STOPPED

    def test_stop_all_ends_both(self, service: TunnelService) -> None:
        runtime = make_runtime()
        got: queue.Queue[Any] = queue.Queue()
        owner = Owner.start(runtime, got)
        tunnel = owner.ask(config(service, "one"))
        tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        pykka.ActorRegistry.stop_all(timeout=WAIT_SECONDS)
        assert tunnel.stats.state is TunnelState.STOPPED
        assert not owner.is_alive()

    def test_its_end_is_told(self, service: TunnelService) -> None:
        runtime = make_runtime()
        got: queue.Queue[Any] = queue.Queue()
        owner = Owner.start(runtime, got)
        owner.ask(config(service, "one")).wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        ref = runtime.actor_ref
        crash(ref)
        while not isinstance(message := got.get(timeout=WAIT_SECONDS), Terminated):
            assert isinstance(message, TunnelStateChanged)
        assert message.ref == ref
        assert message.reason.is_failure
        owner.stop(timeout=WAIT_SECONDS)


class TestSubscribe:
    @pytest.mark.parametrize(
        ("tunnels", "kinds", "expected"),
        [
            (None, None, {"a", "b"}),
            (["a"], None, {"a"}),
            (None, [ServiceIdsReceived], {"a", "b"}),
            (["b"], [ServiceIdsReceived], {"b"}),
            ([], None, set()),
        ],
    )
    def test_it_gets_what_it_asked_for(
        self,
        service: TunnelService,
        tunnels: list[str] | None,
        kinds: list[type[TunnelEvent]] | None,
        expected: set[str],
    ) -> None:
        got: queue.Queue[Any] = queue.Queue()
        everything: queue.Queue[Any] = queue.Queue()
        inbox, other = Inbox.start(got), Inbox.start(everything)
        with make_runtime() as runtime:
            runtime.subscribe(inbox, tunnels=tunnels, kinds=kinds)
            runtime.subscribe(other)
            for name in ("a", "b"):
                tunnel = runtime.open_tunnel(config(service, name))
                tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        inbox.stop()
        other.stop()
        assert {event.tunnel for event in everything.queue} == {"a", "b"}
        seen = list(got.queue)
        assert {event.tunnel for event in seen} == expected
        assert all(isinstance(event, tuple(kinds or [TunnelEvent])) for event in seen)

    def test_a_subscriber_that_ends_is_forgotten(self, service: TunnelService) -> None:
        inbox = Inbox.start(queue.Queue())
        with make_runtime() as runtime:
            runtime.subscribe(inbox)
            inbox.stop()
            tunnel = runtime.open_tunnel(config(service, "a"))
            tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)


class TestEventsToAnActor:
    def test_every_event_is_a_message_and_a_slow_actor_holds_back(self, bench: ClientBench) -> None:
        release = threading.Event()
        got: list[Any] = []

        class Slow(pykka.ThreadingActor):
            def on_receive(self, message: Any) -> Any:
                if isinstance(message, MessageReceived):
                    release.wait(WAIT_SECONDS)
                got.append(message)

        actor = Slow.start()
        pair = bench.pair(destination={"events_to": actor}, but=["on_send_message_complete"])
        pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
        numbers = [Message(number.to_bytes(4), "SSH", 1) for number in range(2_000)]
        pair.source.send_messages(numbers).result(WAIT_SECONDS)
        eventually(lambda: len(got) == 2)
        assert actor.actor_inbox.qsize() <= 65  # type: ignore[attr-defined]
        release.set()
        eventually(lambda: len(got) == 2_002)
        assert [e.message.payload for e in got[2:]] == [m.payload for m in numbers]
        assert {event.tunnel for event in got} == {pair.destination.name}
        pair.destination.stop().result(WAIT_SECONDS)
        eventually(lambda: isinstance(got[-1], Stopped))
        actor.stop()


class TestActorsOfAHost:
    def test_a_dispatched_actor_may_open_and_close(
        self, service: TunnelService, dispatcher: Dispatcher
    ) -> None:
        class Opener(DispatchedActor):
            def on_receive(self, message: Any) -> Any:
                if isinstance(message, TunnelConfig):
                    return runtime.open_tunnel(message)
                return runtime.begin_close(message)

        with make_runtime() as runtime:
            opener = Opener.start(dispatcher=dispatcher)
            tunnel = opener.ask(config(service, "one"))
            tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
            closed = opener.ask("one").result(WAIT_SECONDS)
            assert closed.state is TunnelState.STOPPED
            assert runtime.tunnels() == []
            opener.stop(timeout=WAIT_SECONDS)


class TestTwoRuntimes:
    def test_they_do_not_meet(self, service: TunnelService) -> None:
        seen: dict[str, list[TunnelEvent]] = {"left": [], "right": []}
        with (
            make_runtime(on_event=seen["left"].append) as left,
            make_runtime(on_event=seen["right"].append) as right,
        ):
            tokens = service.open_tunnel("shared name", ["A"])
            common = {"endpoint": service.endpoint, "limits": FAST_LIMITS, "name": "same"}
            source = left.open_tunnel(
                TunnelConfig(mode=Mode.SOURCE, access_token=tokens.source_token, **common)  # type: ignore[arg-type]
            )
            destination = right.open_tunnel(
                TunnelConfig(
                    mode=Mode.DESTINATION,
                    access_token=tokens.destination_token,
                    services={"A": _nowhere()},
                    **common,  # type: ignore[arg-type]
                )
            )
            for tunnel in (source, destination):
                tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
            assert left.tunnel("same") is source
            assert right.tunnel("same") is destination
            left.stop()
            assert destination.stats.state is TunnelState.CONNECTED
            assert right.stats().tunnels == 1
        assert seen["left"]
        assert seen["right"]
        assert seen["left"] != seen["right"]


def _nowhere() -> Any:
    from tunnelfleet.runtime import TcpAddress

    return TcpAddress("127.0.0.1", 9)


def test_a_service_for_callbacks_needs_a_client(service: TunnelService) -> None:
    tokens = service.open_tunnel("t", ["A"])
    wrong = TunnelConfig(
        name="t",
        mode=Mode.DESTINATION,
        endpoint=Endpoint.parse(service.endpoint),
        access_token=tokens.destination_token,
        services={"A": ApiService()},
    )
    with make_runtime() as runtime, pytest.raises(ConfigError, match="SecureTunnel"):
        runtime.open_tunnel(wrong)
