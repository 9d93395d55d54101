"""All models with many examples, each of them longer than those of the other files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.models.test_fair_queue import FairQueueModel
from tests.models.test_placement import PlacementModel
from tests.models.test_reconciler import ReconcilerModel
from tests.models.test_session import SessionModel
from tests.models.test_supervision import SupervisionModel
from tests.support.examples import MANY, many_examples

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

MODELS = (FairQueueModel, PlacementModel, ReconcilerModel, SessionModel, SupervisionModel)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_many_examples(model: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(model, settings=many_examples(MANY))  # type: ignore[no-untyped-call]
