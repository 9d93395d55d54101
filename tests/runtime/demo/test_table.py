from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tests.support.demo import make_row, make_snapshot
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.runtime.demo.report import DemoPhase
from tunnelfleet.runtime.demo.view import STATE_STYLES, pick_rows, plain_line, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelfleet.runtime.demo.report import FleetSnapshot, TableRow


def draw(
    snapshot: FleetSnapshot, width: int = 110, height: int = 40, footer: Sequence[str] = ()
) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(render(snapshot, width, height, footer))
    return [line.rstrip() for line in capture.get().splitlines()]


def ansi(snapshot: FleetSnapshot) -> str:
    console = Console(file=io.StringIO(), width=110, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(render(snapshot, 110, 40))
    return capture.get()


def rows(count: int, **changes: object) -> list[TableRow]:
    return [make_row(f"press-{number:03d}", **changes) for number in range(1, count + 1)]


def test_every_state_has_its_colour() -> None:
    assert set(STATE_STYLES) == set(TunnelState)
    assert len(set(STATE_STYLES.values())) == len(STATE_STYLES)


def test_a_row_says_all_there_is_to_say() -> None:
    lines = draw(make_snapshot(make_row()))

    assert [" ".join(line.split()) for line in lines[1:3]] == [
        "Tunnel State Streams Sent Received Rate Reconnects Resets Last event",
        "press-01 ● connected 3 1.5 kB 2.0 MB 12 kB/s 2 1 back after 0.4 s",
    ]


def test_colours_go_by_state() -> None:
    good = ansi(make_snapshot(make_row(state=TunnelState.CONNECTED)))
    bad = ansi(make_snapshot(make_row(state=TunnelState.REFUSED)))

    assert "\x1b[32m● connected" in good
    assert "\x1b[1;31m○ refused" in bad


def test_the_title_shows_how_far_the_demo_is() -> None:
    assert "5 / 20 s" in draw(make_snapshot(make_row()))[0]
    assert "12 kB/s" in draw(make_snapshot(make_row()))[0]


@pytest.mark.parametrize("phase", [phase for phase in DemoPhase if phase is not DemoPhase.RUNNING])
def test_the_title_shows_the_phase(phase: DemoPhase) -> None:
    assert str(phase) in draw(make_snapshot(make_row(), phase=phase))[0]


def test_the_summary_sums_up() -> None:
    text = "\n".join(
        draw(
            make_snapshot(
                make_row("a"),
                make_row("b", state=TunnelState.BACKOFF),
                verified_bytes=5_000_000,
                exchanges_completed=1_234,
                exchanges_broken=5,
                threads=8,
                rss_bytes=80_000_000,
            )
        )
    )

    for words in (
        "1 of 2 tunnels connected · 6 streams · 8 connections · 4 reconnects · 2 session resets",
        "✓ no byte wrong · 5.0 MB verified · 3.0 kB sent · 4.0 MB received",
        "1,234 transfers done · 5 broken by chaos · 8 threads · 80 MB of memory",
    ):
        assert words in text


def test_wrong_bytes_are_impossible_to_miss() -> None:
    assert "✗ 1 byte wrong" in "\n".join(draw(make_snapshot(make_row(), mismatched_bytes=1)))


@pytest.mark.parametrize("width", [40, 80, 110, 200])
@pytest.mark.parametrize("height", [12, 24, 50])
@pytest.mark.parametrize("footer", [(), ("how to", "reach it")])
def test_the_picture_fits_the_terminal(width: int, height: int, footer: tuple[str, ...]) -> None:
    long = "source: " + "the connection was reset by somebody far away " * 3
    lines = draw(make_snapshot(*rows(100, last_event=long)), width, height, footer)

    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert any(line.startswith("… ") for line in lines)


LONG_EVENTS = [
    "source: the service closed the TCP connection; retry in 12.5 s",
    "destination: the connection broke: Connection reset by peer; retry in 0.0 s",
    "destination: the service has not answered a ping within 20 s",
    "chaos: both ends dropped",
    "back after 1 min 12 s",
]


@pytest.mark.parametrize("event", LONG_EVENTS)
def test_at_80_columns_nothing_that_matters_is_cut_off(event: str) -> None:
    row = make_row(
        "lathe-12",
        state=TunnelState.QUARANTINED,
        last_event=event,
        bytes_per_second=123_000,
        reconnects=1_234,
        session_resets=123,
        sent_bytes=123_000_000,
        received_bytes=456_000_000,
    )
    snapshot = make_snapshot(
        *[row] * 20,
        verified_bytes=5_000_000_000,
        exchanges_completed=12_345,
        exchanges_broken=1_234,
        threads=10,
        rss_bytes=180_000_000,
    )
    footer = ("  HTTP  curl http://127.0.0.1:40001/" + "x" * 60, "short")
    lines = draw(snapshot, 80, 30, footer)
    assert max(map(len, lines)) <= 80
    assert len(lines) < 30
    assert not [line for line in lines if "…" in line and not line.startswith("… ")]
    assert lines[1].split() == ["Tunnel", "State", "Rate", "Last", "event"]
    what = event.removeprefix("source: ").removeprefix("destination: ").partition(";")[0]
    assert lines[2].endswith(what)
    text = "\n".join(lines)
    for words in ("24,680 reconnects", "2,460 session resets", "1,234 broken by chaos"):
        assert words in text
    assert "".join(lines[-3:]) == "".join(footer)


def test_a_narrow_terminal_does_without_what_is_summed_up() -> None:
    assert "Resets" in draw(make_snapshot(make_row()), width=110)[1]
    assert "Resets" not in draw(make_snapshot(make_row()), width=90)[1]
    assert "back after 0.4 s" in draw(make_snapshot(make_row()), width=90)[2]


def test_rows_are_in_the_order_of_their_names() -> None:
    picked = pick_rows([make_row("b"), make_row("a", state=TunnelState.BACKOFF)], 2)

    assert [row.name for row in picked] == ["a", "b"]


def test_when_not_all_fit_trouble_comes_first() -> None:
    troubled = [
        make_row("y", state=TunnelState.BACKOFF),
        make_row("z", state=TunnelState.REFUSED),
    ]
    picked = pick_rows([make_row("a"), make_row("b"), *troubled, make_row("c")], 4)

    assert [row.name for row in picked] == ["z", "y", "a"]


def test_what_is_left_out_is_counted() -> None:
    shown = [make_row(f"a{number}", state=TunnelState.BACKOFF) for number in range(30)]
    lines = draw(make_snapshot(*shown, make_row("z")), height=20)

    assert "… 19 more, 1 of them connected" in lines


def test_the_footer_comes_last() -> None:
    assert draw(make_snapshot(make_row()), footer=("one", "two"))[-2:] == ["one", "two"]


def test_nothing_opened_yet_can_be_drawn() -> None:
    assert "0 of 20 tunnels connected" in "\n".join(draw(make_snapshot(tunnels=20)))


def test_a_plain_line_is_plain_and_complete() -> None:
    assert plain_line(make_snapshot(make_row())) == (
        "[ 7.0 s] 1/1 connected, 3 streams, 1.5 kB sent, 2.0 MB received, 12 kB/s, "
        "2 reconnects, 1 session reset, 0 bytes wrong"
    )


def test_a_plain_line_names_the_phase() -> None:
    line = plain_line(make_snapshot(make_row(), phase=DemoPhase.CONNECTING))

    assert line.startswith("[ 7.0 s] connecting; 1/1 connected")
