"""A schedule of the chaos suite: what is built, what is said, what is broken and when.

Pure: a seed makes a schedule, and the same seed makes the same one. It also says which tunnels a
fault may touch, so that the others can be held to notice nothing, and how a schedule can be
smaller, so that one that fails can be shrunk. Who carries it out is `fleet` (in one process).
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

EVERY_TUNNEL: Final = -1
"""In the place of a tunnel's number: the fault touches all."""
SPAN_MS: Final = 400
"""Conversations and faults begin within so long."""


class End(StrEnum):
    """How the two applications of a conversation go about its end."""

    CLIENT_FIRST = "client first"
    """The client sends all and half-closes; the server answers after that."""
    SERVER_FIRST = "server first"
    BOTH = "both"
    """Each sends at once, and half-closes when it has sent all."""
    CLIENT_ABORTS = "client aborts"
    """It resets its connection in mid-transfer."""
    SERVER_ABORTS = "server aborts"
    ASKED = "asked"
    """The server answers once it has all that it expects, and closes: needs no half-close."""


class Place(StrEnum):
    """Where a proxy stands, or an actor."""

    SOURCE_LINK = "source link"
    """Between the source and the service."""
    DESTINATION_LINK = "destination link"
    CLIENT = "client"
    """Between the client applications and the source's listener."""
    SERVER = "server"
    """Between the destination and the server application."""
    SERVICE = "service"
    RUNTIME = "runtime"


class Kind(StrEnum):
    """The kinds of faults. What each does is in `proxy` and `faults`."""

    LATENCY = "latency"
    JITTER = "jitter"
    DRIP = "slow drip"
    CUT = "cut at a byte"
    RESET = "reset"
    REFUSED = "refused connect"
    HOLE_THAWS = "black hole that thaws"
    HOLE_BREAKS = "black hole that breaks"
    HOLE_STAYS = "black hole that stays"
    FLIP = "corrupted byte"
    DROP = "service drops a client"
    SESSION_RESET = "session reset"
    STREAM_RESET = "stream reset"
    DELAY = "service delays"
    THROTTLE = "service throttles"
    BAD_FRAME = "service corrupts a frame"
    STALL = "service reads no more"
    REFUSE_503 = "handshake refused"
    GARBAGE = "handshake answered with garbage"
    ROTATE = "token rotated"
    RESTART_SERVICE = "service killed and started"
    CRASH = "exception in an actor"
    KILL = "actor killed"
    REOPEN = "tunnel closed and opened again"


LINKS: Final = (Place.SOURCE_LINK, Place.DESTINATION_LINK)
ENDS: Final = (Place.CLIENT, Place.SERVER)
NETWORK: Final = {
    Kind.LATENCY: (*LINKS, *ENDS),
    Kind.JITTER: (*LINKS, *ENDS),
    Kind.DRIP: (*LINKS, *ENDS),
    Kind.CUT: (*LINKS, *LINKS, *ENDS),
    Kind.RESET: (*LINKS, *ENDS),
    Kind.REFUSED: LINKS,
    Kind.HOLE_THAWS: (*LINKS, *ENDS),
    Kind.HOLE_BREAKS: (*LINKS, *ENDS),
    Kind.HOLE_STAYS: LINKS,
    Kind.FLIP: LINKS,
}
"""What proxies do, and where."""
SERVICE_KINDS: Final = (
    Kind.DROP,
    Kind.SESSION_RESET,
    Kind.STREAM_RESET,
    Kind.DELAY,
    Kind.THROTTLE,
    Kind.BAD_FRAME,
    Kind.STALL,
    Kind.REFUSE_503,
    Kind.GARBAGE,
    Kind.ROTATE,
)
TUNNEL_ACTORS: Final = (
    "SocketActor",
    "StreamActor",
    "WebSocketActor",
    "TunnelActor",
    "ListenerActor",
    "TransportSupervisor",
    "TunnelSupervisor",
)
SHARED_ACTORS: Final = ("ConnectGovernor", "EventRelay")
"""All tunnels share them, and no connection may notice their end."""
HARMLESS: Final = frozenset({Kind.LATENCY, Kind.JITTER, Kind.DRIP, Kind.HOLE_THAWS})
"""They make a connection slow, and nothing else: it stays whole."""


@dataclass(frozen=True)
class TunnelPlan:
    """A tunnel.

    Attributes:
        version: 1, 2 or 3.
        marks: whether source and destination tell the kinds of end apart.
        services: how many.
        api: whether the destination's application is the client API, not a TCP server.
    """

    version: int
    marks: tuple[bool, bool]
    services: int
    api: bool = False

    @property
    def is_marked(self) -> bool:
        """Whether its streams are marked."""
        return all(self.marks)


@dataclass(frozen=True)
class Conversation:
    """A connection of two applications, and what they say.

    Attributes:
        number: tells it from the others of its schedule; the first bytes of its client.
        tunnel: the number of its tunnel.
        service: the number of the tunnel's service.
        at_ms: when its client connects. In V1 and V2 not before the one ahead of it is over.
        up_bytes: what the client sends.
        down_bytes: what the server sends.
        chunk_bytes: how much at a time.
        pause_ms: between two chunks.
        read_bytes: how much a reader takes at a time.
        read_pause_ms: between two reads.
        end: how it ends.
        abort_bytes: after so many bytes, sent and received, who aborts does.
    """

    number: int
    tunnel: int
    service: int
    at_ms: int
    up_bytes: int
    down_bytes: int
    chunk_bytes: int
    pause_ms: int
    read_bytes: int
    read_pause_ms: int
    end: End
    abort_bytes: int = 0


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        at_ms: when.
        kind: what.
        place: where.
        tunnel: the number of the tunnel that it touches, or `EVERY_TUNNEL`.
        amount: milliseconds, bytes or a position, as the kind needs it.
        for_ms: how long, for what ends by itself.
        upwards: for a position in a stream of bytes: of which direction, away from who connected.
        actor: the class, for what ends an actor.
        nth: an actor fails at its nth message from then on; 0 is at once.
    """

    at_ms: int
    kind: Kind
    place: Place
    tunnel: int
    amount: int = 0
    for_ms: int = 0
    upwards: bool = True
    actor: str = ""
    nth: int = 0


@dataclass(frozen=True)
class Schedule:
    """What one run does."""

    seed: int
    tls: bool
    dispatchers: int
    tunnels: tuple[TunnelPlan, ...]
    conversations: tuple[Conversation, ...]
    faults: tuple[Fault, ...]

    def touched(self) -> frozenset[int]:
        """The tunnels whose connections a fault may end. Those of the others must end whole."""
        found: set[int] = set()
        for fault in self.faults:
            if fault.kind in HARMLESS or fault.actor in SHARED_ACTORS:
                continue
            if fault.tunnel == EVERY_TUNNEL:
                found.update(range(len(self.tunnels)))
            else:
                found.add(fault.tunnel)
        return frozenset(found)

    def corrupted(self) -> frozenset[int]:
        """The tunnels whose bytes are corrupted where no TLS notices it."""
        if self.tls:
            return frozenset()
        return frozenset(each.tunnel for each in self.faults if each.kind is Kind.FLIP)

    def impatient(self) -> frozenset[int]:
        """The tunnels whose dead link only a ping without an answer shows."""
        dead = {each.tunnel for each in self.faults if each.kind is Kind.HOLE_STAYS}
        return frozenset(dead) | self.corrupted()

    def lines(self) -> list[str]:
        """The schedule for people, in the order of time."""
        head = [
            (
                f"seed {self.seed}: {'TLS' if self.tls else 'no TLS'}, "
                f"{self.dispatchers} dispatcher(s), {len(self.tunnels)} tunnels"
            )
        ]
        for number, tunnel in enumerate(self.tunnels):
            head.append(f"  tunnel {number}: {_told(tunnel)}")
        events: list[Conversation | Fault] = [*self.conversations, *self.faults]
        events.sort(key=lambda each: each.at_ms)
        return head + [f"  {each.at_ms:4d} ms: {_told(each)}" for each in events]

    def to_json(self) -> str:
        """The schedule for `Schedule.parse`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """A schedule that `to_json` wrote."""
        given = json.loads(text)
        given["tunnels"] = tuple(
            TunnelPlan(**{**each, "marks": tuple(each["marks"])}) for each in given["tunnels"]
        )
        given["conversations"] = tuple(
            Conversation(**{**each, "end": End(each["end"])}) for each in given["conversations"]
        )
        given["faults"] = tuple(
            Fault(**{**each, "kind": Kind(each["kind"]), "place": Place(each["place"])})
            for each in given["faults"]
        )
        return cls(**given)


def _told(each: TunnelPlan | Conversation | Fault) -> str:
    """The fields that are not at their default."""
    shown = [
        f"{field.name}={getattr(each, field.name)}"
        for field in dataclasses.fields(each)
        if field.name != "at_ms" and getattr(each, field.name) != field.default
    ]
    return f"{type(each).__name__} {', '.join(shown)}"


# -- from a seed


def schedule_of(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    chance = random.Random(seed)
    tls = chance.random() < 0.5
    tunnels = tuple(_tunnel(chance) for _ in range(chance.randint(2, 4)))
    conversations = tuple(
        _conversation(chance, number, tunnels) for number in range(chance.randint(6, 14))
    )
    faults = tuple(
        fault for _ in range(chance.randint(1, 6)) for fault in _faults(chance, len(tunnels))
    )
    return Schedule(seed, tls, chance.choice((1, 1, 2)), tunnels, conversations, faults)


def _tunnel(chance: random.Random) -> TunnelPlan:
    version = chance.choice((1, 2, 3, 3, 3))
    marks = chance.choice(((True, True),) * 5 + ((False, True), (True, False), (False, False)))
    api = all(marks) and chance.random() < 0.25
    return TunnelPlan(version, marks, 1 if version == 1 else chance.randint(1, 2), api)


def _conversation(
    chance: random.Random, number: int, tunnels: tuple[TunnelPlan, ...]
) -> Conversation:
    tunnel = chance.randrange(len(tunnels))
    plan = tunnels[tunnel]
    size: Callable[[], int] = lambda: chance.choice((16, 900, 5_000, 40_000, 150_000, 400_000))  # noqa: E731
    is_slow = chance.random() < 0.2
    end: End = chance.choice(tuple(each for each in End if each is not End.ASKED))
    if not plan.is_marked:
        end = End.ASKED
    elif plan.api and end is not End.CLIENT_ABORTS:
        end = End.CLIENT_FIRST
    up_bytes, down_bytes = size(), size()
    return Conversation(
        number=number,
        tunnel=tunnel,
        service=chance.randrange(plan.services),
        at_ms=chance.randrange(SPAN_MS),
        up_bytes=up_bytes,
        down_bytes=down_bytes,
        chunk_bytes=chance.choice((1_000, 16_000, 100_000)),
        pause_ms=chance.choice((0, 0, 1, 5)),
        read_bytes=chance.choice((2_000, 8_000)) if is_slow else 65_536,
        read_pause_ms=1 if is_slow else 0,
        end=end,
        abort_bytes=chance.randrange(up_bytes + down_bytes),
    )


def _faults(chance: random.Random, tunnels: int) -> list[Fault]:
    """One fault, or several of a kind that come in a row."""
    # The first tunnel is left alone half of the time, so that somebody may notice what he should
    # not.
    tunnel = chance.randrange(chance.randint(0, 1), tunnels)
    at_ms = chance.randrange(SPAN_MS)
    family = chance.random()
    if family < 0.5:
        kind = chance.choice(tuple(NETWORK))
        return [_network_fault(chance, at_ms, kind, tunnel)]
    if family < 0.7:
        return [_service_fault(chance, at_ms, chance.choice(SERVICE_KINDS), tunnel)]
    if family < 0.95:
        return _crashes(chance, at_ms, tunnel)
    if family < 0.975:
        return [Fault(at_ms, Kind.RESTART_SERVICE, Place.SERVICE, EVERY_TUNNEL)]
    place = chance.choice(LINKS)
    return [Fault(at_ms, Kind.REOPEN, place, tunnel)]


def _network_fault(chance: random.Random, at_ms: int, kind: Kind, tunnel: int) -> Fault:
    place = chance.choice(NETWORK[kind])
    amount = {
        Kind.LATENCY: lambda: chance.randint(1, 60),
        Kind.JITTER: lambda: chance.randint(1, 40),
        Kind.DRIP: lambda: chance.choice((1, 7, 100, 1_400)),
        # From the request of a handshake to the middle of a large transfer.
        Kind.CUT: lambda: int(10 ** chance.uniform(0, 5.5)),
        Kind.FLIP: lambda: int(10 ** chance.uniform(0, 5.5)),
        Kind.REFUSED: lambda: chance.randint(1, 3),
    }.get(kind, lambda: 0)()
    for_ms = chance.randint(20, 300)
    return Fault(at_ms, kind, place, tunnel, amount, for_ms, chance.random() < 0.5)


def _service_fault(chance: random.Random, at_ms: int, kind: Kind, tunnel: int) -> Fault:
    amount = {
        Kind.DELAY: lambda: chance.randint(1, 50),
        Kind.THROTTLE: lambda: chance.choice((50_000, 300_000, 2_000_000)),
        Kind.REFUSE_503: lambda: chance.randint(1, 4),
        Kind.BAD_FRAME: lambda: chance.randint(1, 3),
    }.get(kind, lambda: 0)()
    return Fault(at_ms, kind, chance.choice(LINKS), tunnel, amount, chance.randint(20, 300))


def _crashes(chance: random.Random, at_ms: int, tunnel: int) -> list[Fault]:
    if chance.random() < 0.15:
        actor = chance.choice(SHARED_ACTORS)
        nth = chance.choice((0, 1, 3))
        return [Fault(at_ms, Kind.CRASH, Place.RUNTIME, EVERY_TUNNEL, actor=actor, nth=nth)]
    place = chance.choice(LINKS)
    actor = chance.choice(TUNNEL_ACTORS)
    if chance.random() < 0.15:
        return [Fault(at_ms, Kind.KILL, place, tunnel, actor=actor)]
    nth = chance.choice((0, 1, 1, 2, 5, 20))
    return [
        Fault(at_ms + 40 * again, Kind.CRASH, place, tunnel, actor=actor, nth=nth)
        for again in range(chance.choice((1, 1, 1, 3)))
    ]


# -- smaller


def smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Yield schedules that have less in them, the smallest first."""
    faults, talks = schedule.faults, schedule.conversations
    if len(faults) > 1:
        for each in faults:
            yield dataclasses.replace(schedule, faults=(each,))
    for half in (talks[: len(talks) // 2], talks[len(talks) // 2 :]):
        if len(talks) > 1:
            yield dataclasses.replace(schedule, conversations=half)
    for index in range(len(faults)):
        if len(faults) > 1:
            yield dataclasses.replace(schedule, faults=faults[:index] + faults[index + 1 :])
    for index in range(len(talks)):
        if len(talks) > 1:
            yield dataclasses.replace(schedule, conversations=talks[:index] + talks[index + 1 :])
