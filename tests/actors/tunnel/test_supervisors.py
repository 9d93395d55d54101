"""The tree of one tunnel: what ends what, what comes back, and in which order all of it stops.

Only the WebSocketActor and the local sockets are fakes here.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
from pykka.messages import ProxyCall

from tests.support.actors import Log, crash, hold, settle
from tests.support.fakes import (
    CLIENT_TOKEN,
    FakeSocket,
    Recorder,
    make_config,
    start_watched,
    stream_maker,
)
from tests.support.sockets import free_port
from tests.support.transcripts import texts_of, to_message
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import Limits, NoListener
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import (
    Backoff,
    ChildReady,
    ChildState,
    DispatchedActor,
    ExitReason,
    WhichChildren,
    kill,
)
from tunnelfleet.actors.local.applications import StreamActor
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel import supervisors as tunnel_supervisor
from tunnelfleet.actors.tunnel.context import (
    Credentials,
    Services,
    TunnelContext,
    TunnelParts,
)
from tunnelfleet.actors.tunnel.messages import (
    Abandon,
    CloseGracefully,
    ConnectionEstablished,
    ConnectionRefused,
    Drain,
    HandOver,
    Received,
    ReplaceToken,
    Transmit,
    TransmitUntold,
    Written,
)
from tunnelfleet.actors.tunnel.supervisors import TunnelSupervisor
from tunnelfleet.proto import (
    ConnectionLost,
    HandshakeError,
    Mode,
    NotConnected,
    ServiceIdUnknown,
)
from tunnelfleet.runtime.tunnel import make_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import Dispatcher

QUICK = Backoff(min_seconds=0.01, max_seconds=0.02, stability_seconds=30.0)


class ConnectionStandIn(DispatchedActor):
    """A connection that comes up at once, or does as the tree is told."""

    tree: Tree

    def __init__(
        self,
        context: TunnelContext,
        tunnel: ActorRef[Any],
        supervisor: ActorRef[Any],
        epoch: int,
    ) -> None:
        super().__init__()
        self.context = context
        self.tunnel = tunnel
        self.supervisor = supervisor
        self.epoch = epoch

    def on_start(self) -> None:
        self.tree.connections.add(self)
        self.tree.log.add(f"connect {self.context.credentials.current()[0]}")
        if self.tree.refuses:
            error = HandshakeError("HTTP 403", status=403, channel_id=None, retryable=False)
            self.tunnel.tell(ConnectionRefused(self.epoch, error))
            self.exit()
        elif self.tree.connects:
            self.supervisor.tell(ChildReady(self.actor_ref))
            self.tunnel.tell(ConnectionEstablished(self.epoch, self.actor_ref, "c"))
            self.receive("SERVICE_IDS SSH")

    def receive(self, text: str) -> None:
        message = to_message(text)
        self.tunnel.tell(Received(self.epoch, [message]))

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        if isinstance(message, Transmit):
            for text in texts_of(message.messages):
                self.tree.log.add(text)
            self.tunnel.tell(Written(self.epoch, len(message.messages), False))
        elif isinstance(message, TransmitUntold):
            for text in texts_of([message.message]):
                self.tree.log.add(text)
        elif isinstance(message, CloseGracefully):
            self.tree.log.add("close")
            self.exit()
        elif isinstance(message, Abandon):
            self.lose(message.label)
        return None

    def lose(self, label: str = "lost") -> None:
        self.exit(ExitReason.failed(ConnectionLost(label, "the connection broke")))

    def on_stop(self) -> None:
        self.tree.log.add("connection ended")

    def on_failure(self, *_exc_info: Any) -> None:
        self.on_stop()


class Socket(FakeSocket):
    """A local socket that ends when it is told to, and says so."""

    def on_stop(self) -> None:
        super().on_stop()
        self.say("ended")


class Tree:
    """A TunnelSupervisor with its children, a fake connection and fake local sockets."""

    connects = True
    refuses = False
    takes = True

    def __init__(
        self,
        dispatcher: Dispatcher,
        monkeypatch: pytest.MonkeyPatch,
        mode: Mode = Mode.DESTINATION,
        **settings: Any,
    ) -> None:
        monkeypatch.setattr(tunnel_supervisor, "CRASH_BACKOFF", QUICK)
        self.dispatcher = dispatcher
        self.log = Log()
        self.local = self.log
        self.connections = Log()
        self.sockets: dict[str, FakeSocket] = {}
        self.stats = TunnelStats()
        self.connector = Connector(1)
        services = Services()
        services.governor = Recorder.start(dispatcher=dispatcher)
        limits = Limits(
            **({"stop_timeout_seconds": 0.2} | settings.pop("limits", {})), backoff=QUICK
        )
        self.context = TunnelContext(
            config=make_config(mode, limits=limits, **settings),
            credentials=Credentials("first", CLIENT_TOKEN),
            stats=self.stats,
            parts=self._parts(),
            services=services,
            bound={},
        )

    def _parts(self) -> TunnelParts:
        connections: Any = type("C", (ConnectionStandIn,), {"tree": self})
        sockets: Any = type("S", (Socket,), {"rig": self})
        return make_parts(self.connector)._replace(
            websocket=connections.start, stream=stream_maker(self.connector, sockets.start)
        )

    def start(self) -> Tree:
        self.ref, self.ended = start_watched(
            self.dispatcher, lambda: TunnelSupervisor.start(self.context)
        )
        self.settle()
        return self

    def close(self) -> None:
        if self.ref.is_alive():
            self.ref.stop(timeout=WAIT_SECONDS)
        self.connector.close()

    def replace_token(self, token: str) -> None:
        self.context.credentials.replace(token)
        self.ref.tell(ReplaceToken())

    def settle(self) -> None:
        settle(self.dispatcher)

    def wait(self, state: TunnelState) -> None:
        eventually(lambda: self.stats.state is state)

    @property
    def connection(self) -> ConnectionStandIn:
        return self.connections.wait(1)[-1]

    def on_connection(self, action: Callable[[ConnectionStandIn], Any]) -> None:
        self.connection.actor_ref.ask(action, timeout=WAIT_SECONDS)
        self.settle()

    def receive(self, *texts: str) -> None:
        for text in texts:
            self.on_connection(lambda connection, text=text: connection.receive(text))

    def child(self, supervisor: ActorRef[Any], child_id: str) -> ActorRef[Any]:
        infos = supervisor.ask(WhichChildren(), timeout=WAIT_SECONDS)
        ref: ActorRef[Any] = next(info.ref for info in infos if info.id == child_id)
        return ref

    @property
    def tunnel(self) -> ActorRef[Any]:
        return self.child(self.ref, "tunnel")

    @property
    def transport(self) -> ActorRef[Any]:
        return self.child(self.ref, "transport")

    def crash(self, ref: ActorRef[Any]) -> None:
        """Make an actor raise: it is asked for a method that it lacks."""
        future = ref.ask(ProxyCall(("no_such_method",), (), {}), block=False)
        with pytest.raises(AttributeError):
            future.get(timeout=WAIT_SECONDS)


@pytest.fixture
def tree(dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tree]]:
    made: list[Tree] = []

    def make(mode: Mode = Mode.DESTINATION, **settings: Any) -> Tree:
        made.append(Tree(dispatcher, monkeypatch, mode, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Crashes on purpose would fill the report."""
    caplog.set_level(logging.CRITICAL)


# -- the connection


def test_a_tunnel_connects(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.wait(TunnelState.CONNECTED)
    assert tunnel.log.items == ["connect first"]


def test_a_lost_connection_is_made_again_and_its_streams_end(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.receive("STREAM_START SSH 1/1")
    first = tunnel.connection
    tunnel.on_connection(lambda connection: connection.lose())
    tunnel.connections.wait(2)
    tunnel.wait(TunnelState.CONNECTED)
    assert tunnel.connection.epoch > first.epoch
    assert tunnel.log.items[:4] == [
        "connect first",
        "SSH/1/1 opens",
        "connection ended",
        "SSH/1/1 is aborted",
    ]
    assert tunnel.stats.reconnects == {"lost": 1}
    tunnel.receive("STREAM_START SSH 1/1")
    assert tunnel.log.items[-1] == "SSH/1/1' opens"


def test_a_crash_of_the_connection_is_a_lost_connection(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    actor = tunnel.tunnel
    tunnel.crash(tunnel.connection.actor_ref)
    tunnel.connections.wait(2)
    tunnel.wait(TunnelState.CONNECTED)
    assert tunnel.tunnel == actor, "TunnelActor lives on"
    assert tunnel.stats.reconnects == {"crashed": 1}


def test_a_connection_that_is_lost_often_goes_on_trying(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    for count in range(2, 10):
        tunnel.on_connection(lambda connection: connection.lose())
        tunnel.connections.wait(count)
    tunnel.wait(TunnelState.CONNECTED)
    assert tunnel.ref.is_alive()


def test_a_refused_tunnel_waits_for_a_token_and_connects_with_it(
    tree: Callable[..., Tree],
) -> None:
    tunnel = tree()
    tunnel.refuses = True
    tunnel.start()
    tunnel.wait(TunnelState.REFUSED)
    tunnel.refuses = False
    tunnel.replace_token("second")
    tunnel.wait(TunnelState.CONNECTED)
    assert tunnel.log.items == ["connect first", "connection ended", "connect second"]
    assert tunnel.context.credentials.current()[1] != CLIENT_TOKEN


def test_a_new_token_is_used_at_once_and_its_client_token_kept(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.wait(TunnelState.CONNECTED)
    tunnel.replace_token("second")
    tunnel.connections.wait(2)
    client_token = tunnel.context.credentials.current()[1]
    tunnel.on_connection(lambda connection: connection.lose())
    tunnel.connections.wait(3)
    assert tunnel.context.credentials.current() == ("second", client_token)
    assert [item for item in tunnel.log.items if item.startswith("connect ")] == [
        "connect first",
        "connect second",
        "connect second",
    ]


# -- crashes


def test_a_crash_of_the_tunnel_actor_takes_the_transport_down_and_up(
    tree: Callable[..., Tree],
) -> None:
    tunnel = tree().start()
    tunnel.receive("STREAM_START SSH 1/1")
    former = tunnel.tunnel, tunnel.transport
    tunnel.crash(tunnel.tunnel)
    tunnel.connections.wait(2)
    tunnel.wait(TunnelState.CONNECTED)
    assert former[0] != tunnel.tunnel
    assert former[1] != tunnel.transport
    assert not former[1].is_alive()
    assert "connection ended" in tunnel.log.items
    assert "SSH/1/1 ended" in tunnel.log.items
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 hello")
    assert tunnel.log.items[-2:] == ["SSH/1/1' opens", "SSH/1/1' gets hello"]


def test_a_stream_of_which_no_supervisor_has_heard_ends_with_its_tunnel(
    tree: Callable[..., Tree],
) -> None:
    """The TunnelActor starts it in the turn before the one in which all are killed."""
    tunnel = tree().start()
    tunnel.wait(TunnelState.CONNECTED)
    epoch, actor = tunnel.connection.epoch, tunnel.tunnel
    with hold(tunnel.dispatcher):
        actor.tell(Received(epoch, [to_message("STREAM_START SSH 1/1")]))
        crash(tunnel.ref)
    eventually(lambda: "SSH/1/1 ended" in tunnel.log.items, "the end of its socket")

    def streams() -> int:
        return [each.actor_class for each in list(tunnel.dispatcher._cells)].count(StreamActor)

    eventually(lambda: streams() == 0, "the end of the stream's actor")


def test_the_reason_of_a_crash_is_for_people(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.wait(TunnelState.CONNECTED)
    tunnel.connects = False
    tunnel.crash(tunnel.tunnel)
    eventually(lambda: len(tunnel.connections.items) == 2)
    assert tunnel.stats.state in (TunnelState.BACKOFF, TunnelState.CONNECTING)


def test_a_tunnel_actor_that_keeps_crashing_is_quarantined(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.wait(TunnelState.CONNECTED)
    seen = set()
    for _ in range(tunnel_supervisor.QUARANTINE_AFTER):
        eventually(lambda: tunnel.tunnel is not None and tunnel.tunnel.is_alive())
        ref = tunnel.tunnel
        assert ref not in seen
        seen.add(ref)
        tunnel.crash(ref)
    tunnel.settle()
    infos = tunnel.ref.ask(WhichChildren(), block=True, timeout=WAIT_SECONDS)
    assert infos[0].state in (ChildState.QUARANTINED, ChildState.RUNNING)
    assert tunnel.ref.is_alive()
    eventually(lambda: tunnel.stats.state is TunnelState.CONNECTED)


def test_a_token_that_comes_between_a_crash_and_the_restart_is_not_lost(
    tree: Callable[..., Tree], monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = tree()
    monkeypatch.setattr(
        tunnel_supervisor, "CRASH_BACKOFF", Backoff(min_seconds=0.2, max_seconds=0.2)
    )
    tunnel.start()
    tunnel.wait(TunnelState.CONNECTED)
    tunnel.crash(tunnel.tunnel)
    tunnel.replace_token("second")
    tunnel.connections.wait(2)
    assert tunnel.log.items[-1] == "connect second"


def test_a_socket_is_passed_on_to_the_tunnel_actor_if_there_is_one(
    tree: Callable[..., Tree], monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = tree(Mode.SOURCE, services={"SSH": NoListener()})
    monkeypatch.setattr(
        tunnel_supervisor, "CRASH_BACKOFF", Backoff(min_seconds=60.0, max_seconds=60.0)
    )
    tunnel.start()
    tunnel.wait(TunnelState.CONNECTED)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        message = HandOver("SSH", ours)
        assert tunnel.ref.ask(message, timeout=WAIT_SECONDS).service_id == "SSH"
        with pytest.raises(ServiceIdUnknown):
            tunnel.ref.ask(message._replace(service_id="FTP"), timeout=WAIT_SECONDS)
        tunnel.crash(tunnel.tunnel)
        with pytest.raises(NotConnected):
            tunnel.ref.ask(message, timeout=WAIT_SECONDS)


def test_a_drain_survives_a_crash(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.receive("STREAM_START SSH 1/1")
    tunnel.ref.tell(Drain())
    tunnel.wait(TunnelState.DRAINING)
    tunnel.crash(tunnel.tunnel)
    tunnel.wait(TunnelState.STOPPED)
    tunnel.settle()
    assert tunnel.stats.reason == "drained"
    assert tunnel.tunnel.is_alive(), "it does not crash again"


def test_a_drain_right_after_the_start_is_taken(tree: Callable[..., Tree]) -> None:
    tunnel = tree()
    ref, _ = start_watched(tunnel.dispatcher, lambda: start_and_drain(tunnel.context))
    tunnel.ref = ref
    tunnel.wait(TunnelState.STOPPED)
    tunnel.settle()
    assert tunnel.stats.reason == "drained"
    assert tunnel.tunnel.is_alive()


def start_and_drain(context: TunnelContext) -> ActorRef[Any]:
    ref = TunnelSupervisor.start(context)
    ref.tell(Drain())
    return ref


def test_a_killed_transport_comes_back(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.receive("STREAM_START SSH 1/1")
    kill(tunnel.transport)
    tunnel.connections.wait(2)
    tunnel.wait(TunnelState.CONNECTED)
    tunnel.settle()
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 hello")
    assert tunnel.log.items[-1].endswith("gets hello")


def test_a_crashed_stream_is_reset_and_the_tree_stays(tree: Callable[..., Tree]) -> None:
    tunnel = tree().start()
    tunnel.receive("STREAM_START SSH 1/1")
    stream = tunnel.sockets["SSH/1/1"].stream
    tunnel.crash(stream)
    tunnel.settle()
    assert "STREAM_RESET SSH 1/1" in tunnel.log.items
    assert len(tunnel.connections.items) == 1
    assert tunnel.stats.state is TunnelState.CONNECTED


# -- listeners


def test_a_crashed_listener_comes_back_on_its_port(tree: Callable[..., Tree]) -> None:
    tunnel = tree(Mode.SOURCE, services={"SSH": TcpAddress("127.0.0.1", 0)}).start()
    tunnel.wait(TunnelState.CONNECTED)
    eventually(lambda: "SSH" in tunnel.stats.listening)
    (former,) = tunnel.stats.listening["SSH"]
    ref = tunnel.child(tunnel.transport, "listener SSH")
    tunnel.crash(ref)
    eventually(lambda: tunnel.child(tunnel.transport, "listener SSH") not in (None, ref))
    eventually(lambda: "SSH" in tunnel.stats.listening)
    assert tunnel.stats.listening["SSH"] == (former,)
    host, _, port = former.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_SECONDS):
        tunnel.log.wait_for(lambda items: "STREAM_START* SSH 1/1" in items)


def test_a_port_that_is_taken_is_tried_again(tree: Callable[..., Tree]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        tunnel = tree(Mode.SOURCE, services={"SSH": TcpAddress("127.0.0.1", port)}).start()
        tunnel.wait(TunnelState.CONNECTED)
        eventually(lambda: "in use" in tunnel.stats.last_event)
    eventually(lambda: "SSH" in tunnel.stats.listening)
    assert tunnel.stats.state is TunnelState.CONNECTED


def test_listeners_survive_a_lost_connection(tree: Callable[..., Tree]) -> None:
    port = free_port()
    tunnel = tree(Mode.SOURCE, services={"SSH": TcpAddress("127.0.0.1", port)}).start()
    tunnel.wait(TunnelState.CONNECTED)
    ref = tunnel.child(tunnel.transport, "listener SSH")
    tunnel.on_connection(lambda connection: connection.lose())
    tunnel.connections.wait(2)
    assert tunnel.child(tunnel.transport, "listener SSH") == ref


# -- stopping


def test_a_stop_is_graceful_and_in_order(tree: Callable[..., Tree]) -> None:
    """What was read goes out, then the resets, then the CLOSE, then everything ends."""
    tunnel = tree(limits={"stop_timeout_seconds": 60.0}).start()
    tunnel.receive("STREAM_START SSH 1/1")
    app = tunnel.sockets["SSH/1/1"]
    app.actor_ref.ask(lambda actor: actor.read(b"last words"), timeout=WAIT_SECONDS)
    done = tunnel.ref.stop(block=False)
    tunnel.log.wait_for(lambda items: "SSH/1/1 stops reading" in items)
    assert not any(item == "close" for item in tunnel.log.items)
    app.actor_ref.ask(
        lambda actor: actor.end("tunnel stopped", is_orderly=False), timeout=WAIT_SECONDS
    )
    assert done.get(timeout=WAIT_SECONDS)
    items = tunnel.log.items
    order = [
        "DATA SSH 1/1 last words",
        "SSH/1/1 stops reading",
        "CONNECTION_RESET SSH 1/1",
        "close",
        "connection ended",
        "SSH/1/1 ended",
    ]
    assert [item for item in items if item in order] == order
    assert (tunnel.stats.state, tunnel.stats.reason) == (TunnelState.STOPPED, "stopped")
    assert str(tunnel.ended.wait(1)[0].reason) == "shutdown"


def test_a_stop_has_a_deadline(tree: Callable[..., Tree]) -> None:
    tunnel = tree(limits={"stop_timeout_seconds": 0.1}).start()
    tunnel.receive("STREAM_START SSH 1/1")
    assert tunnel.ref.stop(timeout=WAIT_SECONDS)
    assert "SSH/1/1 ended" in tunnel.log.items
    assert tunnel.stats.state is TunnelState.STOPPED


def test_a_tunnel_that_is_killed_while_it_stops_says_so(tree: Callable[..., Tree]) -> None:
    tunnel = tree(limits={"stop_timeout_seconds": 3600.0}).start()
    tunnel.takes = False
    tunnel.receive("STREAM_START SSH 1/1", "DATA SSH 1/1 unread")
    tunnel.ref.stop(block=False)
    tunnel.wait(TunnelState.DRAINING)
    kill(tunnel.ref)
    tunnel.wait(TunnelState.STOPPED)
    assert "by force" in tunnel.stats.reason


def test_a_tunnel_that_is_killed_otherwise_is_not_called_stopped(
    tree: Callable[..., Tree],
) -> None:
    tunnel = tree().start()
    tunnel.wait(TunnelState.CONNECTED)
    kill(tunnel.ref)
    tunnel.ended.wait()
    assert tunnel.stats.state is TunnelState.CONNECTED


def test_a_second_stop_joins_the_first(tree: Callable[..., Tree]) -> None:
    tunnel = tree(limits={"stop_timeout_seconds": 0.1}).start()
    tunnel.receive("STREAM_START SSH 1/1")
    futures = [tunnel.ref.stop(block=False) for _ in range(3)]
    assert [future.get(timeout=WAIT_SECONDS) for future in futures] == [True] * 3
    assert tunnel.log.items.count("connection ended") == 1


@pytest.mark.parametrize("when", ["connecting", "refused", "lost"])
def test_a_tunnel_without_a_connection_stops_at_once(tree: Callable[..., Tree], when: str) -> None:
    tunnel = tree()
    tunnel.connects = when == "lost"
    tunnel.refuses = when == "refused"
    tunnel.start()
    if when == "lost":
        tunnel.connects = False
        tunnel.on_connection(lambda connection: connection.lose())
    assert tunnel.ref.stop(timeout=WAIT_SECONDS)
    assert tunnel.stats.state is TunnelState.STOPPED


def test_a_crash_while_stopping_ends_the_stop(tree: Callable[..., Tree]) -> None:
    tunnel = tree(limits={"stop_timeout_seconds": 60.0}).start()
    tunnel.receive("STREAM_START SSH 1/1")
    done = tunnel.ref.stop(block=False)
    tunnel.log.wait_for(lambda items: "SSH/1/1 stops reading" in items)
    tunnel.crash(tunnel.tunnel)
    assert done.get(timeout=WAIT_SECONDS)
    assert len(tunnel.connections.items) == 1, "nothing connects again"
    assert tunnel.stats.state is TunnelState.STOPPED


def test_a_drained_tunnel_stops_when_the_last_connection_has_ended(
    tree: Callable[..., Tree],
) -> None:
    tunnel = tree().start()
    tunnel.receive("STREAM_START* SSH 1/1")
    tunnel.ref.tell(Drain())
    tunnel.wait(TunnelState.DRAINING)
    tunnel.receive("CONNECTION_RESET* SSH 1/1")
    app = tunnel.sockets["SSH/1/1"]
    app.actor_ref.ask(lambda actor: (actor.end(), actor.exit()), timeout=WAIT_SECONDS)
    tunnel.wait(TunnelState.STOPPED)
    tunnel.settle()
    assert "close" in tunnel.log.items
    assert len(tunnel.connections.items) == 1
    assert tunnel.ref.is_alive(), "it stays visible until it is closed"
