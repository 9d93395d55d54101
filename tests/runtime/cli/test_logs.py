"""The lines of the commands' log: time, process, level, tunnel."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually
from tunnelfleet.actors.kernel import DispatchedActor, Dispatcher
from tunnelfleet.actors.transport import attempt
from tunnelfleet.runtime import Endpoint, Mode, TunnelConfig, TunnelRuntime
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.output import LOGGER, log_lines, start

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = re.compile(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\]\{\d+\}\[([A-Z]+)\] (.*)")


class Err:
    """What is written on stderr, which pytest has replaced, as a live table does."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def entries(self, word: str = "") -> list[tuple[str, str]]:
        """Level and text of each line of the log so far that has a word in it."""
        self._text += self._capsys.readouterr().err
        found = [LINE.fullmatch(line) for line in self._text.splitlines()]
        return [(match[1], match[2]) for match in found if match is not None and word in match[2]]


@pytest.fixture
def err(capsys: pytest.CaptureFixture[str]) -> Iterator[Err]:
    with log_lines():
        yield Err(capsys)


def test_a_line_has_time_process_and_level(err: Err) -> None:
    logger = logging.getLogger(f"{LOGGER}.some.module")
    logger.warning("it is %s", "late")
    logger.info("nobody asked")
    logging.getLogger("websocket").error("another library's")
    assert err.entries() == [("WARNING", "it is late")]


class Loud(DispatchedActor):
    def __init__(self, label: str = "") -> None:
        super().__init__()
        if label:
            self.set_label(label)

    def on_start(self) -> None:
        logging.getLogger(f"{LOGGER}.test").warning("started")

    def on_receive(self, message: object) -> object:
        return Loud.start()


def test_a_line_says_whose_actor_it_is(err: Err) -> None:
    with Dispatcher("test") as dispatcher:
        for label in ("press-4", "press-5", ""):
            ref = Loud.start(label, dispatcher=dispatcher)
            # What an actor starts belongs where it does.
            ref.ask("start another")
        eventually(lambda: len(err.entries("started")) == 6, "six lines")
    assert sorted(err.entries("started")) == [
        ("WARNING", "press-4: started"),
        ("WARNING", "press-4: started"),
        ("WARNING", "press-5: started"),
        ("WARNING", "press-5: started"),
        ("WARNING", "started"),
        ("WARNING", "started"),
    ]


def test_a_tunnel_s_actors_name_their_tunnel(err: Err, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(attempt, "ConnectAttempt", crash)
    config = TunnelConfig(
        name="press-4", mode=Mode.SOURCE, endpoint=Endpoint.parse("ws://h"), access_token="t"
    )
    with TunnelRuntime() as runtime:
        runtime.open_tunnel(config)
        eventually(lambda: bool(err.entries("Unhandled")), "a line")
    level, text = err.entries("Unhandled")[0]
    assert level == "ERROR"
    assert text.startswith("press-4: Unhandled exception in WebSocketActor")


def test_it_is_on_while_a_command_runs_alone() -> None:
    logger = logging.getLogger(LOGGER)
    before = (logger.level, logger.propagate, list(logger.handlers))
    assert main(["version"]) == 0
    with log_lines():
        assert logger.propagate is False
        start(logging.DEBUG)
        assert [type(each).__name__ for each in logger.handlers].count("LogHandler") == 1
        assert logger.level == logging.DEBUG
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
