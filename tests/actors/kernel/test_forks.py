"""What a fork leaves in the child, and what it must not touch there."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.actors import Probe, hold, loop_factories
from tests.support.forks import CHILD_SECONDS, fork, in_child
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.kernel import Dispatcher, ForkedProcessError, ForkGuard
from tunnelfleet.actors.kernel.context import has_forked


def test_a_guard_knows_its_process() -> None:
    guard = ForkGuard("the tunnel")
    guard.check()

    def look() -> str:
        with pytest.raises(ForkedProcessError, match="the tunnel runs in the process"):
            guard.check()
        ForkGuard("a new one").check()
        return f"{guard.is_foreign} {has_forked()}"

    assert in_child(look) == "'True False'"
    assert not guard.is_foreign
    assert has_forked()


@pytest.mark.parametrize("factory", loop_factories(), ids=lambda factory: factory.__module__)
def test_the_child_leaves_the_event_loop_to_the_parent(factory: object) -> None:
    """Closing it in the child would take the parent's wake-up off the list of what is polled."""
    with Dispatcher("test", loop_factory=factory) as dispatcher:  # type: ignore[arg-type]
        ref = Probe.start(dispatcher=dispatcher)

        def run_another() -> object:
            with Dispatcher("mine", loop_factory=factory) as mine:  # type: ignore[arg-type]
                return Probe.start(dispatcher=mine).ask("hello", timeout=WAIT_SECONDS)

        for _ in range(3):
            assert in_child(run_another) == "'hello'"
            assert ref.ask("hello", timeout=WAIT_SECONDS) == "hello"


def test_a_child_may_leave_the_block_of_a_parents_dispatcher() -> None:
    with Dispatcher("test") as dispatcher:
        ref = Probe.start(dispatcher=dispatcher)
        assert in_child(lambda: dispatcher.__exit__(None, None, None)) == "None"
        assert ref.ask("hello", timeout=WAIT_SECONDS) == "hello"


@pytest.mark.parametrize("factory", loop_factories(), ids=lambda factory: factory.__module__)
def test_a_child_that_a_handler_forked_ends_with_the_handler(factory: object) -> None:
    """Nothing can follow: the event loop, and all that waits, are the parent's."""
    reads, writes = os.pipe()

    def fork_here(_actor: object) -> int:
        pid = fork()
        os.write(writes, b"child " if pid == 0 else b"parent ")
        if pid == 0:
            # Its default action ends a child that hangs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(CHILD_SECONDS)
        return pid

    def come_after(_actor: object) -> None:
        os.write(writes, b"after ")

    with Dispatcher("test", loop_factory=factory) as dispatcher:  # type: ignore[arg-type]
        ref = Probe.start(dispatcher=dispatcher)
        with hold(dispatcher):
            forked = ref.ask(fork_here, block=False)
            ref.tell(come_after)
        pid = forked.get(timeout=WAIT_SECONDS)
        _, status = os.waitpid(pid, 0)
        assert ref.ask("hello", timeout=WAIT_SECONDS) == "hello"
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read().split()
    assert status == 0
    assert sorted(said) == [b"after", b"child", b"parent"]
