"""Whether the process turns: each dispatcher answers within a second.

Owns the question to the dispatchers and the wait for their answers, on an event loop that is not
theirs. It knows no tunnels.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelfleet.actors.kernel import Dispatcher

__all__ = ["ANSWER_SECONDS", "silent_dispatchers"]

ANSWER_SECONDS: Final = 1.0
"""How long a dispatcher has for its answer."""


async def silent_dispatchers(
    dispatchers: Sequence[Dispatcher], timeout_seconds: float = ANSWER_SECONDS
) -> list[str]:
    """The names of those that did not answer in time."""
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
    """On the dispatcher's thread; whoever asked may have gone meanwhile."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, answer)


def _settle(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)
