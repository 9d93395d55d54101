"""What the files of gateways' actors have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def quick_ways() -> Iterator[None]:
    """What is looked at now and then is looked at often, and what comes back comes at once."""
    from tunnelfleet.actors.kernel import Backoff

    at_once = Backoff(min_seconds=0.01, max_seconds=0.05)
    place = "tunnelfleet.runtime"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{place}.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.02)
        patch.setattr(f"{place}.gateway.supervisor.BACKOFF", at_once)
        patch.setattr(f"{place}.gateway.workers.processes.BACKOFF", at_once)
        patch.setattr(f"{place}.supervisor.TUNNEL_BACKOFF", at_once)
        yield
