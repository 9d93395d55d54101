"""What stands for a tunnel in the gateway's process, with a worker that the test plays."""

from __future__ import annotations

import itertools
import queue
import socket
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.support.actors import settle
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.events import ConnectionClosed, ConnectionOpened, ListenerOpened
from tunnelfleet.actors.tunnel.messages import HandOver, HandOverLost
from tunnelfleet.proto import NotConnected, TunnelClosed, TunnelError
from tunnelfleet.runtime import (
    Endpoint,
    Limits,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelRuntime,
    TunnelState,
)
from tunnelfleet.runtime.gateway.workers import tunnel as remote
from tunnelfleet.runtime.gateway.workers.messages import (
    EXHAUSTED,
    Do,
    Is,
    Told,
    ToWorker,
    WorkerLost,
    WorkerUp,
    from_json,
    to_json,
)
from tunnelfleet.runtime.gateway.workers.sums import WorkerEntry
from tunnelfleet.runtime.gateway.workers.tunnel import RemoteTunnelActor
from tunnelfleet.runtime.supervisor import OwnProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.tunnel.context import TunnelContext
    from tunnelfleet.runtime import Tunnel

OLD, NEW = "a" * 60, "b" * 60
FACE = {
    "state": "connected",
    "reason": "",
    "since": 5.0,
    "last_event": "announced",
    "channel_id": "channel",
    "service_ids": ["SSH"],
    "listening": {"SSH": ["127.0.0.1:1022"]},
}
NOTHING: dict[str, Any] = {"plain": {}, "reasons": {}, "distributions": {}, "services": {}}


class Ears(pykka.ThreadingActor):
    """The actor of a worker, as far as a tunnel sees it."""

    def __init__(self, heard: queue.SimpleQueue[Any]) -> None:
        super().__init__()
        self._heard = heard

    def on_receive(self, message: Any) -> None:
        self._heard.put(message)


class PlayedWorker(OwnProcess):
    """A worker whose part the test plays; a home of tunnels."""

    def __init__(self) -> None:
        self.entry = WorkerEntry(0)
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ears = Ears.start(self._heard)
        self._serials = itertools.count(1)

    def start_tunnel(
        self, context: TunnelContext, dispatcher: Dispatcher
    ) -> pykka.ActorRef[RemoteTunnelActor]:
        serial = next(self._serials)
        return RemoteTunnelActor.start(
            context, self.entry, serial, "/ca.pem", dispatcher=dispatcher
        )

    def come_up(self) -> None:
        self.entry.ref = self._ears
        self.entry.tell_tunnels(WorkerUp(self._ears))

    def die(self) -> None:
        self.entry.ref = None
        self.entry.tell_tunnels(WorkerLost("worker 0 has ended"))

    def hear(self, do: Do) -> dict[str, Any]:
        """The next command, which has to be this one."""
        found: ToWorker = self._heard.get(timeout=WAIT_SECONDS)
        assert found.message["do"] == do
        return found.message

    @property
    def has_heard_nothing(self) -> bool:
        self._ears.ask("a mark", timeout=WAIT_SECONDS)
        return self._heard.get() == "a mark"

    def tell(self, kind: Is, serial: int = 1, **fields: Any) -> None:
        ref = self.entry.tunnels[serial]
        ref.tell(Told(kind, {"is": kind, "serial": serial, **fields}))

    def event(self, event: Any, face: dict[str, Any] | None = None) -> None:
        self.tell(Is.EVENT, event=to_json(event), face=face)

    def stop(self) -> None:
        self._ears.stop(timeout=WAIT_SECONDS)


@pytest.fixture
def worker() -> Iterator[PlayedWorker]:
    played = PlayedWorker()
    yield played
    played.stop()


@pytest.fixture
def runtime(worker: PlayedWorker) -> Iterator[TunnelRuntime]:
    running = TunnelRuntime(home=worker).start()
    yield running
    worker.die()
    running.stop()


@pytest.fixture
def tunnel(runtime: TunnelRuntime) -> Tunnel:
    return runtime.open_tunnel(
        TunnelConfig(
            name="press-4",
            mode=Mode.SOURCE,
            endpoint=Endpoint("ws", "127.0.0.1", 1),
            access_token=OLD,
            client_token="c" * 40,
            services={"SSH": TcpAddress("127.0.0.1", 0)},
        )
    )


@pytest.fixture
def connected(worker: PlayedWorker, tunnel: Tunnel) -> Tunnel:
    worker.come_up()
    worker.hear(Do.OPEN)
    worker.tell(Is.REPORT, numbers=NOTHING, face=FACE, live=[])
    # A report is no event that would end a wait.
    eventually(lambda: tunnel.stats.state is TunnelState.CONNECTED, "it is connected")
    return tunnel


def test_it_waits_for_its_worker_and_says_so(worker: PlayedWorker, tunnel: Tunnel) -> None:
    eventually(lambda: "worker" in tunnel.status().reason, "it says what it waits for")
    worker.come_up()
    told = worker.hear(Do.OPEN)
    config = from_json(told["config"])
    assert (config.name, config.access_token) == ("press-4", OLD)
    assert told["authorities"] == "/ca.pem"


def test_the_next_worker_is_told_what_has_changed_meanwhile(
    worker: PlayedWorker, runtime: TunnelRuntime, connected: Tunnel
) -> None:
    bound = TcpAddress("127.0.0.1", 1022)
    worker.event(ListenerOpened("press-4", "SSH", bound), FACE)
    eventually(lambda: connected.listening == {"SSH": bound}, "it listens")
    runtime.replace_token("press-4", NEW, "d" * 40)
    assert worker.hear(Do.TOKEN)["access_token"] == NEW
    runtime.replace_limits("press-4", Limits(max_connections=7))
    assert from_json(worker.hear(Do.LIMITS)["limits"]).max_connections == 7
    worker.die()
    status = connected.wait_for(TunnelState.CONNECTING, WAIT_SECONDS)
    assert (status.reason, connected.listening) == ("worker 0 has ended", {})
    worker.come_up()
    told = worker.hear(Do.OPEN)
    config = from_json(told["config"])
    assert (config.access_token, config.client_token) == (NEW, "d" * 40)
    assert config.limits.max_connections == 7
    assert from_json(told["bound"]) == {"SSH": bound}
    worker.tell(Is.REPORT, numbers=NOTHING, face=FACE, live=[])
    connected.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    assert connected.status().reconnects == 1


def test_a_tunnel_that_cannot_be_opened_says_why(worker: PlayedWorker, tunnel: Tunnel) -> None:
    worker.come_up()
    worker.hear(Do.OPEN)
    worker.tell(Is.FAILED, text="cannot read /ca.pem")
    status = tunnel.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
    assert status.reason == "it could not be opened: cannot read /ca.pem"


class TestClosing:
    def test_the_worker_ends_it_in_good_order(
        self, worker: PlayedWorker, runtime: TunnelRuntime, connected: Tunnel
    ) -> None:
        closed = runtime.begin_close(connected.name)
        worker.hear(Do.CLOSE)
        numbers = {**NOTHING, "plain": {"connect_attempts": 3}}
        face = {**FACE, "state": "stopped"}
        worker.tell(Is.CLOSED, numbers=numbers, face=face, live=[])
        status = closed.result(WAIT_SECONDS)
        assert (status.state, status.connect_attempts) == (TunnelState.STOPPED, 3)
        assert not worker.entry.tunnels

    @pytest.mark.parametrize("ends", ["dies", "fails"])
    def test_it_ends_although_the_worker_cannot(
        self, worker: PlayedWorker, runtime: TunnelRuntime, connected: Tunnel, ends: str
    ) -> None:
        closed = runtime.begin_close(connected.name)
        worker.hear(Do.CLOSE)
        if ends == "dies":
            worker.die()
        else:
            worker.tell(Is.FAILED, text="late")
        assert closed.result(WAIT_SECONDS).state is TunnelState.STOPPED

    def test_without_a_worker_a_drain_is_over_at_once(
        self, runtime: TunnelRuntime, tunnel: Tunnel
    ) -> None:
        runtime.drain_tunnel(tunnel.name)
        assert tunnel.wait_for(TunnelState.STOPPED, WAIT_SECONDS).reason == "drained"

    def test_what_drains_is_not_opened_once_more(
        self,
        worker: PlayedWorker,
        runtime: TunnelRuntime,
        tunnel: Tunnel,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(remote, "OPEN_AGAIN_SECONDS", 0.0)
        worker.come_up()
        worker.hear(Do.OPEN)
        runtime.drain_tunnel(tunnel.name)
        worker.hear(Do.DRAIN)
        worker.tell(Is.FAILED, text="cannot read /ca.pem")
        assert tunnel.wait_for(TunnelState.STOPPED, WAIT_SECONDS).reason == "drained"
        worker.entry.tunnels[1].tell(remote._OpenOnceMore())
        worker.come_up()
        runtime.replace_limits(tunnel.name, Limits(max_connections=7))
        settle(runtime._engine.dispatchers[tunnel.dispatcher_number])
        assert worker.has_heard_nothing
        assert tunnel.stats.state is TunnelState.STOPPED

    def test_a_drain_is_over_when_the_worker_dies(
        self, worker: PlayedWorker, runtime: TunnelRuntime, connected: Tunnel
    ) -> None:
        runtime.drain_tunnel(connected.name)
        worker.hear(Do.DRAIN)
        worker.die()
        connected.wait_for(TunnelState.STOPPED, WAIT_SECONDS)


class TestHandOver:
    def test_the_worker_has_the_socket_and_the_gateway_only_counts(
        self,
        worker: PlayedWorker,
        connected: Tunnel,
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        near, far = pair
        answer = connected.hand_over(HandOver("SSH", near, b"welcome", "peer", "alice"))
        told = worker.hear(Do.CARRY)
        assert (told["service_id"], told["peer"], told["user"]) == ("SSH", "peer", "alice")
        worker.event(ConnectionOpened("press-4", "SSH", 1, 1, 9, "peer", "alice", 4.0))
        worker.tell(Is.CARRIED, number=told["number"], connection=9)
        assert answer.get(timeout=WAIT_SECONDS) == 9
        # The test has played the worker and kept no copy: nobody has the socket any more.
        assert far.recv(1) == b""
        worker.tell(Is.REPORT, numbers=NOTHING, face=FACE, live=[[9, 10, 20]])
        eventually(lambda: connected.stats.connections[9].sent_bytes == 10, "its bytes are seen")
        worker.event(ConnectionClosed("press-4", "SSH", 1, 1, "closed", "peer", 9))
        eventually(lambda: not connected.stats.connections, "it is over")

    @pytest.mark.parametrize(
        ("told_error", "kind"),
        [
            (["NotConnected", ""], NotConnected),
            (["TunnelClosed", "full"], TunnelClosed),
            (["TunnelError", "failed"], TunnelError),
        ],
    )
    def test_what_the_worker_refuses_stays_the_askers(
        self,
        worker: PlayedWorker,
        connected: Tunnel,
        pair: tuple[socket.socket, socket.socket],
        told_error: list[str],
        kind: type[TunnelError],
    ) -> None:
        near, far = pair
        answer = connected.hand_over(HandOver("SSH", near))
        worker.tell(Is.CARRIED, number=worker.hear(Do.CARRY)["number"], error=told_error)
        with pytest.raises(kind) as caught:
            answer.get(timeout=WAIT_SECONDS)
        assert type(caught.value) is kind
        assert told_error[1] in str(caught.value)
        near.sendall(b"x")
        assert far.recv(1) == b"x"

    def test_a_socket_for_which_no_descriptor_is_left_counts_and_may_be_handed_over_again(
        self,
        worker: PlayedWorker,
        connected: Tunnel,
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        near, far = pair
        answer = connected.hand_over(HandOver("SSH", near))
        number = worker.hear(Do.CARRY)["number"]
        worker.tell(Is.CARRIED, number=number, error=[EXHAUSTED, "Too many open files"])
        with pytest.raises(NotConnected, match="Too many open files"):
            answer.get(timeout=WAIT_SECONDS)
        assert connected.stats.exhausted_operations == {"accept": 1}
        near.sendall(b"x")
        assert far.recv(1) == b"x", "it is the asker's"
        again = connected.hand_over(HandOver("SSH", near))
        worker.tell(Is.CARRIED, number=worker.hear(Do.CARRY)["number"], connection=9)
        assert again.get(timeout=WAIT_SECONDS) == 9

    def test_when_the_worker_dies_with_it_the_client_can_only_be_reset(
        self,
        worker: PlayedWorker,
        connected: Tunnel,
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        near, far = pair
        answer = connected.hand_over(HandOver("SSH", near))
        worker.hear(Do.CARRY)
        worker.die()
        with pytest.raises(HandOverLost, match="has ended"):
            answer.get(timeout=WAIT_SECONDS)
        near.sendall(b"x")
        assert far.recv(1) == b"x", "it is the asker's"
        with pytest.raises(NotConnected):
            connected.hand_over(HandOver("SSH", near)).get(timeout=WAIT_SECONDS)
