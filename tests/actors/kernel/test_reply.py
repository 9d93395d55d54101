"""Answers given later than the handler's return."""

from __future__ import annotations

import pykka
import pytest

from tests.support.actors import Probe, fail
from tests.support.waiting import WAIT_SECONDS


def defer(kept):
    def handler(actor):
        kept.append(actor.defer_reply())
        return "ignored"

    return handler


def test_an_answer_can_come_later_and_only_the_first_counts(dispatcher):
    kept = []
    ref = Probe.start(dispatcher=dispatcher)
    answer = ref.ask(defer(kept), block=False)
    ref.ask("meanwhile")
    assert kept[0].is_wanted
    assert not answer.is_resolved
    ref.tell(lambda _actor: kept[0].set("now"))
    ref.tell(lambda _actor: kept[0].fail(ValueError("too late")))
    assert answer.get(timeout=WAIT_SECONDS) == "now"
    assert not kept[0].is_wanted


def test_an_answer_may_be_an_exception_and_the_actor_lives_on(dispatcher):
    def refuse(actor):
        actor.defer_reply().fail(LookupError("no such thing"))

    ref = Probe.start(dispatcher=dispatcher)
    with pytest.raises(LookupError, match="no such thing"):
        ref.ask(refuse, timeout=WAIT_SECONDS)
    assert ref.is_alive()


def test_a_message_that_was_told_wants_no_answer(dispatcher):
    kept = []
    ref = Probe.start(dispatcher=dispatcher)
    ref.tell(defer(kept))
    ref.ask("barrier")
    assert not kept[0].is_wanted
    ref.ask(lambda _actor: kept[0].set("nobody"))


def test_an_actor_that_ends_answers_all_it_owes(dispatcher):
    ref = Probe.start(dispatcher=dispatcher)
    answers = [ref.ask(defer([]), block=False) for _ in range(3)]
    ref.stop()
    for answer in answers:
        with pytest.raises(pykka.ActorDeadError, match="before it answered"):
            answer.get(timeout=WAIT_SECONDS)


def test_a_handler_that_defers_and_raises_answers_with_the_exception(dispatcher):
    def defer_and_fail(actor):
        actor.defer_reply()
        fail(ValueError("v"))(actor)

    ref = Probe.start(dispatcher=dispatcher)
    with pytest.raises(ValueError, match="v"):
        ref.ask(defer_and_fail, timeout=WAIT_SECONDS)
