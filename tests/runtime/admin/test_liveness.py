from __future__ import annotations

import asyncio
import threading

from tunnelfleet.actors.kernel import Dispatcher
from tunnelfleet.runtime.admin.server import silent_dispatchers


def test_those_that_turn_are_not_silent() -> None:
    with Dispatcher("a") as a, Dispatcher("b") as b:
        assert asyncio.run(silent_dispatchers([a, b])) == []


def test_one_that_hangs_is_named_and_one_that_ended_too() -> None:
    ended = Dispatcher("ended").start()
    ended.stop()
    with Dispatcher("turns") as turns, Dispatcher("hangs") as hangs:
        go_on = threading.Event()
        hangs.call_soon(go_on.wait)
        try:
            silent = asyncio.run(silent_dispatchers([turns, hangs, ended], 0.2))
        finally:
            go_on.set()
    assert silent == ["hangs", "ended"]
