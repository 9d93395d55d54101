"""How many examples stateful tests run: few as a rule, many with TUNNELFLEET_EXAMPLES."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FEW, STEPS = 40, 30
MANY_STEPS = 80


def stateful_settings() -> settings:
    """Those of a state machine; `TUNNELFLEET_EXAMPLES=5000` tries so many, each of them longer."""
    many = os.environ.get("TUNNELFLEET_EXAMPLES")
    return settings(
        max_examples=int(many) if many else FEW,
        stateful_step_count=MANY_STEPS if many else STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck) if many else [],
    )
