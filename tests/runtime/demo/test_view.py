from __future__ import annotations

import io

from rich.console import Console

from tests.support.demo import make_row, make_snapshot
from tunnelfleet.runtime.demo.report import DemoPhase
from tunnelfleet.runtime.demo.view import PLAIN_SECONDS, PlainView, TerminalView, make_view


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_the_stream_decides_which_view(monkeypatch: object) -> None:
    assert isinstance(make_view(io.StringIO()), PlainView)
    assert isinstance(make_view(FakeTerminal()), TerminalView)


def test_plain_lines_come_every_so_often() -> None:
    stream = io.StringIO()
    with PlainView(stream) as view:
        for quarter in range(40):
            view.update(make_snapshot(make_row(), elapsed_seconds=quarter / 4))

    assert len(lines_of(stream)) == 10 / PLAIN_SECONDS


def test_a_change_of_phase_has_its_line_at_once() -> None:
    stream = io.StringIO()
    with PlainView(stream) as view:
        for phase in (
            DemoPhase.CONNECTING,
            DemoPhase.RUNNING,
            DemoPhase.RUNNING,
            DemoPhase.FINISHING,
        ):
            view.update(make_snapshot(make_row(), phase=phase, elapsed_seconds=1.0))

    assert len(lines_of(stream)) == 3


def test_a_kept_demo_says_so_once() -> None:
    stream = io.StringIO()
    with PlainView(stream) as view:
        for second in range(100):
            view.update(make_snapshot(make_row(), phase=DemoPhase.KEEPING, elapsed_seconds=second))

    assert len(lines_of(stream)) == 1
    assert DemoPhase.KEEPING in lines_of(stream)[0]


def test_a_plain_guide_is_printed() -> None:
    stream = io.StringIO()
    with PlainView(stream) as view:
        view.guide(["curl http://127.0.0.1:1/"])

    assert lines_of(stream) == ["curl http://127.0.0.1:1/"]


def test_a_terminal_shows_the_table_with_the_guide_and_gets_its_cursor_back() -> None:
    stream = FakeTerminal()
    console = Console(file=stream, force_terminal=True, width=110, height=30, highlight=False)
    with TerminalView(console) as view:
        view.guide(["curl http://127.0.0.1:1/"])
        view.update(make_snapshot(make_row("lathe-07")))

    text = stream.getvalue()
    assert "lathe-07" in text
    assert "curl http://127.0.0.1:1/" in text
    assert text.index("\x1b[?25l") < text.index("lathe-07") < text.rindex("\x1b[?25h")
