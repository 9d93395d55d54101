"""A supervisor's book-keeping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.actors import Probe
from tests.support.supervisors import LONG
from tunnelfleet.actors.kernel import ChildSpec, ChildState
from tunnelfleet.actors.kernel.children import Child, GroupRestart, RestartIntensity


@given(
    st.lists(st.floats(0, 10), max_size=40),
    st.integers(0, 5),
    st.floats(0.5, 20),
)
def test_a_restart_is_one_too_many_when_the_period_holds_more_than_allowed(gaps, limit, period):
    intensity, now, times = RestartIntensity(limit, period), 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
        within = [t for t in times if t > now - period]
        assert intensity.allows(now) is (len(within) <= limit)


def test_quarantine_begins_at_its_limit():
    child = Child(ChildSpec("a", Probe.start, backoff=LONG, quarantine_after=2))
    states = []
    for _ in range(3):
        states.append(child.is_quarantined)
        child.backoff.record_failure(0)
    assert states == [False, False, True]
    assert not Child(ChildSpec("b", Probe.start, backoff=LONG)).is_quarantined
    assert not Child(ChildSpec("c", Probe.start)).is_quarantined


def test_a_new_child_is_down():
    child = Child(ChildSpec("a", Probe.start))
    assert child.info() == ("a", None, ChildState.STOPPED, 0, None)
    assert repr(child) == "<Child 'a' stopped>"
    child.cancel_timer()


def test_a_group_is_left_once():
    children = [Child(ChildSpec(name, Probe.start)) for name in "ab"]
    group = GroupRestart(list(children))
    group.remove(children[0])
    group.remove(children[0])
    assert group.members == [children[1]]
