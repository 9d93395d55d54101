from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.runtime.cli import demo as demo_cli
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from tunnelfleet.runtime.demo import DemoOptions, Report

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = [
    sys.executable,
    "-W",
    "error",
    "-c",
    "import sys; from tunnelfleet.runtime.cli import main; sys.exit(main())",
    "demo",
]
REPORT = Report(
    tunnels=2,
    connected=2,
    streams_opened=6,
    bytes_sent=1,
    bytes_received=2,
    bytes_mismatched=0,
    reconnects=3,
    session_resets=1,
    threads=8,
    rss_bytes=80_000_000,
    seconds=5.0,
)


class FakeDemo:
    """Keeps what it was asked for and returns a report at once."""

    asked: DemoOptions
    report = REPORT

    def __init__(self, options: DemoOptions, view: object) -> None:
        type(self).asked = options
        self.view = view

    def stop(self, cause: object = None) -> None:
        """Never needed."""

    def run(self) -> Report:
        return self.report


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeDemo]:
    monkeypatch.setattr(demo_cli, "Demo", FakeDemo)
    monkeypatch.setattr(FakeDemo, "report", REPORT)
    return FakeDemo


def test_the_defaults_are_those_of_the_demo(fake: type[FakeDemo]) -> None:
    assert main(["demo"]) == EXIT_OK
    assert fake.asked == DemoOptions(tunnels=20, duration_seconds=30.0, chaos=True, keep=False)


def test_options_reach_the_demo(fake: type[FakeDemo]) -> None:
    arguments = ["--tunnels", "7", "--duration", "2.5", "--no-chaos", "--keep"]

    assert main(["demo", *arguments]) == EXIT_OK
    assert fake.asked == DemoOptions(tunnels=7, duration_seconds=2.5, chaos=False, keep=True)


@pytest.mark.parametrize(
    "arguments", [["--tunnels", "0"], ["--duration", "0"], ["--tunnels", "many"], ["--what"]]
)
def test_a_mistake_is_one_line_and_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("fake")
def test_without_json_the_summary_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == EXIT_OK
    out, err = capsys.readouterr()
    assert out.splitlines() == REPORT.lines()
    assert err == ""


@pytest.mark.usefixtures("fake")
def test_with_json_stdout_has_one_object_and_stderr_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--json"]) == EXIT_OK
    out, err = capsys.readouterr()
    assert out == REPORT.to_json() + "\n"
    assert err.splitlines() == REPORT.lines()


@pytest.mark.parametrize("change", [{"bytes_mismatched": 1}, {"missing": ("press-01: gone",)}])
def test_a_bad_outcome_is_exit_status_1(
    fake: type[FakeDemo], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    fields = {name: getattr(REPORT, name) for name in REPORT.__slots__}
    monkeypatch.setattr(fake, "report", Report(**{**fields, **change}))

    assert main(["demo", "--json"]) == EXIT_FAILURE


def test_the_whole_program_as_a_script_sees_it() -> None:
    done = subprocess.run(
        [*PROGRAM, "--tunnels", "3", "--duration", "4", "--json"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    result = json.loads(done.stdout.splitlines()[-1])

    assert done.returncode == EXIT_OK, done.stderr
    assert (result["tunnels"], result["connected"], result["bytes_mismatched"]) == (3, 3, 0)
    assert result["reconnects"] > 0
    assert result["session_resets"] > 0
    assert result["threads"] <= 16
    assert len(done.stdout.splitlines()) == 1
    assert "3/3 connected" in done.stderr


class OnTerminal:
    """The program on a terminal of its own, with all that it writes."""

    def __init__(self, *arguments: str) -> None:
        self._terminal, child_side = pty.openpty()
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=child_side,
            stdout=child_side,
            stderr=child_side,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
            start_new_session=True,
        )
        os.close(child_side)
        self.text = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 65_536)
            except OSError:  # the other side is closed
                return
            with self._changed:
                self.text += data.decode(errors="replace")
                self._changed.notify_all()

    def wait_for(self, condition: Callable[[str], bool], seconds: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.text), seconds), self.text[-3_000:]

    def end(self) -> int:
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            os.close(self._terminal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_one_watches_a_table_and_ends_it_with_a_signal(
    number: signal.Signals,
) -> None:
    shown = OnTerminal("--tunnels", "3", "--duration", "600")
    shown.wait_for(lambda text: "press-01" in text and "3 of 3 tunnels connected" in text)
    shown.process.send_signal(number)

    assert shown.end() == EXIT_OK
    assert "Stopped after" in shown.text
    assert "\x1b[?25h" in shown.text[-2_000:]
    assert "Traceback" not in shown.text
