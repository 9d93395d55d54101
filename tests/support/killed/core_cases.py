"""For each class of the core and each message that it handles: what makes it handle one.

Most messages come from what applications, services and operators do. What a timer or a shortage
would send after long is told to the actor at once, in the midst of traffic.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from tests.support.actors import Probe, crash
from tests.support.killed.core import GOODS, LIMITS, SERVICE_ID, Core
from tests.support.killed.killing import KilledError
from tests.support.rig import receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.events import EventRelay, Subscribe, TunnelEvent, Unsubscribe
from tunnelfleet.actors.kernel import (
    NORMAL,
    ChildReady,
    ChildSpec,
    CountChildren,
    DeleteChild,
    RestartChild,
    StartChild,
    StopChild,
    Terminated,
    WhichChildren,
    supervisor,
)
from tunnelfleet.actors.kernel.children import Child
from tunnelfleet.actors.local import applications, socket_actor
from tunnelfleet.actors.local.applications import ListenerActor, StreamActor
from tunnelfleet.actors.local.socket_actor import SocketActor
from tunnelfleet.actors.net.dial import DialStep
from tunnelfleet.actors.net.name_lookup import Resolved
from tunnelfleet.actors.transport import attempt, governor, websocket_actor
from tunnelfleet.actors.transport.connector import Connected, ConnectFailed
from tunnelfleet.actors.transport.governor import ConnectGovernor
from tunnelfleet.actors.transport.websocket_actor import WebSocketActor
from tunnelfleet.actors.tunnel import actor as tunnel_actor
from tunnelfleet.actors.tunnel import link, messages
from tunnelfleet.actors.tunnel.actor import TunnelActor
from tunnelfleet.actors.tunnel.supervisors import TransportSupervisor, TunnelSupervisor
from tunnelfleet.proto import ConnectionLost, TunnelError
from tunnelfleet.runtime import Mode
from tunnelfleet.runtime.supervisor import RuntimeSupervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykka import ActorRef

    from tunnelfleet.actors.kernel import DispatchedActor

SHARED = (EventRelay, ConnectGovernor, RuntimeSupervisor)


class Outcome(Enum):
    """How it goes on after the actor was killed."""

    RECOVERS = "recovers"
    """All is connected again, and carries."""
    REFUSED = "refused"
    """The tunnel is refused, as it was to be; a new token connects it."""
    DRAINS = "drains"
    """The tunnel drains, as it was told to, and is over when it is closed."""
    ENDS = "ends"
    """The tunnel ends, as it was told to."""


@dataclass(frozen=True)
class Case:
    """One class at one message.

    Attributes:
        actor: the class.
        message: the type of the message.
        do: makes it come; called with the core and this.
        mode: of the end that is meant, and of which an actor is killed, if it is not shared.
        outcome: what follows.
        others: classes that fail besides, since `do` makes them.
        opens: the tunnel is opened by `do`.
    """

    actor: type[DispatchedActor]
    message: type
    do: Callable[[Core, Case], object]
    mode: Mode = Mode.SOURCE
    outcome: Outcome = Outcome.RECOVERS
    others: tuple[str, ...] = ()
    opens: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.actor.__name__}-{self.message.__name__.strip('_')}"

    @property
    def is_shared(self) -> bool:
        """Whether all tunnels share the actor."""
        return self.actor in SHARED

    def label(self, core: Core) -> str | None:
        """Of the actor that is killed; None if it has none."""
        return None if self.is_shared else core.label(self.mode)


# -- what is done


def open_it(core: Core, _case: Case) -> None:
    core.open()


def open_again(core: Core, _case: Case) -> None:
    """Whoever opens it is told of the failure, and opens it again."""
    with contextlib.suppress(KilledError, TunnelError):
        core.open()
    eventually(lambda: core.runtime is not core.first_runtime and bool(core.runtime.dispatchers))
    for each in core.runtime.tunnels():
        core.runtime.close_tunnel(each.name)
    core.service.close_tunnel(core.name)
    core.open()


def talk(core: Core, _case: Case) -> None:
    core.try_to_talk()


def talk_little(core: Core, _case: Case) -> None:
    """So little that nobody is told that it has left."""
    core.try_to_talk(b"a few bytes")


def talk_and_stay(core: Core, _case: Case) -> None:
    """Send, and stay until the connection ends: news of what was sent may come late."""
    with contextlib.suppress(OSError), core.client() as sock:
        sock.sendall(GOODS)
        while sock.recv(len(GOODS)):
            pass


def talk_much(core: Core, _case: Case) -> None:
    """Until the reader is slow enough to hold up the link."""
    with contextlib.suppress(OSError), core.client() as sock:
        data = GOODS * 16
        sender = threading.Thread(target=_send_all, args=(sock, data), name="sender")
        sender.start()
        try:
            receive_exactly(sock, len(data))
        except AssertionError:
            pass
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            sender.join(WAIT_SECONDS)


def _send_all(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(data)


def drop(core: Core, case: Case) -> None:
    """The service breaks the link, beside a connection."""
    with connection(core):
        core.service.drop(core.name, case.mode)


@contextlib.contextmanager
def connection(core: Core) -> Iterator[socket.socket | None]:
    """An application that has been echoed, unless it is cut before, and whose end is to come."""
    with contextlib.ExitStack() as stack:
        sock = None
        with contextlib.suppress(OSError, AssertionError):
            sock = stack.enter_context(core.client())
            sock.sendall(b"before")
            assert receive_exactly(sock, 6) == b"before"
        yield sock


def cut_short(core: Core, _case: Case) -> None:
    """The application breaks off by a reset."""
    with connection(core) as sock:
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def refuse(core: Core, case: Case) -> None:
    """The service takes its token away."""
    core.tokens[core.name] = core.service.rotate(core.name, case.mode)


def replace_limits(core: Core, case: Case) -> None:
    core.runtime.replace_limits(core.label(case.mode), LIMITS)


def replace_token(core: Core, case: Case) -> None:
    tokens = core.tokens[core.name] = core.service.rotate(core.name, case.mode)
    token = tokens.source_token if case.mode is Mode.SOURCE else tokens.destination_token
    core.runtime.replace_token(core.label(case.mode), token)


def drain(core: Core, case: Case) -> None:
    core.runtime.drain_tunnel(core.label(case.mode))


def close(core: Core, case: Case) -> None:
    """Without a connection: it ends at once."""
    core.runtime.begin_close(core.label(case.mode))


def close_while_it_carries(core: Core, case: Case) -> None:
    with connection(core):
        core.runtime.begin_close(core.label(case.mode)).result(WAIT_SECONDS)


def hand_over(core: Core, _case: Case) -> None:
    """As a front door does: the socket is the tunnel's once it says so."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours:
        answer = core.end(Mode.SOURCE).hand_over(messages.HandOver(SERVICE_ID, theirs))
        try:
            answer.get(timeout=WAIT_SECONDS)
        except Exception:
            theirs.close()


def suspend(core: Core, _case: Case) -> None:
    core.runtime.suspend_connects("for a moment")
    core.runtime.resume_connects()


def wait_for_permit(core: Core, case: Case) -> None:
    """A link that is lost while nobody may connect, and the governor that it waits for ends."""
    core.runtime.suspend_connects("for a moment")
    core.service.drop(core.name, case.mode)
    eventually(lambda: core.runtime.connect_stats().waiting > 0, "one that waits")
    kill_other(core, ConnectGovernor, None)
    core.runtime.resume_connects()


def subscribe(core: Core, _case: Case) -> None:
    """An actor of the host asks for events, and does no more."""
    probe = Probe.start(dispatcher=core.dispatcher)
    core.runtime.subscribe(probe)
    core.runtime.unsubscribe(probe)
    probe.stop()


def crash_of(actor_class: type) -> Callable[[Core, Case], None]:
    """Another actor fails."""

    def do(core: Core, case: Case) -> None:
        kill_other(core, actor_class, case.label(core))

    return do


def crash_beside(core: Core, case: Case) -> None:
    """The supervisor of what carries the tunnel fails while it carries."""
    with connection(core):
        kill_other(core, TransportSupervisor, case.label(core))


def kill_other(core: Core, actor_class: type, label: str | None) -> None:
    found = refs(core, actor_class, label)
    assert found, f"no {actor_class.__name__} of {label}"
    crash(found[0])


def refs(core: Core, actor_class: type, label: str | None) -> list[ActorRef[Any]]:
    """The live actors of a class."""
    return [
        cell.ref
        for dispatcher in core.runtime.dispatchers
        for cell in list(dispatcher._cells)
        if cell.actor_class is actor_class and label in (None, cell.label)
    ]


def sent(make: Callable[[Core], Any]) -> Callable[[Core, Case], None]:
    """The message comes in the midst of traffic, as a timer or a shortage would send it."""

    def do(core: Core, case: Case) -> None:
        with connection(core):
            found = refs(core, case.actor, case.label(core))
            assert found, f"no {case.actor.__name__} while it carries"
            found[-1].tell(make(core))
            eventually(lambda: not found[-1].is_alive(), f"the end of {case.name}")

    return do


def asked(make: Callable[[], Any]) -> Callable[[Core, Case], None]:
    """The same, of a question: whoever asked is told of the failure."""

    def do(core: Core, case: Case) -> None:
        with connection(core):
            (found,) = refs(core, case.actor, case.label(core))
            with contextlib.suppress(Exception):
                found.ask(make(), timeout=WAIT_SECONDS)
                raise AssertionError("it answered")

    return do


# -- the table

DESTINATION = Mode.DESTINATION
STEP = DialStep(lambda: None, ())
SPEC = ChildSpec("more", lambda: Probe.start())
KEY = messages.ConnectionKey(SERVICE_ID, 1, 1, 1)


def _cases_of_a_supervisor(actor: type[DispatchedActor], natural: dict[type, Any]) -> list[Case]:
    """What each supervisor handles; `natural` are those that come by themselves."""
    make: dict[type, Callable[[Core, Case], None]] = {
        Terminated: sent(lambda core: Terminated(core.host, NORMAL)),
        supervisor._RestartDue: sent(lambda _: supervisor._RestartDue(Child(SPEC))),
        supervisor._GroupDue: sent(lambda _: supervisor._GroupDue()),
        supervisor._StopOverdue: sent(lambda _: supervisor._StopOverdue(Child(SPEC))),
        supervisor._StopNext: sent(lambda _: supervisor._StopNext()),
        ChildReady: sent(lambda core: ChildReady(core.host)),
        StartChild: asked(lambda: StartChild(SPEC)),
        StopChild: asked(lambda: StopChild("nobody")),
        RestartChild: asked(lambda: RestartChild("nobody")),
        DeleteChild: asked(lambda: DeleteChild("nobody")),
        WhichChildren: asked(WhichChildren),
        CountChildren: asked(CountChildren),
    }
    found = {message: {"do": do} for message, do in make.items()} | natural
    return [Case(actor, message, **given) for message, given in found.items()]


CASES = [
    # -- an application's socket
    Case(SocketActor, messages.Deliver, talk),
    Case(SocketActor, messages.BytesSent, talk_and_stay, DESTINATION),
    Case(SocketActor, DialStep, sent(lambda _: STEP)),
    Case(
        SocketActor, socket_actor._ConnectTimedOut, sent(lambda _: socket_actor._ConnectTimedOut())
    ),
    Case(SocketActor, messages.RemoteEnded, talk, DESTINATION),
    Case(SocketActor, messages.StopReadingLocal, close_while_it_carries, outcome=Outcome.ENDS),
    Case(SocketActor, socket_actor._LingerEnded, sent(lambda _: socket_actor._LingerEnded(0.0))),
    Case(SocketActor, socket_actor._CheckDelivered, sent(lambda _: socket_actor._CheckDelivered())),
    Case(SocketActor, socket_actor._CheckHungUp, sent(lambda _: socket_actor._CheckHungUp())),
    Case(SocketActor, Terminated, sent(lambda core: Terminated(core.host, NORMAL))),
    # -- a stream
    Case(StreamActor, messages.OpenLocal, talk),
    Case(StreamActor, messages.StopStream, drop, DESTINATION),
    Case(StreamActor, Terminated, talk, DESTINATION),
    # -- a listener
    Case(ListenerActor, messages.SetAccepting, drop),
    Case(ListenerActor, Resolved, sent(lambda _: Resolved((), ""))),
    Case(ListenerActor, applications._GraceEnded, sent(lambda _: applications._GraceEnded())),
    Case(ListenerActor, applications._RestEnded, sent(lambda _: applications._RestEnded())),
    # -- what all tunnels share
    Case(EventRelay, TunnelEvent, drop),
    Case(EventRelay, Subscribe, subscribe),
    Case(EventRelay, Unsubscribe, subscribe),
    Case(ConnectGovernor, messages.RequestPermit, drop),
    Case(ConnectGovernor, messages.ReleasePermit, drop),
    Case(ConnectGovernor, messages.GateChanged, suspend),
    Case(ConnectGovernor, messages.TryNow, sent(lambda _: messages.TryNow("x", "y"))),
    Case(ConnectGovernor, Terminated, sent(lambda core: Terminated(core.host, NORMAL))),
    Case(ConnectGovernor, governor._DecideAgain, sent(lambda _: governor._DecideAgain())),
    # -- a link
    Case(WebSocketActor, messages.PermitGranted, drop),
    Case(WebSocketActor, Connected, drop),
    Case(WebSocketActor, DialStep, sent(lambda _: STEP)),
    Case(WebSocketActor, Terminated, wait_for_permit, others=("ConnectGovernor",)),
    Case(WebSocketActor, ConnectFailed, refuse, outcome=Outcome.REFUSED),
    Case(
        WebSocketActor,
        messages.PermitCalledBack,
        sent(lambda _: messages.PermitCalledBack("suspended", "for a moment")),
    ),
    Case(
        WebSocketActor,
        attempt.AttemptTimedOut,
        sent(lambda _: attempt.AttemptTimedOut()),
    ),
    Case(WebSocketActor, messages.Transmit, talk),
    Case(WebSocketActor, messages.TransmitUntold, talk_little),
    Case(WebSocketActor, messages.TransmitPing, talk_much),
    Case(WebSocketActor, messages.PauseReading, talk_much),
    Case(WebSocketActor, messages.ResumeReading, talk_much),
    Case(WebSocketActor, websocket_actor._ReadMore, sent(lambda _: websocket_actor._ReadMore())),
    # It comes by itself, twenty times a second.
    Case(WebSocketActor, websocket_actor._KeepAliveDue, talk),
    Case(WebSocketActor, messages.SetLowWater, sent(lambda _: messages.SetLowWater(16_384))),
    Case(WebSocketActor, messages.CloseGracefully, close, outcome=Outcome.ENDS),
    Case(
        WebSocketActor,
        messages.Abandon,
        sent(lambda _: messages.Abandon("lost", ConnectionLost("lost", "it was told to"))),
    ),
    Case(
        WebSocketActor,
        websocket_actor._FarewellEnded,
        sent(lambda _: websocket_actor._FarewellEnded()),
    ),
    # -- the tunnel
    Case(TunnelActor, messages.LocalDataRead, talk),
    Case(TunnelActor, messages.Written, talk),
    Case(TunnelActor, messages.PongHeard, talk_much),
    Case(TunnelActor, messages.Received, talk),
    Case(TunnelActor, messages.BytesDelivered, talk, DESTINATION),
    Case(TunnelActor, messages.Attach, talk, DESTINATION),
    Case(TunnelActor, messages.LocalReadEnded, talk),
    Case(TunnelActor, messages.LocalClosed, cut_short),
    Case(TunnelActor, messages.Accepted, talk),
    Case(TunnelActor, messages.HandOver, hand_over),
    Case(TunnelActor, messages.OutboxFilled, sent(lambda _: messages.OutboxFilled())),
    Case(TunnelActor, messages.EndTold, sent(lambda _: messages.EndTold(KEY))),
    Case(TunnelActor, messages.EventsTaken, sent(lambda _: messages.EventsTaken())),
    Case(
        TunnelActor, messages.SocketsExhausted, sent(lambda _: messages.SocketsExhausted("accept"))
    ),
    Case(TunnelActor, messages.AttachTransport, open_it, opens=True),
    Case(TunnelActor, Terminated, crash_beside, others=("TransportSupervisor",)),
    Case(TunnelActor, messages.ListenerBound, open_it, opens=True),
    Case(
        TunnelActor,
        tunnel_actor.ListenerStopped,
        sent(lambda core: tunnel_actor.ListenerStopped(core.host, "nobody")),
    ),
    Case(TunnelActor, messages.ChildStarted, drop),
    Case(TunnelActor, messages.ChildEnded, drop, DESTINATION),
    Case(TunnelActor, messages.ChildWaiting, drop),
    Case(
        TunnelActor,
        messages.ChildQuarantined,
        sent(lambda _: messages.ChildQuarantined("websocket", NORMAL)),
    ),
    Case(TunnelActor, messages.ConnectionEstablished, drop),
    Case(TunnelActor, messages.ConnectionRefused, refuse, outcome=Outcome.REFUSED),
    Case(TunnelActor, messages.ReplaceLimits, replace_limits),
    Case(TunnelActor, messages.ReplaceToken, replace_token, DESTINATION),
    Case(TunnelActor, messages.Drain, drain, outcome=Outcome.DRAINS),
    Case(TunnelActor, messages.Quiesce, close_while_it_carries, outcome=Outcome.ENDS),
    Case(
        TunnelActor,
        tunnel_actor.AnnounceTimedOut,
        sent(lambda _: tunnel_actor.AnnounceTimedOut(1)),
    ),
    Case(TunnelActor, link.PumpAgain, sent(lambda _: link.PumpAgain())),
    Case(TunnelActor, link.CheckStalled, sent(lambda _: link.CheckStalled())),
    Case(TunnelActor, tunnel_actor.CheckHello, sent(lambda _: tunnel_actor.CheckHello())),
    Case(TunnelActor, messages.HalfCloseEnded, sent(lambda _: messages.HalfCloseEnded(KEY))),
    Case(
        TunnelActor,
        tunnel_actor.QuiesceTimedOut,
        sent(lambda _: tunnel_actor.QuiesceTimedOut()),
    ),
    # -- supervisors
    *_cases_of_a_supervisor(
        TransportSupervisor,
        {
            Terminated: {"do": drop},
            supervisor._RestartDue: {"do": drop},
            ChildReady: {"do": drop},
            StartChild: {"do": talk},
        },
    ),
    *_cases_of_a_supervisor(
        TunnelSupervisor,
        {
            Terminated: {"do": crash_of(TunnelActor), "others": ("TunnelActor",)},
            supervisor._GroupDue: {"do": crash_of(TunnelActor), "others": ("TunnelActor",)},
        },
    ),
    Case(TunnelSupervisor, messages.ReplaceToken, replace_token),
    Case(TunnelSupervisor, messages.ReplaceLimits, replace_limits),
    Case(TunnelSupervisor, messages.Drain, drain, outcome=Outcome.DRAINS),
    Case(TunnelSupervisor, messages.HandOver, hand_over),
    Case(TunnelSupervisor, messages.Quiesced, close, outcome=Outcome.ENDS),
    *_cases_of_a_supervisor(
        RuntimeSupervisor,
        {
            Terminated: {"do": crash_of(ConnectGovernor), "others": ("ConnectGovernor",)},
            supervisor._RestartDue: {"do": crash_of(EventRelay), "others": ("EventRelay",)},
            StopChild: {"do": close, "outcome": Outcome.ENDS},
            DeleteChild: {"do": close, "outcome": Outcome.ENDS},
            StartChild: {"do": open_again, "opens": True},
        },
    ),
]
CLASSES = (
    SocketActor,
    StreamActor,
    ListenerActor,
    EventRelay,
    ConnectGovernor,
    WebSocketActor,
    TunnelActor,
    TransportSupervisor,
    TunnelSupervisor,
    RuntimeSupervisor,
)
