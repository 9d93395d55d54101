"""Sums over fleets, the metric families of a scrape, and how they are rendered.

`Totals` adds up, by column, integers that other threads write; it takes no lock, and copies a dict
before it looks into it. `expose` renders on a thread of its own that gives way to the dispatchers
between two families, so that a scrape of ten thousand tunnels holds up none. None knows tunnels.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, overload

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Sample,
    SummaryMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from tunnelfleet.actors.counters import Counters, FleetCounters, Histogram, ServiceCounters
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel.counting import Declared, Kind, declared

from .catalogue import metric

if TYPE_CHECKING:
    from .meters import Fleet


def _plain(found: tuple[Declared, ...]) -> tuple[str, ...]:
    return tuple(each.name for each in found if not each.label and not each.bounds)


def _by_reason(found: tuple[Declared, ...]) -> tuple[str, ...]:
    return tuple(each.name for each in found if each.label)


SERVICE_COLUMNS: Final = _plain(declared(ServiceCounters))
TUNNEL_COLUMNS: Final = _plain(declared(Counters))
ENDS: Final = _by_reason(declared(ServiceCounters))
REASONS: Final = _by_reason(declared(Counters))
HISTOGRAMS: Final = {each.name: each.bounds for each in declared(Counters) if each.bounds}


class HistogramSum:
    """The sum of many histograms with the same bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, values: Histogram) -> None:
        """Add the counts of a histogram."""
        pairs = zip(self.counts, values.counts.copy(), strict=True)
        self.counts = [before + number for before, number in pairs]
        self.total += values.total

    @property
    def count(self) -> int:
        """How many values they have seen."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulated counts by upper bound, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        so_far = 0
        for bound, number in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += number
            found.append((bound, so_far))
        return found


class Totals:
    """The sums of the counters of some fleets.

    Args:
        fleets: whose counters to sum.

    Attributes:
        services: by mode and service id, the sums of `SERVICE_COLUMNS`.
        ends: for each of `ENDS`, by mode, service id and reason.
        columns: the sums of `TUNNEL_COLUMNS`, by name.
        reasons: for each of `REASONS`, by reason.
        histograms: the sums of `HISTOGRAMS`, by name.
        states: tunnels by state.
        since: the earliest entry into each state that a tunnel is in.
    """

    def __init__(self, fleets: Iterable[Fleet]) -> None:
        self.services: dict[tuple[str, str], list[int]] = {}
        self.ends: dict[str, dict[tuple[str, str, str], int]] = {name: {} for name in ENDS}
        self.columns: dict[str, float] = dict.fromkeys(TUNNEL_COLUMNS, 0)
        self.reasons: dict[str, dict[str, int]] = {name: {} for name in REASONS}
        self.histograms = {name: HistogramSum(bounds) for name, bounds in HISTOGRAMS.items()}
        self.states: dict[TunnelState, int] = {}
        self.since: dict[TunnelState, float] = {}
        for fleet in fleets:
            self._add_services(fleet.counters)
            self._add_tunnels(fleet.counters)
            self._add_states(fleet.states)

    def of(self, each: Declared) -> Any:
        """The sum of a counter of `Counters`: a number, numbers by reason, or a `HistogramSum`."""
        if each.bounds:
            return self.histograms[each.name]
        return self.reasons[each.name] if each.label else self.columns[each.name]

    def _add_services(self, fleet: FleetCounters) -> None:
        for label, service in fleet.services.copy().items():
            key = (fleet.mode, label)
            row = [getattr(service, name) for name in SERVICE_COLUMNS]
            before = self.services.get(key, [0] * len(row))
            self.services[key] = [a + b for a, b in zip(before, row, strict=True)]
            for name in ENDS:
                _add(self.ends[name], getattr(service, name), key)

    def _add_tunnels(self, fleet: FleetCounters) -> None:
        for name in TUNNEL_COLUMNS:
            self.columns[name] += getattr(fleet, name)
        for name in REASONS:
            _add(self.reasons[name], getattr(fleet, name))
        for name in HISTOGRAMS:
            self.histograms[name].add(getattr(fleet, name))

    def _add_states(self, states: dict[TunnelState, tuple[int, float]]) -> None:
        for state, (number, since) in states.items():
            self.states[state] = self.states.get(state, 0) + number
            self.since[state] = min(since, self.since.get(state, since))


def _add(sums: dict[Any, int], counts: dict[str, int], prefix: tuple[str, ...] = ()) -> None:
    for reason, number in counts.copy().items():
        key = (*prefix, reason) if prefix else reason
        sums[key] = sums.get(key, 0) + number


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
    """Return the family of a metric, without samples."""
    found = metric(name)
    if found.kind is Kind.INFO:
        return InfoMetricFamily(found.family, found.help)
    return _CLASSES[found.kind](found.family, found.help, labels=found.labels)


def numbers(name: str, rows: Rows) -> Family:
    """Return a counter or gauge."""
    family: Family = empty(name)
    add = family.add_metric  # type: ignore[attr-defined]
    for labels, value in rows:
        add(labels, value)
    return family


def table(name: str, rows: Sequence[Sequence[str]], *columns: Sequence[float]) -> Family:
    """Return a counter, gauge or summary of many rows.

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
    """Return a histogram without labels."""
    family: HistogramMetricFamily = empty(name)
    family.add_metric([], values.buckets(), values.total)
    return family


def info(name: str, labels: Mapping[str, str]) -> Family:
    """Return an info metric."""
    family: InfoMetricFamily = empty(name)
    family.add_metric([], dict(labels))
    return family


WORK_SECONDS: Final = 0.000_5
"""How long a scrape works between two pauses."""
PAUSE_SECONDS: Final = 0.000_1
"""How long to pause. It is long enough for a waiting thread to take over."""


class Breather:
    """Counts the time since the last pause."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def breathe(self) -> None:
        """Pause if it is time to."""
        if time.perf_counter() - self._since >= WORK_SECONDS:
            time.sleep(PAUSE_SECONDS)
            self._since = time.perf_counter()


GZIP_LEVEL: Final = 1
_GZIP_WBITS: Final = 16 + zlib.MAX_WBITS  # With the head and the checksum of gzip (RFC 1952).
PART_SAMPLES: Final = 32
_EOF: Final = b"# EOF\n"


class Exposition(NamedTuple):
    """The body and its headers."""

    body: bytes
    content_type: str
    encoding: str | None


def _split(family: Family) -> Iterator[Family]:
    """Parts of at most `PART_SAMPLES`, so that there are pauses within a large family."""
    if len(family.samples) <= PART_SAMPLES:
        yield family
        return
    for start in range(0, len(family.samples), PART_SAMPLES):
        part = copy(family)
        part.samples = family.samples[start : start + PART_SAMPLES]
        yield part


def _without_head(text: bytes) -> bytes:
    """Leave out the lines that describe the family, as they are there once already."""
    while text.startswith(b"# "):
        text = text.partition(b"\n")[2]
    return text


class _One:
    """A registry of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return (self._family,)


def expose(registry: Collector, accept: str, accept_encoding: str) -> Exposition:
    """Collect and encode.

    Args:
        registry: a registry, or any collector.
        accept: the client's `Accept` header.
        accept_encoding: its `Accept-Encoding` header.
    """
    encode, content_type = choose_encoder(accept)
    breather = Breather()
    # Grouped by family: two runtimes in one registry have the same families.
    families: dict[str, list[bytes]] = {}
    is_open_metrics = content_type.startswith("application/openmetrics-text")
    for family in registry.collect():
        parts = families.setdefault(family.name, [])
        for part in _split(family):
            text = encode(_One(part)).removesuffix(_EOF)
            parts.append(_without_head(text) if parts else text)
            breather.breathe()
    if is_open_metrics:
        families[""] = [_EOF]
    body = [text for parts in families.values() for text in parts]
    if takes_gzip(accept_encoding):
        return Exposition(_compressed(body, breather), content_type, "gzip")
    return Exposition(b"".join(body), content_type, None)


def _compressed(parts: Iterable[bytes], breather: Breather) -> bytes:
    """Compress part by part, so that there are pauses within a large body."""
    gzip = zlib.compressobj(GZIP_LEVEL, wbits=_GZIP_WBITS)
    found: list[bytes] = []
    for part in parts:
        found.append(gzip.compress(part))
        breather.breathe()
    found.append(gzip.flush())
    return b"".join(found)


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether the header allows gzip (RFC 9110, section 12.5.3)."""
    for item in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name in ("gzip", "*"):
            return not any(p.startswith("q=") and not p[2:].strip("0.") for p in parameters)
    return False
