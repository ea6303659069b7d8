"""The metrics of the toolkit as families of prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from resilience.telemetry import Family, MetricKind, Readings

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ("PrometheusCollector",)


class PrometheusCollector(Collector):
    """Yields the counters and gauges of the metric table, for a registry of prometheus-client.

    Register it with a registry of your own if you serve the metrics yourself. The endpoint and the port of the toolkit
    (`RESILIENCE_METRICS__ENDPOINT`, `RESILIENCE_METRICS__PORT`) register one with the default registry. A registry
    must have one at most.

    A scrape takes no lock that a call needs.

    Args:
        readings: The values. Default: those of all policies and toolkits of this process.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> registry.register(PrometheusCollector())
        >>> from resilience import Bulkhead
        >>> reports = Bulkhead(max_concurrent_calls=7, name="reports-docs")
        >>> b'resilience_bulkhead_limit{kind="bulkhead",policy="reports-docs"} 7.0' in generate_latest(registry)
        True
    """

    def __init__(self, readings: Readings | None = None) -> None:
        self._readings = Readings() if readings is None else readings

    def describe(self) -> list[Metric]:
        """Return nothing, so that a registration reads no metric."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each metric that has points."""
        for family in self._readings.collect():
            yield _family_of(family)


def _family_of(family: Family) -> Metric:
    metric = family.metric
    kind = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
    found = kind(metric.family, metric.description, labels=metric.labels)
    for labels, value in family.points:
        found.add_metric(labels, value)
    return found
