"""Waiting for futures in asyncio: results, errors, loops that are gone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.api.messages import SendFuture
from tunnelfleet.actors.callbacks import RelayThreads
from tunnelfleet.runtime.client.sending import awaitable, call_soon


def make(kind: str) -> Future[Any]:
    if kind == "plain":
        return Future()
    return SendFuture(RelayThreads().queue("t", print, 1))


@pytest.mark.parametrize("kind", ["plain", "send"])
def test_results_and_errors(kind: str) -> None:
    async def main() -> None:
        for result, error in ((5, None), (None, ValueError("x"))):
            future = make(kind)
            settle = (
                (lambda f=future, e=error: f.set_exception(e))
                if error
                else (lambda f=future, r=result: f.set_result(r))
            )
            timer = threading.Timer(0.01, settle)
            timer.start()
            if error is None:
                assert await awaitable(future) == result
            else:
                with pytest.raises(ValueError, match="x"):
                    await awaitable(future)
            timer.join()

    asyncio.run(main())


def test_a_blocked_callback_thread_is_not_waited_for() -> None:
    threads = RelayThreads()
    release = threading.Event()
    callback_queue = threads.queue("t", lambda _item: release.wait(5), 1)
    callback_queue.put("blocks")
    future: SendFuture[int] = SendFuture(callback_queue)

    async def main() -> int:
        asyncio.get_running_loop().call_later(0.01, future.settle, None, 3)
        return await asyncio.wait_for(awaitable(future), WAIT_SECONDS)

    assert asyncio.run(main()) == 3
    release.set()
    threads.close(5)


def test_a_closed_loop_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    call_soon(loop, lambda: None)
