"""Families of samples, made from the catalogue.

Owns the way from a metric's name and its values to prometheus_client's families. Families of few
rows hold their samples, those of one row a tunnel make them when they are looked at. It reads no
counter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)

from .catalogue import Kind, metric
from .samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from .totals import HistogramSum

__all__ = ["Rows", "empty", "histogram", "info", "numbers", "table"]

Rows: TypeAlias = "Iterable[tuple[Sequence[str], float]]"
"""Label values, in the order of the catalogue, and the value."""

_CLASSES: dict[Kind, Any] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
    Kind.SUMMARY: SummaryMetricFamily,
}


def empty(name: str) -> Any:
    """The family of a metric, without samples."""
    found = metric(name)
    if found.kind is Kind.INFO:
        return InfoMetricFamily(found.family, found.help)
    return _CLASSES[found.kind](found.family, found.help, labels=found.labels)


def numbers(name: str, rows: Rows) -> Family:
    """A counter or gauge."""
    family: Family = empty(name)
    add = family.add_metric  # type: ignore[attr-defined]
    for labels, value in rows:
        add(labels, value)
    return family


def table(name: str, rows: Sequence[Sequence[str]], *columns: Sequence[float]) -> Family:
    """A counter, gauge or summary of many rows.

    Args:
        name: of the metric.
        rows: label values, in the order of the catalogue.
        columns: the values, in the order of the rows; of a summary the counts and the sums.
    """
    found = metric(name)
    if found.kind is Kind.SUMMARY:
        names = [f"{found.family}_count", f"{found.family}_sum"]
    else:
        names = [found.exposed]
    family: Family = empty(name)
    family.samples = Samples(names, found.labels, rows, columns)  # type: ignore[assignment]
    return family


def histogram(name: str, values: HistogramSum) -> Family:
    """A histogram without labels."""
    family: HistogramMetricFamily = empty(name)
    family.add_metric([], values.buckets(), values.total)
    return family


def info(name: str, labels: Mapping[str, str]) -> Family:
    """An info metric."""
    family: InfoMetricFamily = empty(name)
    family.add_metric([], dict(labels))
    return family
