"""A schedule for real processes: which of them is killed, frozen or starved, and when.

Pure, as `schedule` is for one process. What each kind may touch is said here, so that everything
else can be held to notice nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from .schedule import Conversation, End

SPAN_MS: Final = 1_500
TUNNELS: Final = 6
WORKERS: Final = 2


class Victim(StrEnum):
    """A process."""

    SERVICE = "service"
    GATEWAY = "gateway"
    WORKER = "worker"
    STORE = "store"
    BROKER = "broker"


class Blow(StrEnum):
    """What is done to a process."""

    KILL = "kill -9"
    FREEZE = "SIGSTOP, SIGCONT"
    DESCRIPTORS = "no descriptors"
    DISK = "full disk"


POSSIBLE: Final = (
    (Victim.SERVICE, Blow.KILL),
    (Victim.SERVICE, Blow.FREEZE),
    (Victim.SERVICE, Blow.DESCRIPTORS),
    (Victim.SERVICE, Blow.DISK),
    (Victim.GATEWAY, Blow.KILL),
    (Victim.GATEWAY, Blow.FREEZE),
    (Victim.GATEWAY, Blow.DISK),
    (Victim.WORKER, Blow.KILL),
    (Victim.WORKER, Blow.FREEZE),
    (Victim.WORKER, Blow.DESCRIPTORS),
    (Victim.STORE, Blow.KILL),
    (Victim.STORE, Blow.FREEZE),
    (Victim.BROKER, Blow.KILL),
    (Victim.BROKER, Blow.FREEZE),
)


@dataclass(frozen=True)
class Strike:
    """Something that happens to a process.

    Attributes:
        at_ms: when.
        victim: to which.
        blow: what.
        for_ms: how long it lasts; one that was killed is started again after so long.
        worker: the number of the worker, if it is one.
    """

    at_ms: int
    victim: Victim
    blow: Blow
    for_ms: int
    worker: int = 0

    @property
    def name(self) -> str:
        """What is counted."""
        return f"{self.victim}: {self.blow}"

    def cuts(self, worker: int) -> bool:
        """Whether it may end connections of a tunnel of that worker.

        Who is frozen for a moment loses none, and neither store, broker nor disk carry any.
        """
        if self.blow is Blow.DESCRIPTORS:
            # What stands stays, but who comes may be refused.
            return self.victim is Victim.SERVICE or self.worker == worker
        if self.blow is not Blow.KILL or self.victim in (Victim.STORE, Victim.BROKER):
            return False
        return self.victim is not Victim.WORKER or self.worker == worker


@dataclass(frozen=True)
class Outage:
    """What one schedule does."""

    seed: int
    conversations: tuple[Conversation, ...]
    strikes: tuple[Strike, ...]

    def lines(self) -> list[str]:
        """It, for people."""
        return [
            f"seed {self.seed}: {len(self.conversations)} conversations",
            *(
                f"  {each.at_ms:4d} ms: {each.name} for {each.for_ms} ms, worker {each.worker}"
                for each in self.strikes
            ),
        ]


def outage_of(seed: int) -> Outage:
    """Return the schedule of a seed. Each kind comes within as many seeds as there are."""
    chance = random.Random(seed)
    first = POSSIBLE[seed % len(POSSIBLE)]
    more = [chance.choice(POSSIBLE) for _ in range(chance.choice((0, 0, 1, 2)))]
    strikes = [
        Strike(
            at_ms=chance.randrange(100, SPAN_MS),
            victim=victim,
            blow=blow,
            for_ms=chance.randint(100, 1_200),
            worker=chance.randrange(WORKERS),
        )
        for victim, blow in [first, *more]
    ]
    talks = tuple(_conversation(chance, seed * 100 + number) for number in range(16))
    return Outage(seed, talks, tuple(sorted(strikes, key=lambda each: each.at_ms)))


def _conversation(chance: random.Random, number: int) -> Conversation:
    up_bytes = chance.choice((900, 40_000, 400_000))
    down_bytes = chance.choice((900, 40_000, 400_000))
    return Conversation(
        number=number,
        tunnel=chance.randrange(TUNNELS),
        service=0,
        at_ms=chance.randrange(SPAN_MS),
        up_bytes=up_bytes,
        down_bytes=down_bytes,
        chunk_bytes=chance.choice((1_000, 16_000)),
        pause_ms=chance.choice((0, 5)),
        read_bytes=65_536,
        read_pause_ms=0,
        end=chance.choice(tuple(each for each in End if each is not End.ASKED)),
        abort_bytes=chance.randrange(up_bytes + down_bytes),
    )
