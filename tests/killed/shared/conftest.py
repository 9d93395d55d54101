"""What the files whose cases share a rig have in common."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

THREAD_EXIT_SECONDS = 30.0


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> None:
    """A rig starts threads when it needs them: they are looked for when it has ended."""


@pytest.fixture(scope="module", autouse=True)
def _no_threads_behind_a_file() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_EXIT_SECONDS
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    leaked = [each.name for each in set(threading.enumerate()) - before if each.is_alive()]
    assert not leaked, f"threads outlived their rig: {leaked}"


@pytest.fixture(scope="module")
def quick_ways() -> Iterator[None]:
    """What is looked at now and then is looked at often; what comes back comes at once."""
    from tunnelfleet.actors.kernel import Backoff

    at_once = Backoff(min_seconds=0.01, max_seconds=0.05)
    place = "tunnelfleet.runtime"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{place}.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.02)
        patch.setattr(f"{place}.gateway.supervisor.BACKOFF", at_once)
        patch.setattr(f"{place}.gateway.workers.processes.BACKOFF", at_once)
        patch.setattr(f"{place}.gateway.workers.tunnel.OPEN_AGAIN_SECONDS", 0.1)
        patch.setattr(f"{place}.supervisor.TUNNEL_BACKOFF", at_once)
        yield
