"""What is counted of connections that gateways carry for each other.

Owns the numbers and their metrics, whose names and meanings are in the catalogue. Whoever counts is
on the gateway's thread.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tunnelfleet.runtime.metrics.families import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

__all__ = ["FORWARD_FAILURES", "ForwardCounters"]

FORWARD_FAILURES = ("unreachable", "handshake", "stranger", "protocol", "late", "busy")
"""Why a gateway could not be asked, or one that called was turned away."""


class ForwardCounters:
    """The numbers of one gateway.

    Attributes:
        forwarded: connections that another gateway has taken for this one.
        taken: connections that this one has taken for another.
        refused: questions that another gateway has refused.
        failures: by reason, one of `FORWARD_FAILURES`.
        sent_bytes: of applications, to other gateways.
        received_bytes: of applications, from other gateways.
        open: connections between gateways, in their handshake too.
    """

    def __init__(self) -> None:
        self.forwarded = 0
        self.taken = 0
        self.refused = 0
        self.failures = Counter(dict.fromkeys(FORWARD_FAILURES, 0))
        self.sent_bytes = 0
        self.received_bytes = 0
        self.open = 0

    def collect(self) -> Iterator[Metric]:
        """Return the families, for a collector of prometheus_client."""
        streams = [(("out",), self.forwarded), (("in",), self.taken)]
        yield numbers("forward_connections", streams)
        yield numbers("forward_open", [((), self.open)])
        yield numbers("forward_refused", [((), self.refused)])
        failures = [((reason,), count) for reason, count in self.failures.items()]
        yield numbers("forward_failures", failures)
        sizes = [(("out",), self.sent_bytes), (("in",), self.received_bytes)]
        yield numbers("forward_bytes", sizes)
