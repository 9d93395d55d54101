"""What a page shows of the other gateways: it waits for nobody, and asks now and then."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.forward.survey import FleetSurvey
from tunnelfleet.runtime.gateway.page import sample
from tunnelfleet.runtime.gateway.page.sample import FleetWatch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Survey:
    """The other gateways; a question is held up until the test lets it go."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        self.failure: TunnelError | None = None

    def __call__(self, _gateway: object, _others: object) -> FleetSurvey:
        self.asked += 1
        assert self.may_answer.wait(WAIT_SECONDS)
        if self.failure is not None:
            raise self.failure
        return FleetSurvey([{"name": f"survey {self.asked}"}])


@pytest.fixture
def survey(monkeypatch: pytest.MonkeyPatch) -> Survey:
    made = Survey()
    monkeypatch.setattr(sample, "look_at_fleet", made)
    monkeypatch.setattr(sample, "SURVEY_AGE_SECONDS", 0.0)
    monkeypatch.setattr(sample, "SURVEYS_SHARE", 1e9)
    return made


def watch_of(*members: str) -> FleetWatch:
    gateway: Any = SimpleNamespace(placement=SimpleNamespace(members=lambda: members), others=None)
    return FleetWatch(gateway)


@pytest.fixture
def watch(survey: Survey) -> Iterator[FleetWatch]:
    made = watch_of("one", "two")
    yield made
    survey.may_answer.set()
    made.close()


def number_of(watch: FleetWatch) -> int:
    """Which survey is shown; 0 for none."""
    found = watch.look()
    return int(found.gateways[0]["name"].split()[1]) if found.gateways else 0


def test_a_gateway_that_is_alone_asks_nobody(survey: Survey) -> None:
    watch = watch_of()
    assert watch.look() == FleetSurvey()
    assert survey.asked == 0
    watch.close()


def test_nobody_waits_and_nobody_asks_twice_at_once(watch: FleetWatch, survey: Survey) -> None:
    assert number_of(watch) == 0
    eventually(lambda: survey.asked == 1)
    assert number_of(watch) == 0
    assert survey.asked == 1
    survey.may_answer.set()
    eventually(lambda: number_of(watch) > 1)


def test_what_was_found_is_shown_until_there_is_something_else(
    watch: FleetWatch, survey: Survey
) -> None:
    survey.may_answer.set()
    eventually(lambda: number_of(watch) > 0)
    survey.failure = TunnelError("the state is away")
    before = survey.asked
    eventually(lambda: number_of(watch) > 0 and survey.asked > before + 2)
    survey.failure, before = None, survey.asked
    eventually(lambda: number_of(watch) > before)
