"""Which dispatcher a thread belongs to."""

from __future__ import annotations

import pytest

from tests.support.actors import Log
from tunnelfleet.actors.kernel import BlockingCallError, Dispatcher
from tunnelfleet.actors.kernel.context import current_dispatcher, refuse_to_block


def test_a_thread_of_ones_own_has_none_and_may_block():
    assert current_dispatcher() is None
    refuse_to_block("waiting")


def test_each_dispatcher_thread_has_its_own(dispatcher, other):
    log = Log()
    for made in (dispatcher, other):
        made.call_soon(lambda: log.add(Dispatcher.current()))
        log.wait_for(lambda items, made=made: items[-1:] == [made])


def test_a_dispatcher_thread_may_not_block(dispatcher):
    log = Log()

    def block():
        with pytest.raises(BlockingCallError, match=r"waiting would block .*'test'.*use tell"):
            refuse_to_block("waiting")
        log.add("refused")

    dispatcher.call_soon(block)
    assert log.wait() == ["refused"]
