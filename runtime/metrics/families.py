"""Metric families for prometheus-client, made of sums at the time of a scrape.

Owns how counters become samples with labels and names. Must not know tunnels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Sample,
    SummaryMetricFamily,
)

from .catalogue import Kind, metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric as Family

    from .totals import HistogramSum


class Samples(Sequence[Sample]):
    """Rows of labels and, for each name of a sample, a column of values.

    Args:
        names: of the samples that each row has.
        label_names: of every row.
        rows: the label values.
        columns: one a name, each as long as `rows`.
    """

    __slots__ = ("_columns", "_label_names", "_names", "_rows")

    def __init__(
        self,
        names: Sequence[str],
        label_names: Sequence[str],
        rows: Sequence[Sequence[str]],
        columns: Sequence[Sequence[float]],
    ) -> None:
        self._names = names
        self._label_names = label_names
        self._rows = rows
        self._columns = columns

    def __len__(self) -> int:
        """Return the number of samples: one for each row and name."""
        return len(self._rows) * len(self._names)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """A sample, or a list of them."""
        if isinstance(index, slice):
            return [self._make(number) for number in range(*index.indices(len(self)))]
        return self._make(range(len(self))[index])

    def __iter__(self) -> Iterator[Sample]:
        """Make the samples, row by row."""
        return map(self._make, range(len(self)))

    def _make(self, number: int) -> Sample:
        row, column = divmod(number, len(self._names))
        labels = dict(zip(self._label_names, self._rows[row], strict=True))
        return Sample(self._names[column], labels, self._columns[column][row])


class Labelled(Sequence[Sample]):
    """Samples with one label more.

    Args:
        samples: those without it.
        name: of the label.
        value: the same for all.
    """

    __slots__ = ("_label", "_samples")

    def __init__(self, samples: Sequence[Sample], name: str, value: str) -> None:
        self._samples = samples
        self._label = {name: value}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """A sample, or a list of them."""
        if isinstance(index, slice):
            return [self._add(sample) for sample in self._samples[index]]
        return self._add(self._samples[index])

    def __iter__(self) -> Iterator[Sample]:
        """Make the samples, one by one."""
        return map(self._add, self._samples)

    def _add(self, sample: Sample) -> Sample:
        return sample._replace(labels={**self._label, **sample.labels})


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
