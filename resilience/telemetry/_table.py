"""A row of the metric table, and the functions that read measurements for it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from resilience._support.measured import Measurement

__all__ = (
    "COUNTER",
    "GAUGE",
    "HISTOGRAM",
    "POLICY",
    "LabelValues",
    "Metric",
    "MetricKind",
    "Read",
    "count",
    "each",
    "each_after",
    "each_other",
    "level",
    "same",
    "unnamed",
)

POLICY = ("policy",)
"""The labels of a metric that has the name of the object alone."""

LabelValues: TypeAlias = tuple[str, ...]
"""The values of the labels of a metric, in the order of `Metric.labels`."""
Read: TypeAlias = Callable[[Measurement], Iterator[tuple[LabelValues, float]]]
"""A pure function: the points of a metric in one measurement. Points of equal labels are added up."""


_UNITS = {"s": "_seconds", "By": "_bytes"}


class MetricKind(enum.Enum):
    """The kinds of metrics, in the words of OpenTelemetry."""

    COUNTER = "counter"
    """A number that only grows while the process lives."""
    GAUGE = "updowncounter"
    """A number of this moment. Its points can be added: over labels, and over processes."""
    HISTOGRAM = "histogram"
    """Durations, counted in buckets."""


COUNTER, GAUGE, HISTOGRAM = MetricKind


@dataclass(frozen=True)
class Metric:
    """One row of the metric table.

    Args:
        name: `resilience.<noun>.<measure>`, in lower case. Prometheus has `resilience_breaker_calls_total` for
            `resilience.breaker.calls`.
        kind: Counter, gauge or histogram.
        unit: By UCUM: `s`, `{call}`.
        description: One sentence.
        labels: The names of the labels.
        of: The kind of the measurements that the row reads; several for one family over several classes. Empty for a
            histogram: its values are recorded as they come.
        read: Returns the points in a measurement.
        buckets: The upper bounds of the buckets of a histogram, in its unit.
    """

    name: str
    kind: MetricKind
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    read: Read = lambda _measured: iter(())
    buckets: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        """The name of its family for Prometheus, as the exporter of OpenTelemetry gives it, too."""
        return self.name.replace(".", "_") + _UNITS.get(self.unit, "")

    @property
    def series(self) -> str:
        """The name of its series: that of the family, with `_total` for a counter."""
        return self.family + ("_total" if self.kind is MetricKind.COUNTER else "")


def same(*words: str) -> dict[str, str]:
    """Return figures that are their own label values."""
    return {word: word for word in words}


def count(figure: str) -> Read:
    """Return a reader of one count, labelled with the name of the object."""
    return lambda measured: iter([((measured.name,), measured.counts.get(figure, 0))])


def level(figure: str, *, with_kind: bool = False) -> Read:
    """Return a reader of one level, labelled with the name of the object, and with its kind if it is asked for."""

    def read(measured: Measurement) -> Iterator[tuple[LabelValues, float]]:
        if figure in measured.levels:  # else no object of this name is alive
            yield _named(measured, with_kind=with_kind), measured.levels[figure]

    return read


def each(words: Mapping[str, str], *, with_kind: bool = False, of_levels: bool = False) -> Read:
    """Return a reader of several figures, labelled with the name of the object and the word of each figure.

    Args:
        words: The figures, and the label value of each.
        with_kind: Whether the kind of the object is a label too, the second one.
        of_levels: Whether the figures are levels.
    """

    def read(measured: Measurement) -> Iterator[tuple[LabelValues, float]]:
        figures, named = measured.levels if of_levels else measured.counts, _named(measured, with_kind=with_kind)
        if figures:  # else no object of this name is alive
            for figure, word in words.items():
                yield (*named, word), figures.get(figure, 0)

    return read


def each_other(*without: str, with_kind: bool = False) -> Read:
    """Return a reader of all counts but those `without`, labelled with the name of the object and of each count.

    Use it for reasons: a reason that has not been counted yet has no point.
    """

    def read(measured: Measurement) -> Iterator[tuple[LabelValues, float]]:
        named = _named(measured, with_kind=with_kind)
        for figure, number in measured.counts.items():
            if figure not in without:
                yield (*named, figure), number

    return read


def each_after(start: str) -> Read:
    """Return a reader of the counts whose names begin with `start`, labelled with the rest of the name, for reasons."""

    def read(measured: Measurement) -> Iterator[tuple[LabelValues, float]]:
        for figure, number in measured.counts.items():
            if figure.startswith(start):
                yield (measured.name, figure.removeprefix(start)), number

    return read


def unnamed(read: Read) -> Read:
    """Return `read` without its first label, the name: for objects that have none."""
    return lambda measured: ((labels[1:], value) for labels, value in read(measured))


def _named(measured: Measurement, *, with_kind: bool) -> LabelValues:
    return (measured.name, measured.kind) if with_kind else (measured.name,)
