"""`tunnelfleet logs`: which events are shown, how, and what becomes of a gateway that goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tunnelfleet.runtime.cli.gateway import logs
from tunnelfleet.runtime.cli.gateway.logs import (
    LEVELS,
    MAX_RECENT_EVENTS,
    _follow,
    _LogView,
    event_line,
)
from tunnelfleet.runtime.cli.gateway.screen import plain
from tunnelfleet.runtime.gateway.api.address import GatewayAddress, GatewayNotReached
from tunnelfleet.runtime.gateway.api.client import GatewayClient, GatewayEvent


class Enough(Exception):  # noqa: N818 - ends what goes on for ever
    """All that was to come has come."""


class Answers:
    """A gateway that answers a script: lists of events, or the error that ends a request."""

    def __init__(self, *script: list[GatewayEvent] | Exception) -> None:
        self._script = list(script)
        self.asked: list[tuple[int, str | None]] = []

    def events(
        self, *, recent: int, after: str | None = None, only_past: bool = False
    ) -> Iterator[GatewayEvent]:
        self.asked.append((recent, after))
        if not self._script:
            raise Enough
        answer = self._script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield from answer


def event(number: int, level: str = "info", **data: Any) -> GatewayEvent:
    return GatewayEvent(str(number), "noted", {"level": level, "message": f"m{number}", **data})


LOST = GatewayEvent("", "lost", {})
AWAY = GatewayNotReached(GatewayAddress(path="/x"), ConnectionRefusedError(111, "refused"))


@pytest.fixture(autouse=True)
def without_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "RETRY_SECONDS", 0.0)


def follow(answers: Answers, view: _LogView, recent: int = 20) -> None:
    with pytest.raises(Enough):
        _follow(cast("GatewayClient", answers), view, recent)


def test_it_goes_on_behind_the_last_event_that_came(capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers([event(1), event(2, "debug"), LOST, event(3)], [event(3)], [])
    follow(answers, _LogView((), LEVELS.index("info"), as_json=False))
    # The second was not written, and is not asked for again all the same.
    assert answers.asked == [(20, None), (20, "2"), (20, "3"), (20, "3")]
    shown = capsys.readouterr()
    assert [line.split()[-1] for line in shown.out.splitlines()] == ["m1", "m3"]
    assert shown.err == "events came faster than they were read; some are missing\n"


@pytest.mark.parametrize(
    ("names", "level", "asked", "shown"),
    [
        ((), "debug", 2, ["m3", "m4"]),
        ((), "warning", MAX_RECENT_EVENTS, ["m1", "m2"]),
        (("press-1",), "debug", MAX_RECENT_EVENTS, ["m0", "m1"]),
        (("press-9",), "debug", MAX_RECENT_EVENTS, []),
    ],
    ids=["all", "level", "name", "none"],
)
def test_the_last_ones_are_those_of_what_is_asked_for(
    names: tuple[str, ...],
    level: str,
    asked: int,
    shown: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """However much else has happened after them."""
    past = [event(number, tunnel="press-1") for number in range(2)]
    past[1:] = [event(1, "warning", tunnel="press-1"), event(2, "error"), event(3), event(4)]
    answers = Answers(past[-asked:])
    view = _LogView(names, LEVELS.index(level), as_json=False)
    assert view.show_past(cast("GatewayClient", answers), 2) is bool(shown)
    assert answers.asked == [(asked, None)]
    assert view.last == "4"
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == shown


def test_a_gateway_that_goes_away_is_waited_for_and_that_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = Answers([event(1)], AWAY, AWAY, [event(2)], AWAY)
    follow(answers, _LogView((), 0, as_json=False))
    assert capsys.readouterr().err == f"{AWAY}; waiting for it\n" * 2


def test_what_was_before_is_shown_once_even_if_it_was_nothing() -> None:
    answers = Answers([], AWAY)
    follow(answers, _LogView((), 0, as_json=False))
    assert [recent for recent, _after in answers.asked] == [20, 0, 0]


def test_a_gateway_that_has_never_answered_is_a_mistake() -> None:
    with pytest.raises(GatewayNotReached):
        _follow(cast("GatewayClient", Answers(AWAY)), _LogView((), 0, as_json=False), 20)


@pytest.mark.parametrize(
    ("names", "level", "shown"),
    [
        ((), "debug", ["1", "2", "3", "4"]),
        ((), "warning", ["2", "3"]),
        (("press-*",), "debug", ["1", "2"]),
        (("gate", "press-2"), "warning", ["2"]),
        (("PRESS-1",), "debug", []),
    ],
    ids=["all", "level", "pattern", "both", "case counts"],
)
def test_names_and_level_choose(
    names: tuple[str, ...], level: str, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    view = _LogView(names, LEVELS.index(level), as_json=True)
    for each in (
        event(1, tunnel="press-1"),
        event(2, "error", tunnel="press-2"),
        # A level that a later gateway may have is shown.
        event(3, "fatal"),
        event(4, "debug", tunnel="gate"),
    ):
        view.show(each)
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["message"] for each in written] == [f"m{number}" for number in shown]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            {"time": 0.25, "level": "warning", "tunnel": "a", "message": "it\nis lost"},
            "1970-01-01T00:00:00.250Z warning a: it is lost",
        ),
        ({"level": "info", "id": "7", "size": 3}, " info    tunnel gone size=3"),
        ({"time": 1e300, "level": "le\x1bvel", "message": "m"}, " le vel  m"),
        ({"time": "soon", "message": ""}, " info"),
    ],
    ids=["all", "no message", "nonsense", "empty"],
)
def test_a_line(data: dict[str, Any], line: str) -> None:
    assert plain(event_line("tunnel_gone", data)) == line
