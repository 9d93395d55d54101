"""Fakes for the edges of a tunnel's actors, and how to wait for a dispatcher without sleeping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.actors import Log
from tests.support.transcripts import shown, texts_of
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import Limits, TunnelConfig
from tunnelfleet.actors.kernel import (
    DeleteChild,
    DispatchedActor,
    RestartChild,
    StartChild,
    StopChild,
    Terminated,
)
from tunnelfleet.actors.local.applications import LocalEnd, StreamActor
from tunnelfleet.actors.tunnel.messages import (
    Abandon,
    Attach,
    BytesDelivered,
    BytesSent,
    ChildEnded,
    ChildStarted,
    CloseGracefully,
    Deliver,
    ListenerBound,
    LocalDataRead,
    LocalReadEnded,
    PauseReading,
    PongHeard,
    RemoteEnded,
    ResumeReading,
    SetAccepting,
    SetLowWater,
    StopReadingLocal,
    Transmit,
    TransmitPing,
    TransmitUntold,
    Written,
)
from tunnelfleet.proto import End, Endpoint, Mode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pykka import ActorRef

    from tests.support.tunnel_rig import TunnelRig
    from tunnelfleet.actors.addresses import Address
    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.net.dial import Lookups
    from tunnelfleet.actors.tunnel.messages import ConnectionKey

CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"
SSH_ADDRESS = TcpAddress("127.0.0.1", 22)
SEEN = {End.ORDERLY: "sees the end", End.BOTH: "is over", End.CUT: "is aborted"}
"""What a transcript says of a local socket that is told an end."""


class Recorder(DispatchedActor):
    """Logs what it gets; does what it is told by a function."""

    def __init__(self, log: Log | None = None) -> None:
        super().__init__()
        self.log = log or Log()

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.log.add(message)
        return None


def start_watched(dispatcher: Dispatcher, start: Callable[[], ActorRef[Any]]) -> tuple[Any, Log]:
    """Start an actor, watched from before its first turn; return it and the log of its end."""
    watcher = Recorder.start(dispatcher=dispatcher)

    def start_and_watch(actor: Recorder) -> ActorRef[Any]:
        ref = start()
        actor.watch(ref)
        return ref

    return watcher.ask(start_and_watch), watcher.ask(lambda actor: actor.log)


def stream_maker(
    lookups: Lookups, start_socket: Callable[..., ActorRef[Any]]
) -> Callable[..., ActorRef[Any]]:
    """Return what starts real StreamActors, whose sockets `start_socket` starts."""

    def start(
        tunnel: ActorRef[Any], address: Address | None, local_bind: str | None, limits: Limits
    ) -> ActorRef[Any]:
        return StreamActor.start(
            tunnel, LocalEnd(address, local_bind, limits, lookups), start_socket
        )

    return start


class FakeSocket(Recorder):
    """Stands for a SocketActor. A rig makes a subclass that knows it."""

    rig: TunnelRig

    def __init__(
        self,
        key: ConnectionKey,
        stream: ActorRef[Any],
        tunnel: ActorRef[Any],
        *_settings: Any,
        sock: socket.socket | None = None,
        address: Address | None = None,
        **_named: Any,
    ) -> None:
        super().__init__(self.rig.local)
        self.key = key
        self.stream = stream
        self.tunnel = tunnel
        self.sock = sock
        self.address = address
        self.label = f"{key.service_id or '-'}/{key.stream_id}/{key.connection_id}"
        self.credited_bytes = 0
        self.held_bytes = 0

    def on_start(self) -> None:
        while self.label in self.rig.sockets:
            self.label += "'"
        self.rig.sockets[self.label] = self
        self.watch(self.stream)
        self.tunnel.tell(Attach(self.key, self.actor_ref))
        self.say("opens")

    def say(self, what: str) -> None:
        self.log.add(f"{self.label} {what}")

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Deliver):
            self.say(f"gets {shown(message.data)}")
            self.held_bytes += len(message.data)
            if self.rig.takes:
                self.take(self.held_bytes)
        elif isinstance(message, BytesSent):
            self.credited_bytes += message.size_bytes
        elif isinstance(message, RemoteEnded):
            self.say(SEEN[message.end])
        elif isinstance(message, StopReadingLocal):
            self.say("stops reading")
        elif isinstance(message, Terminated):
            self.exit()
        else:
            return super().on_receive(message)
        return None

    def on_stop(self) -> None:
        if self.sock is not None:
            self.sock.close()

    def on_failure(self, *_exc_info: Any) -> None:
        self.on_stop()

    # what the local application does

    def take(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        self.tunnel.tell(BytesDelivered(self.key, size_bytes))

    def read(self, data: bytes) -> None:
        self.tunnel.tell(LocalDataRead(self.key, data))

    def end(self, reason: str = "closed", *, is_orderly: bool = True) -> None:
        self.tunnel.tell(LocalReadEnded(self.key, reason, is_orderly))


class FakeWebSocket(Recorder):
    """Stands for a WebSocketActor: acknowledges what it is given unless the rig holds it."""

    def __init__(self, rig: TunnelRig, epoch: int) -> None:
        super().__init__(rig.wire)
        self.rig = rig
        self.epoch = epoch
        self.unwritten = 0
        self.pings: list[int] = []

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Transmit):
            for text in texts_of(message.messages):
                self.log.add(text)
            self.unwritten += len(message.messages)
            if self.rig.writes:
                self.write(self.unwritten)
        elif isinstance(message, TransmitUntold):
            for text in texts_of([message.message]):
                self.log.add(text)
        elif isinstance(message, TransmitPing):
            self.pings.append(message.number)
            if self.rig.answers_pings:
                self.rig.tunnel.tell(PongHeard(self.epoch, message.number))
        elif isinstance(message, PauseReading):
            self.log.add("pause")
        elif isinstance(message, ResumeReading):
            self.log.add("resume")
        elif isinstance(message, CloseGracefully):
            self.log.add("close")
        elif isinstance(message, Abandon):
            self.log.add(f"abandon {message.label}")
        elif isinstance(message, SetLowWater):
            self.rig.low_water_bytes.append(message.size_bytes)
        else:
            return super().on_receive(message)
        return None

    def write(self, messages: int, *, blocked: bool = False) -> None:
        self.unwritten -= messages
        self.rig.tunnel.tell(Written(self.epoch, messages, blocked))


class FakeListener(Recorder):
    """Stands for a ListenerActor that is bound at once."""

    rig: TunnelRig

    def __init__(
        self, service_id: str, address: Address, tunnel: ActorRef[Any], *_settings: Any
    ) -> None:
        super().__init__(self.rig.local)
        self.service_id = service_id
        self.address = address
        self.tunnel = tunnel

    def on_start(self) -> None:
        self.rig.listeners[self.service_id] = self
        self.tunnel.tell(ListenerBound(self.service_id, self.actor_ref, self.address))

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, SetAccepting):
            does = "accepts" if message.accepting else "pauses"
            self.log.add(f"listener {self.service_id or '-'} {does}")
            return None
        return super().on_receive(message)


class FakeTransport(Recorder):
    """Stands for a TransportSupervisor: starts and stops children, reports their ends."""

    def __init__(self, rig: TunnelRig) -> None:
        super().__init__(rig.supervised)
        self.rig = rig
        self.children: dict[ActorRef[Any], str] = {}

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, StartChild):
            ref = message.spec.start()
            self.adopt(message.spec.id, ref)
        elif isinstance(message, StopChild):
            self.log.add(f"stop {message.id}")
            for ref, child_id in self.children.items():
                if child_id == message.id and child_id != "websocket":
                    ref.stop(block=False)
        elif isinstance(message, DeleteChild):
            self.log.add(f"delete {message.id}")
        elif isinstance(message, RestartChild):
            self.log.add(f"restart {message.id}")
        elif isinstance(message, Terminated):
            child_id = self.children.pop(message.ref)
            self.rig.tunnel.tell(ChildEnded(child_id, message.ref, message.reason))
        else:
            return super().on_receive(message)
        return None

    def adopt(self, child_id: str, ref: ActorRef[Any]) -> None:
        assert child_id not in self.children.values(), f"{child_id} is there already"
        self.children[ref] = child_id
        self.watch(ref)
        self.rig.tunnel.tell(ChildStarted(child_id, ref))


class FakeLane:
    """Stands for a queue of callbacks: they run when a test says so, on the thread of the test."""

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[[Any], object], Any]] = []
        self.is_full = False
        self.runs_here = False

    def put(self, event: Any, _payload_bytes: int = 0, *, may_drop: bool = False) -> None:
        self._calls.append((self._happened, event))

    def call(self, function: Callable[[Any], object], argument: Any) -> None:
        self._calls.append((function, argument))

    def when_room(self, _function: Callable[[], object]) -> bool:
        return False

    def run(self, callback: Callable[[Any], object] = lambda _event: None) -> list[Any]:
        """Call `callback` with each event that waits, and return these events."""
        self._callback = callback
        self._events: list[Any] = []
        calls, self._calls = self._calls, []
        for function, argument in calls:
            function(argument)
        return self._events

    def _happened(self, event: Any) -> None:
        self._events.append(event)
        self._callback(event)


def make_config(mode: Mode, **settings: Any) -> TunnelConfig:
    """A configuration of a tunnel that never leaves the test."""
    if mode is Mode.DESTINATION:
        settings.setdefault("services", {"SSH": SSH_ADDRESS, "HTTP": TcpAddress("127.0.0.1", 80)})
    elif "services" not in settings:
        settings["services"] = {"SSH": TcpAddress("127.0.0.1", 5555)}
    defaults: dict[str, Any] = {
        "name": "press-4",
        "endpoint": Endpoint("ws", "127.0.0.1", 1),
        "access_token": "t",
    }
    return TunnelConfig(mode=mode, **(defaults | settings))


class FakeRef:
    """Stands for an actor's ref: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, message: Any) -> None:
        self.told.append(message)
