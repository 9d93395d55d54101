"""Whether this process is traced, as `make coverage` and debuggers do it.

Each line then takes several times as long as it does for users, so a bound of the processor's time
says nothing about the code: it is left out, and all else that a test asserts stays.
"""

from __future__ import annotations

import sys


def is_traced() -> bool:
    """Whether lines of this thread are traced, or monitored for coverage."""
    monitoring = getattr(sys, "monitoring", None)
    is_monitored = monitoring is not None and monitoring.get_tool(monitoring.COVERAGE_ID)
    return sys.gettrace() is not None or bool(is_monitored)


def check_processor_seconds(took: float, limit: float, what: str = "it") -> None:
    """Fail if it took more than the limit of the processor's time, unless all of it is traced."""
    assert took <= limit or is_traced(), f"{what} took {took:.3f} s, and at most {limit:g} s may be"
