"""What the actor kernel costs, beside pykka's ThreadingActor. Each function returns a flat dict.

Run it by itself with `python -m tests.bench.kernel_bench`.
"""

from __future__ import annotations

import gc
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pykka

from tests.support.memory import rss_bytes
from tunnelfleet.actors.kernel import DispatchedActor, Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykka import ActorRef

WAIT_SECONDS = 120.0
BURST_MESSAGES = 100


class _CountDown:
    """Sets an event after a number of messages."""

    def __init__(self, messages: int) -> None:
        super().__init__()
        self.left = messages
        self.done = threading.Event()

    def on_receive(self, message: Any) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


class _Sink(_CountDown, DispatchedActor):
    pass


class _ThreadSink(_CountDown, pykka.ThreadingActor):
    pass


class _Player:
    """Sends what it gets back to its partner, a number of times."""

    def __init__(self, messages: int) -> None:
        super().__init__()
        self.left = messages
        self.partner: Callable[[Any], None] | None = None
        self.done = threading.Event()

    def on_receive(self, message: Any) -> None:
        if isinstance(message, pykka.ActorRef):
            self.partner = message.tell
        elif not self.left:
            self.done.set()
        else:
            self.left -= 1
            assert self.partner is not None
            self.partner(message)


class _Rally(_Player, DispatchedActor):
    pass


class _ThreadRally(_Player, pykka.ThreadingActor):
    pass


class _Source(DispatchedActor):
    """Sends bursts to a sink on its own dispatcher, one a turn."""

    def __init__(self, sink: ActorRef[Any], messages: int) -> None:
        super().__init__()
        self.sink = sink
        self.left = messages

    def on_receive(self, message: Any) -> None:
        tell = self.sink.tell
        for _ in range(min(BURST_MESSAGES, self.left)):
            tell(message)
        self.left -= BURST_MESSAGES
        if self.left > 0:
            self.actor_ref.tell(message)


class _Idle(DispatchedActor):
    pass


class _ThreadIdle(pykka.ThreadingActor):
    pass


def _await(event: threading.Event) -> None:
    if not event.wait(WAIT_SECONDS):
        msg = f"not through after {WAIT_SECONDS} s"
        raise TimeoutError(msg)


def _cost(started: float, messages: int) -> float:
    return round((time.perf_counter() - started) / messages * 1e6, 3)


def measure_same_dispatcher(messages: int = 300_000) -> dict[str, float]:
    """Return the cost, in microseconds, of a message in a burst and of one alone (ping-pong)."""
    with Dispatcher() as dispatcher:
        sink = _Sink.start(messages, dispatcher=dispatcher)
        done = sink.cell.actor.done
        source = _Source.start(sink, messages, dispatcher=dispatcher)
        started = time.perf_counter()
        source.tell("x")
        _await(done)
        burst = _cost(started, messages)
        players = [_Rally.start(messages // 2, dispatcher=dispatcher) for _ in range(2)]
        return {
            "same_dispatcher_burst_us": burst,
            "same_dispatcher_ping_pong_us": _rally(players, messages, players[0].cell.actor.done),
        }


def _rally(players: list[Any], messages: int, done: threading.Event) -> float:
    first, second = players
    first.tell(second)
    second.tell(first)
    started = time.perf_counter()
    first.tell("x")
    _await(done)
    return _cost(started, messages)


def measure_cross_thread(messages: int = 200_000) -> dict[str, float]:
    """Return the cost, in microseconds, of a message from another thread, sent and handled."""
    with Dispatcher() as dispatcher:
        sink = _Sink.start(messages, dispatcher=dispatcher)
        done = sink.cell.actor.done
        started = time.perf_counter()
        for _ in range(messages):
            sink.tell("x")
        sent = _cost(started, messages)
        _await(done)
        return {"cross_thread_send_us": sent, "cross_thread_us": _cost(started, messages)}


def measure_ask(rounds: int = 5_000) -> dict[str, float]:
    """Return the cost, in microseconds, of a blocking ask from a thread, there and back."""
    with Dispatcher() as dispatcher:
        ref = _Sink.start(-1, dispatcher=dispatcher)
        started = time.perf_counter()
        for _ in range(rounds):
            ref.ask("x")
        return {"ask_round_trip_us": _cost(started, rounds)}


def measure_pykka(messages: int = 30_000) -> dict[str, float]:
    """Return the same costs of pykka's ThreadingActor."""
    sink = _ThreadSink.start(messages)
    done = sink.proxy().done.get()
    started = time.perf_counter()
    for _ in range(messages):
        sink.tell("x")
    _await(done)
    burst = _cost(started, messages)
    players = [_ThreadRally.start(messages // 2) for _ in range(2)]
    rally = _rally(players, messages, players[0].proxy().done.get())
    sink.stop()
    for player in players:
        player.stop()
    return {"threading_actor_burst_us": burst, "threading_actor_ping_pong_us": rally}


def measure_memory(actors: int = 30_000, threads: int = 300) -> dict[str, float]:
    """Return the resident bytes of an idle actor that has started, of ours and of pykka's."""
    with Dispatcher() as dispatcher:
        _Idle.start(dispatcher=dispatcher).ask("warm up")
        gc.collect()
        before = rss_bytes()
        refs: list[Any] = [_Idle.start(dispatcher=dispatcher) for _ in range(actors)]
        refs[-1].ask("all started")
        gc.collect()
        ours = (rss_bytes() - before) / actors
        del refs
    gc.collect()
    before = rss_bytes()
    refs = [_ThreadIdle.start() for _ in range(threads)]
    for ref in refs:
        ref.ask("started")
    gc.collect()
    theirs = (rss_bytes() - before) / threads
    for ref in refs:
        ref.stop()
    return {"actor_bytes": round(ours), "threading_actor_bytes": round(theirs)}


def measure_starts(actors: int = 20_000) -> dict[str, float]:
    """Return the cost, in microseconds, of starting and of stopping an actor from an actor."""

    class Parent(DispatchedActor):
        def on_receive(self, message: Any) -> list[Any]:
            return [_Idle.start() for _ in range(actors)]

    with Dispatcher(slow_turn_seconds=WAIT_SECONDS) as dispatcher:
        started = time.perf_counter()
        refs = Parent.start(dispatcher=dispatcher).ask("go")
        refs[-1].ask("all started")
        start = _cost(started, actors)
        started = time.perf_counter()
        futures = [ref.stop(block=False) for ref in refs]
        pykka.get_all(futures)
        return {"start_us": start, "stop_us": _cost(started, actors)}


def measurements() -> Iterator[Callable[[], dict[str, float]]]:
    """Return every measurement, memory first, while the process is young."""
    yield measure_memory
    yield measure_same_dispatcher
    yield measure_cross_thread
    yield measure_ask
    yield measure_starts
    yield measure_pykka


def measure_all() -> dict[str, float]:
    """Return all figures in one dict."""
    figures: dict[str, float] = {}
    for measure in measurements():
        figures.update(measure())
    return figures


if __name__ == "__main__":
    import logging

    logging.disable(logging.ERROR)
    print(json.dumps(measure_all(), indent=2))
