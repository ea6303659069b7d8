"""Telemetry: the metrics of the toolkit, in one table, and their values at this moment.

This package needs no OpenTelemetry and no prometheus-client. `METRICS` is the table, and `Readings` reads it.
"""

from resilience.telemetry._metrics import METRICS
from resilience.telemetry._process import REQUEST_DURATION
from resilience.telemetry._readings import Family, Point, Readings
from resilience.telemetry._table import Metric, MetricKind

__all__ = ("METRICS", "REQUEST_DURATION", "Family", "Metric", "MetricKind", "Point", "Readings")
