"""Samples of a large family, each made when it is looked at.

Owns a view of columns of numbers as prometheus_client's samples. A family of a thousand rows that
holds a thousand samples makes the garbage collector look at all objects of the process every few
scrapes, which stops every thread; samples that live for a moment do not. It reads no counter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from prometheus_client.samples import Sample

__all__ = ["Labelled", "Samples"]


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
        """Rows times names."""
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
        """Row by row."""
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
        """As many as without it."""
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
        """One by one."""
        return map(self._add, self._samples)

    def _add(self, sample: Sample) -> Sample:
        return sample._replace(labels={**self._label, **sample.labels})
