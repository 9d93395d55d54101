"""SecureTunnel: its life, its own runtime, mixed use, and what is wrong to do."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.backends import Backends
from tests.support.client_bench import LIMITS, ClientBench, Transcript
from tests.support.rig import CONNECTS_PER_SECOND, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually, measured
from tunnelfleet.runtime import (
    ConnectionStarted,
    Message,
    MessageReceived,
    MessageType,
    SecureTunnel,
    SecureTunnelBuilder,
    SendMessageComplete,
    StreamStarted,
    StreamStopped,
    TcpAddress,
    TunnelClosed,
    TunnelConfig,
    TunnelError,
    TunnelRuntime,
    TunnelState,
)
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def backends() -> Iterator[Backends]:
    with Backends() as running:
        yield running


class TestItsOwnRuntime:
    @pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
    def test_a_client_needs_nothing_else(self, tls: bool) -> None:
        heard = Transcript()
        before = set(threading.enumerate())
        with TunnelService(tls=tls) as service:
            tokens = service.open_tunnel("t", ["SSH"])
            builder = SecureTunnelBuilder(tokens.source_token, "source", service.endpoint)
            if service.ca_path is not None:
                builder.with_root_ca(service.ca_path)
            with builder.with_on_stopped(heard).build() as tunnel:
                assert tunnel.wait_connected(WAIT_SECONDS) == ("SSH",)
                assert tunnel.status().state is TunnelState.CONNECTED
                assert "connected" in repr(tunnel)
            assert heard.names() == ["Stopped"]
            # Leaving it has ended its threads; only the one that ended them may still return.
            left = set(threading.enumerate()) - before
            assert all(t.name in ("tunnelfleet-stop", "tunnelfleet-service") for t in left)

    def test_a_wrong_authority_is_told(self, tmp_path: Any) -> None:
        with TunnelService() as service, TunnelService(state_dir=tmp_path) as other:
            tokens = service.open_tunnel("t", ["SSH"])
            assert other.ca_path is not None
            tunnel = SecureTunnel(
                tokens.source_token, "source", service.endpoint, root_ca=other.ca_path
            )
            with tunnel, pytest.raises(TimeoutError, match=r"(?i)certificate"):
                tunnel.wait_connected(0.5)


class TestLife:
    def test_start_twice(self, bench: ClientBench) -> None:
        pair = bench.pair()
        with pytest.raises(TunnelError, match="started already"):
            pair.source.start()
        assert pair.source.status().state is TunnelState.CONNECTED

    def test_what_needs_a_start_says_so(self, bench: ClientBench) -> None:
        source = bench.pair(start=False).source
        calls = (
            source.status,
            lambda: source.wait_connected(0),
            lambda: source.send_message(Message(b"x")),
            source.send_stream_start,
            lambda: source.replace_token("token"),
        )
        for call in calls:
            with pytest.raises(TunnelClosed, match=r"start\(\)"):
                call()  # type: ignore[operator]
        source.stop().result(0)
        assert "not started" in repr(source)

    def test_a_runtime_that_does_not_run(self, bench: ClientBench) -> None:
        runtime = TunnelRuntime(connect_rate_per_second=CONNECTS_PER_SECOND)
        source = bench.pair(start=False, source={"runtime": runtime}).source
        with pytest.raises(TunnelClosed, match=r"not running: call start\(\) first"):
            source.start()
        with runtime:
            assert source.start().result(WAIT_SECONDS) == ("SSH",)
        with pytest.raises(TunnelClosed, match="make a new TunnelRuntime"):
            source.start()

    def test_one_with_a_runtime_of_its_own_starts_again_and_has_a_new_one(
        self, bench: ClientBench
    ) -> None:
        source = bench.pair(start=False, source={"runtime": None}).source
        seen = []
        for _ in range(2):
            assert source.start().result(WAIT_SECONDS) == ("SSH",)
            assert source._run is not None
            seen.append(source._run.runtime)
            source.stop().result(WAIT_SECONDS)
        assert seen[0] is not seen[1]
        assert seen[0].dispatchers == seen[1].dispatchers == []

    def test_two_of_one_name(self, bench: ClientBench) -> None:
        first = bench.pair(name="a", source={"name": "same"}).source
        second = bench.pair(name="b", source={"name": "same"}, start=False).source
        with pytest.raises(TunnelError, match="same"):
            second.start()
        first.stop().result(WAIT_SECONDS)
        second.start().result(WAIT_SECONDS)

    def test_stop_and_start_in_callbacks(self, bench: ClientBench) -> None:
        again = threading.Event()
        stops: list[int] = []

        def on_received(tunnel: SecureTunnel, _event: MessageReceived) -> None:
            tunnel.stop()

        def on_stopped(tunnel: SecureTunnel, _event: object) -> None:
            stops.append(1)
            if len(stops) == 1:
                tunnel.start()
                again.set()

        pair = bench.pair(
            destination={"on_message_received": on_received, "on_stopped": on_stopped}
        )
        pair.source.send_stream_start().result(WAIT_SECONDS)
        pair.source.send_message(Message(b"stop")).result(WAIT_SECONDS)
        assert again.wait(WAIT_SECONDS)
        pair.destination.wait_connected(WAIT_SECONDS)
        pair.destination.stop().result(WAIT_SECONDS)
        assert len(stops) == 2

    def test_a_future_may_be_waited_for_in_a_callback(self, bench: ClientBench) -> None:
        outcome: list[Any] = []

        def reply(tunnel: SecureTunnel, event: MessageReceived) -> None:
            outcome.append(tunnel.send_message(event.message).result(WAIT_SECONDS))

        pair = bench.pair(destination={"on_message_received": reply})
        pair.source.send_stream_start().result(WAIT_SECONDS)
        pair.source.send_message(Message(b"x")).result(WAIT_SECONDS)
        pair.at_source.wait(MessageReceived)
        eventually(lambda: outcome == [None], "what the callback waited for")

    def test_a_done_callback_that_blocks_holds_up_no_other_tunnel(self, bench: ClientBench) -> None:
        release, entered = threading.Event(), threading.Event()
        pair, other = bench.pair(name="a"), bench.pair(name="b")

        def block(_future: object) -> None:
            entered.set()
            release.wait(3 * WAIT_SECONDS)

        pair.source.send_stream_start().add_done_callback(block)
        assert entered.wait(WAIT_SECONDS)
        other.source.send_stream_start().result(WAIT_SECONDS)
        other.at_destination.wait(StreamStarted)
        release.set()


class TestSending:
    def test_bytes_of_any_kind_and_length(self, bench: ClientBench) -> None:
        pair = bench.pair()
        pair.source.send_stream_start().result(WAIT_SECONDS)
        assert pair.source.send_bytes(bytes(200_000)).result(WAIT_SECONDS) == 4
        assert pair.source.send_bytes(b"").result(WAIT_SECONDS) == 0
        pair.source.send_message(Message(bytearray(b"abc"))).result(WAIT_SECONDS)  # type: ignore[arg-type]
        pair.source.send_message(Message(memoryview(b"def"))).result(WAIT_SECONDS)  # type: ignore[arg-type]
        received = pair.at_destination.wait(MessageReceived, 6)
        assert b"".join(e.message.payload for e in received) == bytes(200_000) + b"abcdef"
        with pytest.raises(TypeError):
            pair.source.send_message(Message("text"))  # type: ignore[arg-type]

    def test_a_batch_has_one_future_and_its_first_error(self, bench: ClientBench) -> None:
        pair = bench.pair()
        pair.source.send_stream_start().result(WAIT_SECONDS)
        batch = [Message(b"1"), Message(b"2", "X"), Message(b"3")]
        future = pair.source.send_messages(batch)
        assert "X" in str(future.exception(WAIT_SECONDS))
        received = pair.at_destination.wait(MessageReceived, 2)
        assert [e.message.payload for e in received] == [b"1", b"3"]
        assert pair.source.send_messages(iter(batch[:1])).result(WAIT_SECONDS) == 1

    def test_kinds_in_completions(self, bench: ClientBench) -> None:
        pair = bench.pair()
        pair.source.send_stream_start().result(WAIT_SECONDS)
        pair.source.send_connection_start().result(WAIT_SECONDS)
        pair.source.send_connection_reset("SSH", 2).result(WAIT_SECONDS)
        pair.source.send_stream_reset("SSH").result(WAIT_SECONDS)
        events = pair.at_source.wait(SendMessageComplete, 4)
        assert [event.message_type for event in events] == [
            MessageType.STREAM_START,
            MessageType.CONNECTION_START,
            MessageType.CONNECTION_RESET,
            MessageType.STREAM_RESET,
        ]

    def test_the_bandwidth_is_kept(self, bench: ClientBench) -> None:
        pair = bench.pair(source={"bandwidth": 200_000.0})
        pair.source.send_stream_start().result(WAIT_SECONDS)

        def send() -> float:
            started = time.monotonic()
            futures = [pair.source.send_message(Message(bytes(1_000))) for _ in range(200)]
            futures[-1].result(WAIT_SECONDS)
            return time.monotonic() - started

        assert 0.3 < measured(send, lambda seconds: seconds < 3.0) < 3.0


class TestMixedUse:
    def test_some_services_to_sockets_others_to_callbacks(
        self, bench: ClientBench, backends: Backends
    ) -> None:
        echo = backends.echo()
        pair = bench.pair(
            ["SSH", "CTRL"],
            source={"services": {"SSH": TcpAddress("127.0.0.1", 0)}},
            destination={"services": {"SSH": echo.address}},
        )
        tunnel = bench.runtime.tunnel(pair.source.name)
        address = tunnel.wait_listening("SSH", WAIT_SECONDS)
        assert isinstance(address, TcpAddress)
        assert list(tunnel.listening) == ["SSH"]
        with socket.create_connection((address.host, address.port), WAIT_SECONDS) as client:
            client.sendall(b"through a socket")
            assert receive_exactly(client, 16) == b"through a socket"
            pair.source.send_stream_start("CTRL").result(WAIT_SECONDS)
            pair.source.send_message(Message(b"through the API", "CTRL")).result(WAIT_SECONDS)
            (event,) = pair.at_destination.wait(MessageReceived)
            assert event.message == Message(b"through the API", "CTRL", 1)
            client.sendall(b"still")
            assert receive_exactly(client, 5) == b"still"
        # The callbacks hear of their own service alone.
        assert [e.service_id for e in pair.at_destination.of(StreamStarted)] == ["CTRL"]
        assert pair.at_destination.of(ConnectionStarted) == []

    def test_a_source_of_sockets_and_a_destination_of_callbacks(self, bench: ClientBench) -> None:
        """A device that answers by callback what people reach with any TCP program."""

        def echo(tunnel: SecureTunnel, event: MessageReceived) -> None:
            tunnel.send_message(event.message)

        tokens = bench.service.open_tunnel("t", ["HTTP"])
        heard = Transcript()
        device = bench.client(
            "destination",
            tokens.destination_token,
            **(heard.callbacks() | {"on_message_received": echo}),
        )
        gateway = bench.runtime.open_tunnel(
            TunnelConfig(
                name="gateway",
                mode=device.mode.SOURCE,
                endpoint=device.endpoint,
                access_token=tokens.source_token,
                services={"HTTP": TcpAddress("127.0.0.1", 0)},
                limits=LIMITS,
            )
        )
        with device:
            device.wait_connected(WAIT_SECONDS)
            address = gateway.wait_listening("HTTP", WAIT_SECONDS)
            gateway.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
            assert isinstance(address, TcpAddress)
            clients = [socket.create_connection((address.host, address.port), 5) for _ in range(3)]
            for number, client in enumerate(clients):
                client.sendall(bytes([number]) * 100_000)
            for number, client in enumerate(clients):
                assert receive_exactly(client, 100_000) == bytes([number]) * 100_000
                client.close()
            eventually(lambda: device.status().connections_active == 0)
        assert heard.names()[-2:] == ["ConnectionShutdown", "Stopped"]


def test_a_tunnel_actor_that_crashes_answers_everything(bench: ClientBench) -> None:
    pair = bench.pair()
    pair.source.send_stream_start().result(WAIT_SECONDS)
    outbox = pair.source._running().outbox
    futures = [pair.source.send_message(Message(bytes(1_000))) for _ in range(100)]
    outbox._tunnel.tell(_Poison())  # type: ignore[union-attr]
    for future in futures:
        future.exception(WAIT_SECONDS)
    pair.at_source.wait_until(
        lambda: pair.at_source.names().count("ConnectionSuccess") == 2, MessageReceived
    )
    names = [n for n in pair.at_source.names() if n != "SendMessageComplete"]
    assert names == [
        "ConnectionSuccess",
        "StreamStopped",
        "ConnectionShutdown",
        "ConnectionSuccess",
    ]
    (stopped,) = pair.at_source.wait(StreamStopped)
    assert stopped.error is not None, "what was cut is told as such"
    assert outbox.messages_in_flight == 0
    pair.source.send_stream_start().result(WAIT_SECONDS)


class _Poison:
    """A message that a TunnelActor fails of."""

    def __new__(cls) -> Any:
        from tunnelfleet.actors.tunnel.messages import Received

        return Received(1, None)  # type: ignore[arg-type]
