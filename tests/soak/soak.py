"""The run: traffic whose every byte is compared, trouble beside it, and a sample now and then.

Clients connect through the front door and through listeners, and compare what is echoed. Trouble
drops links at the service, and takes tunnels away and brings others by the fleet file. At the end
there is quiet: then every tunnel has to be connected, to carry, and to have no connection left.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tests.soak.fleet import WAIT_SECONDS, SoakFleet
from tests.soak.pace import Pace
from tests.soak.samples import Stopwatch
from tests.soak.slopes import BOUNDS_PERCENT, slope
from tests.support.rig import receive_exactly
from tests.support.waiting import eventually
from tunnelfleet.runtime import Mode
from tunnelfleet.runtime.memory import freeze_garbage

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHUNK_BYTES = 32_768
PATTERN_BYTES = 1_048_576
"""What is sent is a part of so many random bytes."""
MAX_CHUNKS = 12
CLIENT_PAUSE_SECONDS = 0.1
LONG_SHARE = 0.2
"""Of the conversations; these pause between their chunks, and more of them meet trouble."""
LONG_PAUSE_SECONDS = 0.2
MIN_SAMPLES = 6
"""A short run is made longer where looking takes its time."""
TELL_EVERY = 12
"""Of so many samples people are told one."""
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Plan:
    """What is done in a run.

    Attributes:
        seconds: how long there is trouble.
        tunnels: in the file at all times.
        clients: threads that converse.
        drop_seconds: between two links that are dropped.
        churn_seconds: between two changes of the file.
        churn_tunnels: that go, and come, with each.
        sample_seconds: between two samples.
        warm_seconds: how long there is trouble before anything is measured, `warm_speed` times as
            fast: memory has then the holes that are left where tunnels were.
        warm_speed: so many times as fast.
        seed: of all choices.
    """

    seconds: float = 1_800.0
    tunnels: int = 200
    clients: int = 6
    drop_seconds: float = 1.0
    churn_seconds: float = 10.0
    churn_tunnels: int = 4
    sample_seconds: float = 5.0
    warm_seconds: float = 180.0
    warm_speed: float = 10.0
    seed: int = 1


class WrongBytesError(AssertionError):
    """An application got what nobody had sent."""


class Soak:
    """One run.

    Args:
        plan: what is done.
        folder: for files and sockets, with a short path.
        tell: called with a line now and then, for people.
    """

    def __init__(
        self, plan: Plan, folder: Path, tell: Callable[[str], object] = lambda _line: None
    ) -> None:
        self._plan = plan
        self._fleet = SoakFleet(folder)
        self._tell = tell
        self._pattern = random.Random(plan.seed).randbytes(PATTERN_BYTES)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        """What was done, and what became of it."""
        self._lines: list[str] = []

    @property
    def samples(self) -> list[dict[str, float]]:
        """What was sampled; kept as text, since they are in the process that is looked at."""
        return [json.loads(line) for line in self._lines]

    def run(self) -> dict[str, Any]:
        """Do it all; return the report.

        Raises:
            AssertionError: a byte was wrong, or a tunnel did not come back.
        """
        plan = self._plan
        with self._fleet as fleet:
            fleet.add(plan.tunnels)
            fleet.start()
            self._wait_whole()
            workers = [
                threading.Thread(target=self._guarded, args=(work, number), name=f"soak {number}")
                for number, work in enumerate([self._trouble] + [self._converse] * plan.clients)
            ]
            # As the gateway does: what is garbage is found soon, and not when as much is alive.
            freeze_garbage()
            trouble, *clients = workers
            for client in clients:
                client.start()
            try:
                self._warm_up()
                trouble.start()
                self._sample()
            finally:
                self._over.set()
                for worker in workers:
                    if worker.ident is not None:
                        worker.join(WAIT_SECONDS)
            assert not self._wrong, self._wrong[:5]
            self._check_quiet()
            status = fleet.end()
            assert status == 0, f"the gateway ended with {status}"
        return self.report()

    def report(self) -> dict[str, Any]:
        """What was done, the slopes, and the samples."""
        samples = self.samples
        return {
            "plan": asdict(self._plan),
            "counts": dict(sorted(self.counts.items())),
            "slopes": judged(samples),
            "samples": samples,
        }

    # -- what is done

    def _guarded(self, work: Callable[[random.Random], None], number: int) -> None:
        try:
            work(random.Random(f"{self._plan.seed} {number}"))
        except Exception as error:
            self._wrong.append(f"{work.__name__}: {error!r}")
            self._over.set()

    def _count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.counts[what] += by

    def _sample(self) -> None:
        with Pace() as pace:
            self._sample_beside(pace)

    def _sample_beside(self, pace: Pace) -> None:
        plan, watch = self._plan, Stopwatch()
        samplers = self._fleet.samplers()
        while watch() < plan.seconds or len(self._lines) < MIN_SAMPLES:
            if self._over.wait(plan.sample_seconds):
                break
            found = {"seconds": round(watch(), 1)}
            beat_us = pace.beat_us()
            for each in samplers:
                found |= each.sample(beat_us)
            self._lines.append(json.dumps({key: round(value, 3) for key, value in found.items()}))
            if len(self._lines) % TELL_EVERY == 1:
                self._tell(
                    f"{found['seconds']:.0f} s, {found['gateway pss MiB']:.1f} MiB: "
                    f"{dict(sorted(self.counts.items()))}"
                )

    def _warm_up(self) -> None:
        plan = self._plan
        rng = random.Random(f"{plan.seed} warm")
        self._trouble(rng, plan.warm_seconds, plan.warm_speed)
        self._wait_whole()
        self._tell(f"warm: {dict(sorted(self.counts.items()))}")
        with self._lock:
            self.counts.clear()

    def _trouble(self, rng: random.Random, seconds: float = math.inf, speed: float = 1.0) -> None:
        plan, watch = self._plan, Stopwatch()
        next_churn = churn_seconds = plan.churn_seconds / speed
        while watch() < seconds and not self._over.wait(plan.drop_seconds / speed):
            names = sorted(self._fleet.tunnels)
            self._fleet.drop(rng.choice(names), rng.choice(list(Mode)))
            self._count("links dropped")
            if watch() >= next_churn:
                next_churn += churn_seconds
                self._churn(rng)

    def _churn(self, rng: random.Random) -> None:
        fleet, count = self._fleet, self._plan.churn_tunnels
        fleet.add(count)
        old = sorted(fleet.tunnels)[: len(fleet.tunnels) - count]
        fleet.remove(rng.sample(old, count))
        self._count("tunnels added", count)
        self._count("tunnels removed", count)
        self._count("reloads")

    def _converse(self, rng: random.Random) -> None:
        buffer = bytearray(CHUNK_BYTES)
        while not self._over.wait(rng.uniform(0.0, 2 * CLIENT_PAUSE_SECONDS)):
            name = rng.choice(sorted(self._fleet.tunnels))
            through_door = rng.random() < 0.5
            way = "door" if through_door else "listener"
            try:
                self._converse_once(rng, name, way, memoryview(buffer))
            except (OSError, AssertionError, KeyError) as error:
                # Its tunnel was dropped or taken away: it is cut, and what had come was right.
                if isinstance(error, WrongBytesError):
                    raise
                self._count(f"conversations cut, {way}")
            else:
                self._count(f"conversations whole, {way}")

    def _converse_once(self, rng: random.Random, name: str, way: str, buffer: memoryview) -> None:
        # Nothing large is made here: the holes that it left would be those of the soak itself.
        pause_seconds = LONG_PAUSE_SECONDS if rng.random() < LONG_SHARE else 0.0
        with self._fleet.client(name, through_door=way == "door") as sock:
            for _ in range(rng.randrange(1, MAX_CHUNKS)):
                self._over.wait(pause_seconds)
                start = rng.randrange(len(self._pattern) - CHUNK_BYTES)
                left = memoryview(self._pattern)[start : start + rng.randrange(1, CHUNK_BYTES)]
                sock.sendall(left)
                for size_bytes in _received(sock, buffer[: len(left)]):
                    if buffer[:size_bytes] != left[:size_bytes]:
                        raise WrongBytesError(f"{name}: {size_bytes} bytes are not what was sent")
                    left = left[size_bytes:]
                    self._count("bytes compared", size_bytes)

    # -- the end

    def _wait_whole(self) -> None:
        eventually(self._fleet.is_whole, "all tunnels connected", WAIT_SECONDS, LOOK_SECONDS)

    def _check_quiet(self) -> None:
        self._wait_whole()
        for name in sorted(self._fleet.tunnels):
            # Through both, since its devices or its listener may have been cut a moment ago.
            for through_door in (True, False):
                with self._fleet.client(name, through_door=through_door) as sock:
                    sock.sendall(name.encode())
                    got = receive_exactly(sock, len(name))
                    assert got == name.encode(), f"{name} does not carry"
        self._count("tunnels that carry at the end", len(self._fleet.tunnels))
        eventually(
            lambda: self._fleet.scrape()["tunnelfleet_connections_active"] == 0,
            "no connection left",
            WAIT_SECONDS,
            LOOK_SECONDS,
        )


def _received(sock: socket.socket, buffer: memoryview) -> Iterator[int]:
    """Fill the beginning of `buffer`, over and over; yield how much there is each time.

    Until as much has come altogether as it holds.
    """
    left_bytes = len(buffer)
    while left_bytes:
        size_bytes = sock.recv_into(buffer, left_bytes)
        if not size_bytes:
            raise ConnectionAbortedError(f"ended {left_bytes} bytes early")
        left_bytes -= size_bytes
        yield size_bytes


def judged(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The slope of each figure that has a bound, and whether it is flat."""
    return {
        name: {**asdict_of(found), "flat": found.is_flat}
        for name, bound in BOUNDS_PERCENT.items()
        if (points := series(samples, name))
        for found in [slope(points, bound)]
    }


def series(samples: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """The points of one figure, by time; those that have not got it are left out."""
    return [(each["seconds"], each[name]) for each in samples if name in each]


def asdict_of(found: Any) -> dict[str, float]:
    """A named tuple of numbers, rounded."""
    return {key: round(value, 3) for key, value in found._asdict().items()}
