from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.runtime.cli.gateway.screen import (
    Cell,
    Column,
    Styled,
    cut,
    cut_line,
    lay_out,
    plain,
    wrap,
)

COLUMNS = (
    Column("NAME", min_width=6, stretches=True),
    Column("STATE"),
    Column("BYTES", rank=2, is_right=True),
    Column("NOTE", rank=3, min_width=5, stretches=True),
    Column("REASON", rank=1, min_width=8, stretches=True),
)
ROWS: list[tuple[Cell, ...]] = [
    ("press-1", "up", "12 kB", "n" * 30, ""),
    ("press-22", Styled("down", "red"), "0 B", "", "the service does not answer at all"),
]


def table_lines(width: int | None) -> list[str]:
    return [plain(line) for line in lay_out(COLUMNS, ROWS, width)]


def test_a_pipe_gets_all_of_it() -> None:
    head, first, second = table_lines(None)
    assert head.split() == ["NAME", "STATE", "BYTES", "NOTE", "REASON"]
    assert "n" * 30 in first
    assert second.endswith("  the service does not answer at all")
    assert first.index("12 kB") + 5 == second.index("0 B") + 3 == head.index("BYTES") + 5


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (120, "NAME STATE BYTES NOTE REASON"),
        (44, "NAME STATE BYTES NOTE REASON"),
        (32, "NAME STATE BYTES REASON"),
        (24, "NAME STATE REASON"),
        (20, "NAME STATE"),
    ],
)
def test_columns_give_way_by_their_rank(width: int, heads: str) -> None:
    lines = table_lines(width)
    assert lines[0].split() == heads.split()
    assert all(len(line) <= width for line in lines)


def test_what_is_cut_says_so() -> None:
    assert table_lines(40)[2].endswith("…")


def test_a_column_without_a_value_is_left_out_of_a_terminal() -> None:
    rows = [("a", "up", "", "", ""), ("b", "up", "", "", "")]
    assert plain(lay_out(COLUMNS, rows, 80)[0]).split() == ["NAME", "STATE"]
    assert len(plain(lay_out(COLUMNS, rows, None)[0]).split()) == 5


def test_an_empty_table_has_its_head() -> None:
    assert [plain(line).split()[0] for line in lay_out(COLUMNS, [], 80)] == ["NAME"]


def test_styles_stay_with_their_text() -> None:
    line = lay_out(COLUMNS, ROWS, 80)[2]
    assert [piece.text for piece in line if piece.style == "red"] == ["down"]


def test_text_of_a_peer_cannot_break_a_line() -> None:
    (_head, line) = lay_out(COLUMNS, [("a\nb", "\x1b[31m", "", "", "")], None)
    assert "\n" not in plain(line)
    assert "\x1b" not in plain(line)


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.text(max_size=40)] * 5), max_size=4), st.integers(20, 200))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, ...]], width: int) -> None:
    lines = lay_out(COLUMNS, rows, width)
    assert len(lines) == len(rows) + 1
    for line in lines:
        assert sum(len(piece.text) for piece in line) <= width


@given(st.text(alphabet="ab c", max_size=60), st.integers(1, 30))
def test_a_cut_text_has_room(text: str, width: int) -> None:
    found = cut(text, width)
    assert len(found) <= width
    assert found == text or found.endswith("…")


@given(st.lists(st.text(alphabet="abc", max_size=9), max_size=6), st.integers(1, 40))
def test_a_cut_line_has_room_and_says_that_it_is_cut(texts: list[str], width: int) -> None:
    line = tuple(Styled(text) for text in texts)
    found = "".join(piece.text for piece in cut_line(line, width))
    whole = "".join(texts)
    assert len(found) <= width
    assert found == whole if len(whole) <= width else found.endswith("…")


@given(st.text(alphabet="abc ", max_size=80), st.integers(4, 30), st.integers(0, 3))
def test_wrapping_loses_only_blanks(text: str, width: int, indent: int) -> None:
    lines = wrap(text, width, indent)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(len(line) <= width for line in lines)


def test_nothing_behind_a_long_word_is_one_empty_line() -> None:
    assert wrap("", 80, 100) == [""]


def test_a_pipe_is_not_wrapped() -> None:
    assert wrap("a " * 100, None) == ["a " * 100]
