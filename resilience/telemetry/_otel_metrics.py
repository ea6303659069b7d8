"""The metric table as instruments of OpenTelemetry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from resilience._support.fork import renew_after_fork
from resilience.telemetry._metrics import METRICS
from resilience.telemetry._readings import Point, Readings
from resilience.telemetry._table import Metric, MetricKind

__all__ = ("Instruments",)

_Callback: TypeAlias = Callable[[CallbackOptions], Sequence[Observation]]


class _Passes:
    """One pass over the objects of the process for all instruments of a collection.

    A reader of OpenTelemetry asks the instruments one after the other. A pass answers each of them once; an instrument
    that asks again begins the next pass.
    """

    def __init__(self) -> None:
        self._readings = Readings()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the pass of the parent."""
        self._lock = threading.Lock()  # of the readers alone
        self._left: dict[str, list[Point]] = {}
        self._answered: set[str] = {metric.name for metric in METRICS}

    def points(self, metric: Metric) -> list[Point]:
        """Return the points of one metric."""
        with self._lock:
            if metric.name in self._answered:
                self._left = {family.metric.name: family.points for family in self._readings.collect()}
                self._answered = set()
            self._answered.add(metric.name)
            return self._left.pop(metric.name, [])


class Instruments:
    """All instruments of one meter. OpenTelemetry has no way to remove them: they are switched off and on.

    Args:
        meter: The meter.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.has_gauges = self.has_histograms = False
        """Whether the instruments report."""
        self._histograms: dict[str, Histogram] = {}
        self._is_observed = False

    def switch(self, *, gauges: bool, histograms: bool) -> None:
        """Report counters and gauges, and durations, from now on or no more."""
        self.has_gauges, self.has_histograms = gauges, histograms
        if gauges and not self._is_observed:
            self._is_observed = True
            passes = _Passes()
            for metric in METRICS:
                self._observe(metric, passes)
        if histograms and not self._histograms:
            self._histograms = {
                metric.name: self._meter.create_histogram(
                    metric.name,
                    metric.unit,
                    metric.description,
                    explicit_bucket_boundaries_advisory=metric.buckets,
                )
                for metric in METRICS
                if metric.kind is MetricKind.HISTOGRAM
            }

    def record(self, metric: str, seconds: float, labels: tuple[str, ...]) -> None:
        """Record a duration. Histograms must be on."""
        self._histograms[metric].record(seconds, _attributes(_BY_NAME[metric], labels))

    def _observe(self, metric: Metric, passes: _Passes) -> None:
        callback: _Callback = lambda _options: self._observations(metric, passes)  # noqa: E731 - one line
        create = {
            MetricKind.COUNTER: self._meter.create_observable_counter,
            MetricKind.GAUGE: self._meter.create_observable_up_down_counter,
        }.get(metric.kind)
        if create is not None:
            create(metric.name, [callback], metric.unit, metric.description)

    def _observations(self, metric: Metric, passes: _Passes) -> list[Observation]:
        if not self.has_gauges:
            return []
        return [Observation(point.value, _attributes(metric, point.labels)) for point in passes.points(metric)]


_BY_NAME = {metric.name: metric for metric in METRICS}


def _attributes(metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
    return {f"resilience.{name}": value for name, value in zip(metric.labels, labels, strict=True)}
