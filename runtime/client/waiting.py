"""Waiting for a tunnel's futures in asyncio, without a detour over the callback threads.

A callback that blocks holds up the done-callbacks of futures; a coroutine that sends need not wait
for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from tunnelfleet.actors.outgoing import SendFuture

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["awaitable", "call_soon"]

T = TypeVar("T")


async def awaitable(future: Future[T]) -> T:
    """Wait for a future of a tunnel; returns its result or raises its error."""
    if isinstance(future, SendFuture):
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        future.add_direct_callback(lambda _future: call_soon(loop, done.set))
        await done.wait()
        return future.result()  # type: ignore[no-any-return]
    return await asyncio.wrap_future(future)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Call a function in a loop, from any thread; a loop that is closed has nobody waiting."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return
