"""How many examples stateful tests run: few as a rule, many with TUNNELFLEET_EXAMPLES."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FEW, STEPS = 40, 30
MANY, MANY_STEPS = 1_000, 80


def stateful_settings() -> settings:
    """Those of a state machine; `TUNNELFLEET_EXAMPLES=5000` tries so many, each of them longer."""
    many = os.environ.get("TUNNELFLEET_EXAMPLES")
    if many:
        return many_examples(int(many))
    return settings(max_examples=FEW, stateful_step_count=STEPS, deadline=None)


def many_examples(count: int) -> settings:
    """Those of so many examples, each of which is longer."""
    return settings(
        max_examples=count,
        stateful_step_count=MANY_STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
