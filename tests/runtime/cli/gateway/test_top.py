from __future__ import annotations

from typing import Any

import pytest

from tunnelfleet.runtime.cli.gateway.rows import SORTS
from tunnelfleet.runtime.cli.gateway.screen import plain, read_keys
from tunnelfleet.runtime.cli.gateway.top import Rates, Wish, picture

NOW = 1_700_000_000.0


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"t-{number}", "state": "connected", "sent_bytes": number, "since": NOW}
        for number in range(count)
    ]


def drawn(count: int, wish: Wish | None = None, **fields: Any) -> list[str]:
    size = {"width": 80, "height": 24, "now": NOW, **fields}
    return [plain(each) for each in picture("gateway g", rows(count), {}, wish or Wish(), **size)]


def test_rates_come_from_two_looks() -> None:
    rates = Rates()
    rates.look([{"name": "a", "sent_bytes": 100, "received_bytes": 0}], 10.0)
    assert rates.by_name == {}
    rates.look(
        [
            {"name": "a", "sent_bytes": 300, "received_bytes": 50},
            {"name": "new", "sent_bytes": 9_999},
        ],
        12.0,
    )
    assert rates.by_name == {"a": (100.0, 25.0), "new": (0.0, 0.0)}


def test_a_tunnel_that_was_started_anew_has_no_negative_rate() -> None:
    rates = Rates()
    rates.look([{"name": "a", "sent_bytes": 1_000}], 1.0)
    rates.look([{"name": "a", "sent_bytes": 10}], 2.0)
    assert rates.by_name == {"a": (0.0, 0.0)}


@pytest.mark.parametrize("height", [5, 6, 10, 24])
@pytest.mark.parametrize("count", [0, 1, 100])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_picture_fits_the_terminal(height: int, count: int, width: int) -> None:
    lines = drawn(count, width=width, height=height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_the_picture_says_what_is_shown_and_which_keys_there_are() -> None:
    lines = drawn(100, Wish("name", first=10))
    assert lines[0].startswith("gateway g")
    assert lines[1] == "100 tunnels, 100 connected"
    assert lines[4].startswith("t-10 ")
    assert "11-29 of 100" in lines[-1]
    assert "q quit" in lines[-1]
    assert "sort (name)" in lines[-1]


def test_scrolling_beyond_the_end_shows_the_last_rows() -> None:
    assert drawn(30, Wish("name", first=1_000))[-2].startswith("t-29 ")


def test_trouble_takes_the_place_of_the_summary() -> None:
    assert drawn(1, trouble="no gateway answers")[1] == "no gateway answers"


def test_keys_change_what_is_wanted() -> None:
    wish = Wish()
    for sort in [*SORTS[1:], SORTS[0]]:
        wish = wish.pressed("s", 10, 100)
        assert wish.sort == sort
    assert wish.pressed("S", 10, 100).sort == SORTS[-1]
    assert wish.pressed("r", 10, 100).is_reversed
    assert wish.pressed("pagedown", 10, 100).first == 10
    assert wish.pressed("pagedown", 10, 100).pressed("up", 10, 100).first == 9
    assert wish.pressed("end", 10, 100).first == 90
    assert wish.pressed("down", 10, 5).first == 0
    assert wish.pressed("x", 10, 100) == wish
    assert [wish.pressed(key, 10, 100).is_over for key in ("q", "Q", "\x03", "x")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("", []),
        ("sr", ["s", "r"]),
        ("\x1b[A\x1b[B", ["up", "down"]),
        ("\x1b[5~q", ["pageup", "q"]),
        ("\x1b[1;5Cq", ["q"]),
        ("\x1b[15~q", ["q"]),
        ("\x1b", []),
    ],
)
def test_keys_of_a_terminal(typed: str, keys: list[str]) -> None:
    assert read_keys(typed) == keys
