"""What a fork leaves in the child, and what it must not touch there."""

from __future__ import annotations

import pytest

from tests.support.actors import Probe, loop_factories
from tests.support.forks import in_child
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
