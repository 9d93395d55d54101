"""What the tests of a tunnel's actors share: fakes at the edges, and transcripts.

`TunnelRig` runs one TunnelActor with its real StreamActors between a fake WebSocketActor, a fake
supervisor, fake listeners and fake SocketActors, all on one dispatcher. A transcript says what
comes in and what must come out, in order and completely:

    << STREAM_START SSH 1/1        from the wire
    == SSH/1/1 opens               what a local socket sees
    :: SSH/1/1 reads hello         what a local application does
    >> DATA SSH 1/1 hello          to the wire

A message is written TYPE [SERVICE] STREAM[/CONNECTION] [PAYLOAD]; `-` is a service id left out, and
`<N>` a payload of N bytes.
"""

from __future__ import annotations

import itertools
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

from tests.actors.kernel.helpers import DEADLINE_SECONDS, Log
from tunnelfleet.actors import stream_actor, tunnel_actor
from tunnelfleet.actors.config import Limits, TcpAddress, TunnelConfig
from tunnelfleet.actors.connector import Connector
from tunnelfleet.actors.credentials import Credentials
from tunnelfleet.actors.events import TunnelEvent
from tunnelfleet.actors.kernel import (
    DispatchedActor,
    ExitReason,
    RestartChild,
    StartChild,
    StopChild,
    Terminated,
)
from tunnelfleet.actors.messages import (
    Abandon,
    Accepted,
    Attach,
    AttachTransport,
    BytesDelivered,
    BytesSent,
    ChildEnded,
    ChildStarted,
    ChildWaiting,
    CloseGracefully,
    ConnectionEstablished,
    Deliver,
    ListenerBound,
    LocalDataRead,
    LocalReadEnded,
    PauseReading,
    Received,
    RemoteEnded,
    ResumeReading,
    SetAccepting,
    SetLowWater,
    StopReadingLocal,
    Transmit,
    Written,
)
from tunnelfleet.actors.services import Services
from tunnelfleet.actors.stats import TunnelStats
from tunnelfleet.actors.tunnel_actor import TunnelActor, TunnelContext
from tunnelfleet.actors.websocket_actor import ConnectionLost
from tunnelfleet.proto import Endpoint, Message, MessageType, Mode, ProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from pykka import ActorRef

    from tunnelfleet.actors.config import Address
    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.messages import ConnectionKey

CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"
SSH_ADDRESS = TcpAddress("127.0.0.1", 22)
SHOWN_PAYLOAD_BYTES = 24


def settle(dispatcher: Dispatcher) -> None:
    """Return when every message that was sent so far, and what followed from it, is handled."""
    done = threading.Event()

    def look() -> None:
        if dispatcher.run_queue:
            dispatcher.loop.call_soon(look)
        else:
            done.set()

    dispatcher.call_soon(look)
    assert done.wait(DEADLINE_SECONDS), "the dispatcher never came to rest"


# -- messages as text


def to_text(message: Message) -> str:
    """Write a message as a transcript does."""
    name = MessageType(message.type).name
    if message.type is MessageType.SERVICE_IDS:
        return f"{name} {','.join(message.available_service_ids)}"
    if message.type is MessageType.SESSION_RESET:
        return name
    ids = str(message.stream_id) + (f"/{message.connection_id}" if message.connection_id else "")
    words = [name, message.service_id or "-", ids]
    return " ".join([*words, shown(message.payload)] if message.payload else words)


def shown(payload: bytes) -> str:
    """A short payload as it is, a long one by its length."""
    if len(payload) <= SHOWN_PAYLOAD_BYTES:
        return payload.decode("latin-1")
    return f"<{len(payload)}>"


def to_payload(text: str) -> bytes:
    size = re.fullmatch(r"<(\d+)>", text)
    return b"x" * int(size[1]) if size else text.encode("latin-1")


def to_message(text: str) -> Message:
    """Read a message of a transcript."""
    name, _, rest = text.partition(" ")
    type_ = MessageType[name]
    if type_ is MessageType.SERVICE_IDS:
        return Message(type_, available_service_ids=tuple(filter(None, rest.split(","))))
    if not rest:
        return Message(type_)
    service_id, _, rest = rest.partition(" ")
    ids, _, payload = rest.partition(" ")
    stream_id, _, connection_id = ids.partition("/")
    return Message(
        type_,
        int(stream_id),
        service_id="" if service_id == "-" else service_id,
        connection_id=int(connection_id or 0),
        payload=to_payload(payload),
    )


# -- actors


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


class FakeSocket(Recorder):
    """Stands for a SocketActor. A rig makes a subclass that knows it."""

    rig: TunnelRig

    def __init__(
        self,
        key: ConnectionKey,
        stream: ActorRef[Any],
        tunnel: ActorRef[Any],
        limits: Limits,
        connector: Connector,
        *,
        sock: socket.socket | None = None,
        address: Address | None = None,
        local_bind: str | None = None,
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
            self.say("is aborted" if message.abort else "sees the end")
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
        self.stream.tell(LocalDataRead(self.key.connection_id, data))

    def end(self, reason: str = "closed") -> None:
        self.stream.tell(LocalReadEnded(self.key.connection_id, reason))


class FakeWebSocket(Recorder):
    """Stands for a WebSocketActor: acknowledges what it is given unless the rig holds it."""

    def __init__(self, rig: TunnelRig, epoch: int) -> None:
        super().__init__(rig.wire)
        self.rig = rig
        self.epoch = epoch
        self.unwritten = 0

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Transmit):
            for item in message.messages:
                self.log.add(to_text(item))
            self.unwritten += len(message.messages)
            if self.rig.writes:
                self.write(self.unwritten)
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
        self,
        service_id: str,
        address: Address,
        tunnel: ActorRef[Any],
        limits: Limits,
        bound: dict[str, Address],
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


# -- the rig


def make_config(mode: Mode, **settings: Any) -> TunnelConfig:
    """A configuration of a tunnel that never leaves the test."""
    if mode is Mode.DESTINATION:
        settings.setdefault("services", {"SSH": SSH_ADDRESS, "HTTP": TcpAddress("127.0.0.1", 80)})
    elif "services" not in settings:
        settings["services"] = {"SSH": TcpAddress("127.0.0.1", 5555)}
    defaults = {"name": "press-4", "endpoint": Endpoint("ws", "127.0.0.1", 1), "access_token": "t"}
    return TunnelConfig(mode=mode, **(defaults | settings))


class TunnelRig:
    """One TunnelActor between fakes.

    Args:
        dispatcher: runs all of it.
        monkeypatch: puts the fakes in the place of the real actors.
        mode: of the tunnel.
        **settings: of its TunnelConfig.

    Attributes:
        takes: whether local applications take what they get at once.
        writes: whether the kernel of the WebSocket does.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        monkeypatch: pytest.MonkeyPatch,
        mode: Mode = Mode.DESTINATION,
        **settings: Any,
    ) -> None:
        monkeypatch.setattr(
            stream_actor, "SocketActor", type("RigSocket", (FakeSocket,), {"rig": self})
        )
        monkeypatch.setattr(
            tunnel_actor, "ListenerActor", type("RigListener", (FakeListener,), {"rig": self})
        )
        self.dispatcher = dispatcher
        self.takes = True
        self.writes = True
        self.wire, self.local, self.supervised, self.events = Log(), Log(), Log(), Log()
        self._seen = {"wire": 0, "local": 0}
        self.sockets: dict[str, FakeSocket] = {}
        self.listeners: dict[str, FakeListener] = {}
        self.low_water_bytes: list[int] = []
        self.kept: list[socket.socket] = []
        self.stats = TunnelStats()
        self.connector = Connector(1)
        self.services = Services()
        self.services.relay = Recorder.start(self.events, dispatcher=dispatcher)
        self.context = TunnelContext(
            config=make_config(mode, **settings),
            credentials=Credentials("t", CLIENT_TOKEN),
            stats=self.stats,
            connector=self.connector,
            services=self.services,
            bound={},
        )
        self._epochs = itertools.count(1)
        self.epoch = 0
        self.websocket: ActorRef[Any] | None = None
        self.tunnel = TunnelActor.start(self.context, dispatcher=dispatcher)
        self.transport = FakeTransport.start(self, dispatcher=dispatcher)
        self.tell(AttachTransport(self.transport))

    def close(self) -> None:
        self.connector.close()
        for sock in self.kept:
            sock.close()

    # what happens around the tunnel

    def tell(self, message: Any) -> None:
        """Send a message to the TunnelActor and wait until all is quiet."""
        self.tunnel.tell(message)
        self.settle()

    def settle(self) -> None:
        settle(self.dispatcher)

    def do(self, ref: ActorRef[Any], action: Callable[[Any], Any]) -> None:
        """Run `action(actor)` in a turn of an actor of the rig."""
        ref.ask(action, timeout=DEADLINE_SECONDS)
        self.settle()

    def attempt(self) -> int:
        """The supervisor starts a WebSocketActor; return its epoch."""
        self.epoch = next(self._epochs)
        self.websocket = FakeWebSocket.start(self, self.epoch, dispatcher=self.dispatcher)
        child = self.websocket
        self.do(self.transport, lambda transport: transport.adopt("websocket", child))
        return self.epoch

    def connect(self, services: str = "SSH,HTTP") -> None:
        """A connection comes up and the services are announced."""
        self.attempt()
        self.establish()
        self.receive(f"SERVICE_IDS {services}")

    def establish(self) -> None:
        assert self.websocket is not None
        self.tell(ConnectionEstablished(self.epoch, self.websocket, f"channel-{self.epoch}", 0.01))

    def receive(self, *texts: str, epoch: int | None = None) -> None:
        """Messages arrive together."""
        messages = [to_message(text) for text in texts]
        size_bytes = sum(len(message.payload) for message in messages)
        self.tell(Received(self.epoch if epoch is None else epoch, messages, size_bytes))

    def lose(self, label: str = "lost", text: str = "the connection broke") -> None:
        """The connection, or the attempt, fails, and the supervisor waits."""
        self.end_websocket(ExitReason.failed(ConnectionLost(label, text)))
        self.tell(ChildWaiting("websocket", 1.54))

    def end_websocket(self, reason: ExitReason) -> None:
        assert self.websocket is not None
        self.do(self.websocket, lambda actor: actor.exit(reason))

    def accept(self, service_id: str) -> socket.socket:
        """A local application connects; return its end."""
        ours, theirs = socket.socketpair()
        self.kept.append(theirs)
        self.tell(Accepted(service_id, ours))
        return theirs

    def app(self, label: str) -> FakeSocket:
        return self.sockets[label]

    def app_does(self, label: str, action: Callable[[FakeSocket], Any]) -> None:
        self.do(self.app(label).actor_ref, action)

    # what came out

    def sent(self) -> list[str]:
        """What went to the wire since the last look."""
        return self._news("wire", self.wire)

    def seen(self) -> list[str]:
        """What local sockets and listeners saw since the last look."""
        return self._news("local", self.local)

    def _news(self, name: str, log: Log) -> list[str]:
        self.settle()
        items = log.items
        start, self._seen[name] = self._seen[name], len(items)
        return items[start:]

    def event_names(self) -> list[str]:
        self.settle()
        return [type(event).__name__ for event in self.events.items]

    def events_of(self, type_: type[TunnelEvent]) -> list[Any]:
        self.settle()
        return [event for event in self.events.items if isinstance(event, type_)]

    # transcripts

    def play(self, transcript: str) -> None:
        """Play a transcript; fail where anything differs from it, or is not in it."""
        outputs = {">>": self.sent(), "==": self.seen()}
        assert outputs == {">>": [], "==": []}, "something came before the transcript began"
        for line in filter(None, map(str.strip, transcript.splitlines())):
            mark, _, text = line.partition(" ")
            outputs[">>"] += self.sent()
            outputs["=="] += self.seen()
            if mark in outputs:
                assert outputs[mark], f"nothing came where the transcript says: {line}"
                came = outputs[mark].pop(0)
                assert f"{mark} {came}" == line
                continue
            assert outputs == {">>": [], "==": []}, f"it came before: {line}"
            self._input(mark, text)
        outputs[">>"] += self.sent()
        outputs["=="] += self.seen()
        assert outputs == {">>": [], "==": []}, "it came after the end of the transcript"

    def _input(self, mark: str, text: str) -> None:
        if mark == "<<":
            self.receive(text)
            return
        assert mark == "::", f"what is {mark}?"
        who, verb, *rest = text.split(" ", 2)
        if verb == "reads":
            self.app_does(who, lambda app: app.read(to_payload(rest[0])))
        elif verb == "ends":
            self.app_does(who, lambda app: app.end())
        elif verb == "is" and rest == ["gone"]:
            self.app_does(who, lambda app: app.exit())
        elif verb == "takes":
            self.app_does(who, lambda app: app.take(int(rest[0])))
        elif verb == "accepts":
            self.accept("" if who == "-" else who)
        else:
            raise AssertionError(f"what is: {text}")


