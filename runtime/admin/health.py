"""`/healthz` and `/readyz`: is the process alive, and are its tunnels connected?

Owns what both answer. Alive means that every dispatcher takes its turns; ready, that enough tunnels
are connected. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.actors.state import TunnelState

ANSWER_SECONDS: Final = 1.0
"""How long a dispatcher has for its answer."""


async def silent_dispatchers(
    dispatchers: Sequence[Dispatcher], timeout_seconds: float = ANSWER_SECONDS
) -> list[str]:
    """Return the names of the dispatchers that did not answer in time."""
    questions = {dispatcher.name: _ask(dispatcher) for dispatcher in dispatchers}
    waiting = [answer for answer in questions.values() if answer is not None]
    if waiting:
        await asyncio.wait(waiting, timeout=timeout_seconds)
    return [name for name, answer in questions.items() if answer is None or not answer.done()]


def _ask(dispatcher: Dispatcher) -> asyncio.Future[None] | None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()
    try:
        dispatcher.call_soon(_answer, loop, answer)
    except RuntimeError:
        return None
    return answer


def _answer(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[None]) -> None:
    """This runs on the dispatcher's thread, and whoever asked may be gone."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, answer)


def _settle(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)


MAX_LISTED: Final = 100
"""How many tunnels the report names. The others are only counted."""
_MARGIN: Final = 1e-9
_LEAVING: Final = frozenset({TunnelState.DRAINING, TunnelState.STOPPED})


_RANKS: Final = {TunnelState.CONNECTED: 0, TunnelState.DRAINING: 1, TunnelState.STOPPED: 1}
"""How bad a state is. Of a tunnel's ends the highest number counts; other states are 2."""


class TunnelView(NamedTuple):
    """What is asked of a tunnel; `since` in seconds of the Unix epoch."""

    name: str
    state: TunnelState
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """The judgement, and the numbers that it rests on."""

    ready: bool
    connected: int
    tunnels: int
    fraction: float
    missing: tuple[TunnelView, ...]
    missing_count: int

    def to_json(self, readiness: Readiness) -> dict[str, object]:
        """Return the body of an answer."""
        return {
            "ready": self.ready,
            "connected": self.connected,
            "tunnels": self.tunnels,
            "fraction": round(self.fraction, 4),
            "ready_at": readiness.ready_at,
            "unready_below": round(readiness.unready_below, 4),
            "not_connected": [
                {
                    "tunnel": each.name,
                    "state": each.state.value,
                    "reason": each.reason,
                    "since": round(each.since, 3),
                }
                for each in self.missing
            ],
            "not_connected_count": self.missing_count,
        }


def join_ends(ends: Iterable[TunnelView], tunnel_of: Callable[[str], str]) -> Iterable[TunnelView]:
    """Make one of the ends that belong to one tunnel: it is connected when all of them are.

    Args:
        ends: what the runtime has.
        tunnel_of: the name of the tunnel that an end of that name belongs to.
    """
    joined: dict[str, TunnelView] = {}
    for end in ends:
        name = tunnel_of(end.name)
        known = joined.get(name)
        if known is None or _RANKS.get(end.state, 2) > _RANKS.get(known.state, 2):
            joined[name] = end._replace(name=name)
    return joined.values()


class Readiness:
    """Judges whether the fleet is ready, and remembers its last judgement.

    Args:
        fraction: the part of the tunnels that must be connected.
        hysteresis: see above.
    """

    def __init__(self, fraction: float, hysteresis: float) -> None:
        self.ready_at = fraction
        self.unready_below = max(0.0, fraction - hysteresis)
        self._ready = False

    def judge(self, tunnels: Iterable[TunnelView]) -> ReadinessReport:
        """Look at the tunnels, one by one; without any the fleet is ready."""
        connected = missing_count = 0
        missing: list[TunnelView] = []
        for each in tunnels:
            if each.state is TunnelState.CONNECTED:
                connected += 1
            elif each.state not in _LEAVING:
                missing_count += 1
                if len(missing) < MAX_LISTED:
                    missing.append(each)
        wanted = connected + missing_count
        fraction = connected / wanted if wanted else 1.0
        threshold = self.unready_below if self._ready else self.ready_at
        self._ready = fraction + _MARGIN >= threshold
        return ReadinessReport(
            self._ready,
            connected,
            wanted,
            fraction,
            tuple(missing),
            missing_count,
        )
