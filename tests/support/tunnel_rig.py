"""One TunnelActor with its real StreamActors between fakes, all on one dispatcher.

The fakes stand for the WebSocketActor, the supervisor, the listeners and the SocketActors.
"""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING, Any

import pytest
from pykka.messages import ProxyCall

from tests.support.actors import Log, settle
from tests.support.fakes import (
    CLIENT_TOKEN,
    FakeListener,
    FakeSocket,
    FakeTransport,
    FakeWebSocket,
    Recorder,
    make_config,
    stream_maker,
)
from tests.support.transcripts import to_message, to_payload
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.counters import TunnelStats
from tunnelfleet.actors.kernel import NORMAL, ExitReason
from tunnelfleet.actors.transport.connector import Connector
from tunnelfleet.actors.tunnel.actor import TunnelActor
from tunnelfleet.actors.tunnel.context import Credentials, Services, TunnelContext
from tunnelfleet.actors.tunnel.messages import (
    Accepted,
    AttachTransport,
    ChildWaiting,
    ConnectionEstablished,
    ConnectionRefused,
    Quiesce,
    Received,
)
from tunnelfleet.proto import ConnectionLost, DataBurst, HandshakeError, Mode
from tunnelfleet.runtime.tunnel import make_parts, with_api

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

    from tunnelfleet.actors.api.outbox import Outbox
    from tunnelfleet.actors.events import TunnelEvent
    from tunnelfleet.actors.kernel import Dispatcher
    from tunnelfleet.actors.tunnel.context import TunnelParts


class TunnelRig:
    """One TunnelActor between fakes.

    Args:
        dispatcher: runs all of it.
        mode: of the tunnel.
        port: of its client API, if it has one.
        **settings: of its TunnelConfig.

    Attributes:
        takes: whether local applications take what they get at once.
        writes: whether the kernel of the WebSocket does.
        answers_pings: whether the service does.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        mode: Mode = Mode.DESTINATION,
        *,
        port: Outbox | None = None,
        **settings: Any,
    ) -> None:
        self.dispatcher = dispatcher
        self.takes = True
        self.writes = True
        self.answers_pings = True
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
            parts=self._parts(port),
            services=self.services,
            bound={},
        )
        self._epochs = itertools.count(1)
        self.epoch = 0
        self.websocket: ActorRef[Any] | None = None
        self.tunnel = TunnelActor.start(self.context, dispatcher=dispatcher)
        self.transport = FakeTransport.start(self, dispatcher=dispatcher)
        self.tell(AttachTransport(self.transport))

    def _parts(self, port: Outbox | None) -> TunnelParts:
        sockets: Any = type("RigSocket", (FakeSocket,), {"rig": self})
        listeners: Any = type("RigListener", (FakeListener,), {"rig": self})
        parts = make_parts(self.connector)._replace(
            listener=listeners.start, stream=stream_maker(self.connector, sockets.start)
        )
        return parts if port is None else with_api(parts, port)

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
        ref.ask(action, timeout=WAIT_SECONDS)
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
        self.tell(ConnectionEstablished(self.epoch, self.websocket, f"channel-{self.epoch}"))

    def receive(self, *texts: str, epoch: int | None = None) -> None:
        """Messages arrive together."""
        messages = [to_message(text) for text in texts]
        self.tell(Received(self.epoch if epoch is None else epoch, messages))

    def receive_burst(self, text: str, *more: bytes) -> None:
        """A DATA arrives, and in one burst with it others of its connection."""
        self.tell(Received(self.epoch, [DataBurst(to_message(text), list(more))]))

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
        self.kept += [ours, theirs]
        self.tell(Accepted(service_id, ours))
        return theirs

    def app(self, label: str) -> FakeSocket:
        return self.sockets[label]

    def app_does(self, label: str, action: Callable[[FakeSocket], Any]) -> None:
        self.do(self.app(label).actor_ref, action)

    def refuse(self) -> None:
        """The service answers 403 to the present attempt."""
        error = HandshakeError("HTTP 403", status=403, channel_id=None, retryable=False)
        self.tell(ConnectionRefused(self.epoch, error))
        self.end_websocket(NORMAL)

    def write(self, messages: int = 1, *, blocked: bool = False) -> None:
        """The kernel of the WebSocket takes some messages."""
        assert self.websocket is not None
        self.do(self.websocket, lambda actor: actor.write(messages, blocked=blocked))

    def outlast(self, seconds: float) -> None:
        """Return when the timers of the next `seconds` have fired: one more fires after them."""
        recorder = Recorder.start(dispatcher=self.dispatcher)
        recorder.ask(lambda actor: actor.schedule(seconds, "over"))
        recorder.ask(lambda actor: actor.log).wait()
        self.settle()

    def crash(self, actor: ActorRef[Any]) -> None:
        """Make an actor raise in its next turn: it is asked for what it lacks."""
        future = actor.ask(ProxyCall(("no_such_method",), (), {}), block=False)
        with pytest.raises(AttributeError):
            future.get(timeout=WAIT_SECONDS)
        self.settle()

    def quiesce(self, timeout_seconds: float = 30.0) -> Log:
        """Ask the tunnel to end in good order; return the log of its answers."""
        asker = Recorder.start(dispatcher=self.dispatcher)
        answers: Log = asker.ask(lambda actor: actor.log)
        self.tell(Quiesce(asker, timeout_seconds))
        return answers

    @property
    def pings(self) -> list[int]:
        """The numbers of the pings that were sent over the present link."""
        assert self.websocket is not None
        found: Any = self.websocket.ask(lambda actor: list(actor.pings), timeout=WAIT_SECONDS)
        return list(found)

    @property
    def backlog_bytes(self) -> int:
        """What the tunnel believes its applications have not taken."""
        return int(self.tunnel.cell.actor._connections.backlog_bytes)

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
        elif verb == "breaks":
            self.app_does(who, lambda app: app.end("broke", is_orderly=False))
        elif verb == "is" and rest == ["gone"]:
            self.app_does(who, lambda app: app.exit())
        elif verb == "takes":
            self.app_does(who, lambda app: app.take(int(rest[0])))
        elif verb == "accepts":
            self.accept("" if who == "-" else who)
        else:
            raise AssertionError(f"what is: {text}")


def source_rig(make_rig: Callable[..., TunnelRig], **settings: Any) -> TunnelRig:
    """A connected source, whose listener accepts."""
    tunnel = make_rig(Mode.SOURCE, **settings)
    tunnel.connect()
    tunnel.seen()
    return tunnel
