"""The values of all metrics at this moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from resilience._support.fork import renew_after_fork
from resilience._support.measured import ENDED, Measurement, add_up, measurements
from resilience.telemetry._metrics import METRICS
from resilience.telemetry._table import LabelValues, Metric, MetricKind

__all__ = ("Family", "Point", "Readings")


class Point(NamedTuple):
    """The value of one metric for one set of label values, in the order of `Metric.labels`."""

    labels: LabelValues
    value: float


class Family(NamedTuple):
    """A metric and all its points: at most one for each set of label values."""

    metric: Metric
    points: list[Point]


class Readings:
    """Reads the counters and gauges of the metric table, for all policies and toolkits of this process.

    It takes no lock that a call needs, so a call never waits for a scrape. Objects of one kind and name, such as the
    circuits of all keys, are one point: a thousand keys cost one walk over them, and no more series. Of each kind at
    most 1,000 names get points of their own; further names are added up under the name `(other)`.

    Counters never fall: an object that is dropped leaves its counts behind, from the moment of the first `Readings` on.
    A fork begins anew in the child.

    Args:
        policies: Takes the name of a policy, limiter, budget, cache or check and returns whether to read it, for the
            readings of one part of the process. Default: all are read.

    Example:
        >>> from resilience import CircuitBreaker, Pipeline
        >>> payments = Pipeline("payments-docs", CircuitBreaker())
        >>> payments.call(str.upper, "paid")
        'PAID'
        >>> readings = Readings(policies="payments-docs.breaker".__eq__)
        >>> calls = next(each for each in readings.collect() if each.metric.name == "resilience.breaker.calls")
        >>> [point for point in calls.points if point.value]
        [Point(labels=('payments-docs.breaker', 'success'), value=1)]
    """

    def __init__(self, policies: Callable[[str], bool] | None = None) -> None:
        self._policies = policies
        ENDED.is_kept = True
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the counters of the parent."""
        self._lock = threading.Lock()  # of the scrapes alone: two of them read one after the other
        self._counters: dict[tuple[str, LabelValues], float] = {}

    def after_test(self) -> None:
        """Let counters begin anew."""
        self.after_fork()

    def collect(self) -> list[Family]:
        """Return all counters and gauges, each with its points; a metric without points is left out.

        Safe to call from any thread. It reads plain numbers one after the other, while calls go on.
        """
        with self._lock:
            by_kind = self._by_kind()
            families = [
                self._family(metric, [each for kind in metric.of for each in by_kind.get(kind, ())])
                for metric in METRICS
            ]
        return [family for family in families if family.points]

    def _by_kind(self) -> dict[str, list[Measurement]]:
        """Return one measurement for each kind and name."""
        counts: dict[tuple[str, str], dict[str, float]] = {}
        levels: dict[tuple[str, str], dict[str, float]] = {}
        for each in self._all():
            add_up(counts, each.kind, each.name, each.counts)
            add_up(levels, each.kind, each.name, each.levels)
        by_kind: dict[str, list[Measurement]] = {}
        for (kind, name), numbers in counts.items():
            by_kind.setdefault(kind, []).append(Measurement(kind, name, numbers, levels[kind, name]))
        return by_kind

    def _all(self) -> Iterator[Measurement]:
        # The ended ones are read first: an object that ends in between is missing once, and `_grown` hides it; in the
        # other order it would be counted twice. The names of the living come first to the points.
        ended, wanted = list(ENDED.totals()), self._policies
        for each in (*measurements(), *ended):
            # Without a name of its own and without a call: a template that other policies are made like.
            is_template = each.name == each.kind and not any(each.counts.values())
            if not is_template and (wanted is None or wanted(each.name)):
                yield each

    def _family(self, metric: Metric, read: list[Measurement]) -> Family:
        sums: dict[LabelValues, float] = {}
        for each in read:
            for labels, value in metric.read(each):
                sums[labels] = sums.get(labels, 0) + value
        if metric.kind is MetricKind.COUNTER:
            sums = {labels: self._grown(metric.name, labels, value) for labels, value in sums.items()}
        return Family(metric, [Point(labels, value) for labels, value in sums.items()])

    def _grown(self, name: str, labels: LabelValues, value: float) -> float:
        """Return a counter that never falls: a number that was read in the midst of a change is put right later."""
        value = self._counters[name, labels] = max(value, self._counters.get((name, labels), 0))
        return value
