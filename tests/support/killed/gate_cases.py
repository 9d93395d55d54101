"""For each class of a gateway and each message that it handles: what makes it handle one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.fleet import wanted
from tests.support.killed.gate import KEPT, LATER, Gate
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors import events
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
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.gateway import fleet_actor, listening
from tunnelfleet.runtime.gateway import messages as asks
from tunnelfleet.runtime.gateway import supervisor as placing
from tunnelfleet.runtime.gateway.door import search, visitor
from tunnelfleet.runtime.gateway.door.door import DoorActor
from tunnelfleet.runtime.gateway.door.fleet_view import Unopened
from tunnelfleet.runtime.gateway.door.hall import GiveWay
from tunnelfleet.runtime.gateway.door.visitor import VisitorActor
from tunnelfleet.runtime.gateway.fleet_actor import FleetActor
from tunnelfleet.runtime.gateway.placement import Assigned, FleetLeaves, Revoked, Vacated
from tunnelfleet.runtime.gateway.reconcile import Running
from tunnelfleet.runtime.gateway.reloading import Loaded
from tunnelfleet.runtime.gateway.store.store import StoreActor
from tunnelfleet.runtime.gateway.supervisor import GatewaySupervisor, PlacementActor
from tunnelfleet.runtime.gateway.tunnel_keeper import DrainTimedOut, OpenAgain, TunnelEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.actors.kernel import DispatchedActor


@dataclass(frozen=True)
class GateCase:
    """One class at one message.

    Attributes:
        actor: the class.
        message: the type of the message.
        do: makes it come.
        opens: the gateway is started by `do`.
        ends: it is the root: all ends.
        leaves: the fleet was asked to end, and is asked again.
    """

    actor: type[DispatchedActor]
    message: type
    do: Callable[[Gate, GateCase], object]
    opens: bool = False
    ends: bool = False
    leaves: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.actor.__name__}-{self.message.__name__.strip('_')}"


def start(gate: Gate, _case: GateCase) -> None:
    """The gateway starts, and is ready in the end."""
    gate.begin()
    gate.wait_ready()


def reload(gate: Gate, _case: GateCase) -> None:
    """Whoever asks for it is told of the failure."""
    with contextlib.suppress(TunnelError):
        gate.gateway.reload()


def add_and_remove(gate: Gate, _case: GateCase) -> None:
    """A tunnel that comes by the files, listens, and goes again."""
    gate.files.tunnels["more"] = gate.tunnel("more")
    eventually(gate._reloads, "a reload")
    eventually(lambda: "more" in gate.gateway.state.running, "one more")
    with contextlib.suppress(KeyError):
        gate.gateway.runtime.tunnel("more").wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    del gate.files.tunnels["more"]
    eventually(gate._reloads, "another reload")


def converse(gate: Gate, _case: GateCase) -> None:
    """A client comes and goes."""
    with contextlib.suppress(OSError, AssertionError):
        gate.connected(KEPT).close()


def asked(make: Callable[[Gate], Any]) -> Callable[[Gate, GateCase], None]:
    """A program asks, and is told of the failure."""

    def do(gate: Gate, _case: GateCase) -> None:
        with contextlib.suppress(Exception):
            gate.gateway.ask(make(gate))

    return do


def sent(make: Callable[[Gate], Any]) -> Callable[[Gate, GateCase], None]:
    """The message comes as a timer, an event or a shortage would send it."""

    def do(gate: Gate, case: GateCase) -> None:
        (found,) = gate.refs(case.actor)
        found.tell(make(gate))

    return do


def sent_to_one(make: Callable[[Gate], Any]) -> Callable[[Gate, GateCase], None]:
    """The same, of a client that has not said all: its connection ends."""

    def do(gate: Gate, case: GateCase) -> None:
        with gate.half_said() as sock:
            eventually(lambda: bool(gate.refs(VisitorActor)), "a visitor")
            (found,) = gate.refs(VisitorActor)
            found.tell(make(gate))
            sock.settimeout(WAIT_SECONDS)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""

    return do


SPEC = ChildSpec("more", lambda: None)  # type: ignore[arg-type,return-value]
SUPERVISORS = [
    GateCase(GatewaySupervisor, type(make(None)), sent(make), ends=True)
    for make in (
        lambda _: supervisor._RestartDue(Child(SPEC)),
        lambda _: supervisor._GroupDue(),
        lambda _: supervisor._StopOverdue(Child(SPEC)),
        lambda _: supervisor._StopNext(),
        lambda _: StartChild(SPEC),
        lambda _: StopChild("nobody"),
        lambda _: RestartChild("nobody"),
        lambda _: DeleteChild("nobody"),
        lambda _: WhichChildren(),
        lambda _: CountChildren(),
    )
]
TOKEN = "new-" + "t" * 40

CASES = [
    # -- what makes what runs what is wanted
    GateCase(FleetActor, Assigned, start, opens=True),
    GateCase(FleetActor, fleet_actor._LookAgain, start, opens=True),
    GateCase(FleetActor, events.TunnelStateChanged, start, opens=True),
    GateCase(FleetActor, events.ListenerOpened, add_and_remove),
    GateCase(FleetActor, events.ListenerClosed, add_and_remove),
    GateCase(FleetActor, TunnelEnded, add_and_remove),
    GateCase(FleetActor, asks.Reload, reload),
    GateCase(FleetActor, Loaded, reload),
    GateCase(FleetActor, asks.SetWanted, asked(lambda _: asks.SetWanted("api", {}))),
    GateCase(
        FleetActor,
        asks.SetWantedInShards,
        asked(lambda _: asks.SetWantedInShards("api", frozenset(), {})),
    ),
    GateCase(FleetActor, asks.PutWanted, asked(lambda _: asks.PutWanted("api", wanted("x")))),
    GateCase(FleetActor, asks.RemoveWanted, asked(lambda _: asks.RemoveWanted("api", "x"))),
    GateCase(FleetActor, asks.CompareWanted, asked(lambda _: asks.CompareWanted("api", {}))),
    GateCase(FleetActor, asks.DrainTunnels, asked(lambda _: asks.DrainTunnels((LATER,)))),
    GateCase(FleetActor, asks.RetryTunnels, asked(lambda _: asks.RetryTunnels((KEPT,)))),
    GateCase(
        FleetActor,
        asks.ReplaceTunnelToken,
        asked(lambda _: asks.ReplaceTunnelToken(LATER, TOKEN)),
    ),
    GateCase(FleetActor, asks.TakeSnapshot, asked(lambda _: asks.TakeSnapshot())),
    GateCase(FleetActor, asks.Leave, asked(lambda _: asks.Leave(WAIT_SECONDS)), leaves=True),
    GateCase(FleetActor, Revoked, sent(lambda _: Revoked(frozenset()))),
    GateCase(
        FleetActor, fleet_actor._HandShardsOver, sent(lambda _: fleet_actor._HandShardsOver())
    ),
    GateCase(FleetActor, fleet_actor._LeaveTimedOut, sent(lambda _: fleet_actor._LeaveTimedOut())),
    GateCase(FleetActor, OpenAgain, sent(lambda _: OpenAgain(KEPT))),
    GateCase(FleetActor, DrainTimedOut, sent(lambda _: DrainTimedOut(Running(wanted("x"))))),
    # -- which part of the fleet is ours
    GateCase(PlacementActor, Assigned, start, opens=True),
    GateCase(PlacementActor, placing.TellShards, start, opens=True),
    GateCase(PlacementActor, Revoked, sent(lambda _: Revoked(frozenset()))),
    GateCase(PlacementActor, Vacated, sent(lambda _: Vacated(frozenset()))),
    GateCase(PlacementActor, FleetLeaves, sent(lambda _: FleetLeaves())),
    GateCase(PlacementActor, placing._LookAfter, sent(lambda _: placing._LookAfter())),
    # -- the audit
    GateCase(StoreActor, events.ConnectionOpened, converse),
    GateCase(StoreActor, events.ConnectionClosed, converse),
    GateCase(StoreActor, events.StreamOpened, start, opens=True),
    GateCase(
        StoreActor, events.StreamClosed, sent(lambda _: events.StreamClosed(KEPT, "SSH", 1, ""))
    ),
    GateCase(StoreActor, asks.RuntimeStarted, sent(lambda _: asks.RuntimeStarted())),
    # -- the front doors
    GateCase(DoorActor, listening.MayAccept, sent(lambda _: listening.MayAccept())),
    GateCase(VisitorActor, visitor._Answered, converse),
    GateCase(VisitorActor, visitor._Late, sent_to_one(lambda _: visitor._Late())),
    GateCase(VisitorActor, visitor._TryAgain, sent_to_one(lambda _: visitor._TryAgain())),
    GateCase(VisitorActor, GiveWay, sent_to_one(lambda _: GiveWay())),
    GateCase(
        VisitorActor,
        Terminated,
        sent_to_one(lambda gate: Terminated(gate.gateway.supervisor, NORMAL)),
    ),
    GateCase(
        VisitorActor,
        visitor._UserKnown,
        sent_to_one(lambda _: visitor._UserKnown(1, "alice")),
    ),
    GateCase(
        VisitorActor,
        visitor._LoginChecked,
        sent_to_one(lambda _: visitor._LoginChecked(None, None, False)),  # type: ignore[arg-type]
    ),
    GateCase(
        VisitorActor,
        search.ResolverAnswered,
        sent_to_one(lambda _: search.ResolverAnswered(Unopened("", ""), TunnelError("no"))),
    ),
    GateCase(
        VisitorActor,
        search.NameFound,
        sent_to_one(lambda _: search.NameFound(None, None)),  # type: ignore[arg-type]
    ),
    GateCase(
        VisitorActor,
        search.GatewayAnswered,
        sent_to_one(lambda _: search.GatewayAnswered(None, None, None)),  # type: ignore[arg-type]
    ),
    GateCase(
        VisitorActor,
        events.TunnelStateChanged,
        sent_to_one(lambda _: events.TunnelStateChanged(KEPT, TunnelState.CONNECTED, "for a test")),
    ),
    # -- the root
    GateCase(
        GatewaySupervisor,
        Terminated,
        sent(lambda gate: Terminated(gate.refs(FleetActor)[0], NORMAL)),
        ends=True,
    ),
    GateCase(
        GatewaySupervisor,
        ChildReady,
        sent(lambda gate: ChildReady(gate.refs(FleetActor)[0])),
        ends=True,
    ),
    *SUPERVISORS,
]
CLASSES = (FleetActor, PlacementActor, StoreActor, DoorActor, VisitorActor, GatewaySupervisor)
