"""What is counted of tunnels on demand. Names and meanings are in the catalogue of metrics.

Owns the numbers. They are counted on the gateway's thread alone, and read on others.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tunnelfleet.runtime.metrics.families import numbers

from .cloud import CloudTrouble
from .facts import DemandPhase, EndCause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

__all__ = ["REFUSALS", "DemandCounters"]

REFUSALS = ("failed_before", "max_open", "max_opens_per_hour", "elsewhere", "busy")
"""Why somebody who asks may be refused at once."""
OPERATIONS = ("OpenTunnel", "DescribeTunnel", "CloseTunnel", "ListTunnels")


class DemandCounters:
    """The numbers of one gateway.

    Attributes:
        opened: tunnels that OpenTunnel has opened.
        failed: openings that came to nothing, whatever the reason.
        closed: tunnels that CloseTunnel has closed, by `EndCause`.
        refused: questions that were refused at once, by one of `REFUSALS`.
        call_failures: calls that failed, by operation and `CloudTrouble`.
        waiting: tells how many clients wait.
        phases: tells how many tunnels there are, by `DemandPhase`.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.failed = 0
        self.closed = Counter(dict.fromkeys(EndCause, 0))
        self.refused = Counter(dict.fromkeys(REFUSALS, 0))
        self.call_failures = Counter(
            {(operation, trouble): 0 for operation in OPERATIONS for trouble in CloudTrouble}
        )
        self.waiting: Callable[[], int] = lambda: 0
        self.phases: Callable[[], Mapping[DemandPhase, int]] = dict

    def collect(self) -> Iterator[Metric]:
        """The families, for a collector of prometheus_client."""
        yield numbers("demand_opened", [((), self.opened)])
        yield numbers("demand_failed", [((), self.failed)])
        yield numbers(
            "demand_closed", [((cause.value,), count) for cause, count in self.closed.items()]
        )
        yield numbers("demand_refused", [((why,), count) for why, count in self.refused.items()])
        yield numbers(
            "demand_call_failures",
            [
                ((operation, trouble.value), count)
                for (operation, trouble), count in self.call_failures.items()
            ],
        )
        yield numbers("demand_waiting", [((), self.waiting())])
        phases = self.phases()
        yield numbers(
            "demand_tunnels", [((each.value,), phases.get(each, 0)) for each in DemandPhase]
        )
