"""What a child spec refuses."""

from __future__ import annotations

import pytest

from tests.support.actors import Probe
from tunnelfleet.actors.kernel import Backoff, ChildSpec, Restart, Shutdown


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"significant": True}, "permanent child cannot be significant"),
        ({"quarantine_after": 3}, "needs a backoff"),
        ({"quarantine_after": 0, "backoff": Backoff()}, "at least 1"),
        ({"shutdown": -1.0}, "shutdown must be"),
        ({"shutdown": float("inf")}, "shutdown must be"),
        ({"shutdown": float("nan")}, "shutdown must be"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, text):
    with pytest.raises(ValueError, match=text) as caught:
        ChildSpec("camera", Probe.start, **values)
    assert "'camera'" in str(caught.value)


def test_the_defaults_are_otps():
    spec = ChildSpec("camera", Probe.start)
    assert spec.restart is Restart.PERMANENT
    assert spec.shutdown == 5.0
    assert spec.backoff is None


def test_values_that_go_together_are_taken():
    ChildSpec("a", Probe.start, significant=True, restart=Restart.TRANSIENT)
    ChildSpec("b", Probe.start, quarantine_after=1, backoff=Backoff(), shutdown=Shutdown.INFINITY)
    ChildSpec("c", Probe.start, shutdown=0.0)
