"""Which group is moved so that nodes have equally many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.runtime.ray_fleet.fleet import next_to_move


def groups_on(*nodes: str) -> list[dict[str, str]]:
    return [{"group": f"group-{number}", "node": node} for number, node in enumerate(nodes)]


@pytest.mark.parametrize(
    ("placed", "nodes", "moved"),
    [
        ([], ["a"], None),
        (["a"], [], None),
        (["a"], ["a", "b"], None),
        (["a", "a"], ["a", "b"], "group-1"),
        (["a", "b", "a"], ["a", "b"], None),
        (["a"] * 12, ["a", "b"], "group-11"),
        # One on a node that is gone is Ray's to place.
        (["gone", "gone", "a", "a"], ["a", "b"], "group-3"),
        (["gone", "gone"], ["a", "b"], None),
    ],
)
def test_which_is_next(placed: list[str], nodes: list[str], moved: str | None) -> None:
    assert next_to_move(groups_on(*placed), nodes) == moved


@given(st.lists(st.sampled_from("abcd"), max_size=20))
def test_moves_come_to_an_end_and_nodes_are_even_then(placed: list[str]) -> None:
    nodes = list("abcd")
    groups = groups_on(*placed)
    moves = 0
    while (found := next_to_move(groups, nodes)) is not None:
        counts = {node: sum(each["node"] == node for each in groups) for node in nodes}
        (group,) = [each for each in groups if each["group"] == found]
        group["node"] = min(nodes, key=lambda node: counts[node])
        moves += 1
        assert moves <= len(groups)
    counts = {node: sum(each["node"] == node for each in groups) for node in nodes}
    assert max(counts.values()) - min(counts.values()) < 2
