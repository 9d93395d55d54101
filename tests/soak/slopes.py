"""Whether a series of samples is flat: its slope by least squares, with an interval, and a bound.

Samples that follow each other are alike, so they are averaged into blocks first; the regression
takes the blocks. Pure.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR_SECONDS = 3_600.0
WARM_UP_SHARE = 0.2
"""This share of the run is not looked at: caches, pools and the allocator fill up."""
BLOCKS = 24
"""What is left is averaged into so many blocks."""

BOUNDS_PERCENT = {
    "gateway rss MiB": 8.0,
    "gateway heap MiB": 5.0,
    "gateway blocks": 5.0,
    "gateway descriptors": 5.0,
    "gateway threads": 15.0,
    "gateway actors": 5.0,
    "gateway turn %": 25.0,
    "service rss MiB": 8.0,
    "service heap MiB": 5.0,
    "service blocks": 5.0,
    "service descriptors": 5.0,
    "service threads": 15.0,
    "service actors": 5.0,
}
"""What may be added in an hour, in percent of the mean: the upper end of the interval is below.

There are 15 threads, and their number is a whole one: two in an hour is what can be told. A leak is
more, for hundreds of tunnels come and go in an hour, and thousands of links and connections.

The time of a turn is that in percent of a fixed piece of work at the same time (`pace`).

The PSS is drawn and not judged: it rises when other processes end that share the same libraries.
"""


class Slope(NamedTuple):
    """How a series grows.

    Attributes:
        mean: of the series after the warm-up.
        percent: growth in an hour, in percent of the mean.
        low: lower end of the interval of 95 %.
        high: upper end of it.
        bound: what the upper end must not exceed.
    """

    mean: float
    percent: float
    low: float
    high: float
    bound: float

    @property
    def is_flat(self) -> bool:
        """Whether it does not grow by more than its bound, as far as can be told."""
        return self.high <= self.bound


def slope(points: Sequence[tuple[float, float]], bound: float) -> Slope:
    """Judge points.

    Args:
        points: (seconds, value).
        bound: in percent of the mean an hour.

    Raises:
        ValueError: there are fewer than three points after the warm-up.
    """
    begins = points[0][0] + WARM_UP_SHARE * (points[-1][0] - points[0][0]) if points else 0.0
    found = _blocks([point for point in points if point[0] >= begins])
    if len(found) < 3:
        msg = f"a slope needs three points after the warm-up, not {len(found)}"
        raise ValueError(msg)
    times, values = [at for at, _ in found], [value for _, value in found]
    mean = statistics.fmean(values)
    line = statistics.linear_regression(times, values)
    free = len(found) - 2
    rest = sum(
        (value - line.intercept - line.slope * at) ** 2
        for at, value in zip(times, values, strict=True)
    )
    spread = sum((at - statistics.fmean(times)) ** 2 for at in times)
    margin = _student(free) * math.sqrt(rest / free / spread)
    percent = 100.0 * HOUR_SECONDS / mean if mean else 0.0
    return Slope(
        mean,
        line.slope * percent,
        (line.slope - margin) * percent,
        (line.slope + margin) * percent,
        bound,
    )


def _blocks(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = max(1, len(points) // BLOCKS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    # The last one may have fewer, and would weigh as much.
    whole = [group for group in groups if len(group) == size]
    return [
        (statistics.fmean(at for at, _ in group), statistics.fmean(value for _, value in group))
        for group in whole
    ]


def _student(free: int) -> float:
    """The 97.5 % quantile of Student's t, within 1 % from four degrees of freedom on."""
    return 1.959964 + 2.372 / free + 2.82 / free**2 + 2.56 / free**3
