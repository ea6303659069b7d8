"""The instrumentation with an SDK of OpenTelemetry whose exporters keep everything in memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilience.telemetry.otel import ResilienceInstrumentor

__all__ = ("Telemetry", "attribute", "events_of", "parent_of", "span_id_of")


class Telemetry:
    """An SDK in memory, and the instrumentation with it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracer = self.tracers.get_tracer("test")
        self.instrumentor = ResilienceInstrumentor()

    def instrument(self, **options: object) -> None:
        """Switch the instrumentation on, with the providers of this object."""
        self.instrumentor.instrument(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def close(self) -> None:
        """Switch the instrumentation off, and end the SDK."""
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.uninstrument()
        self.tracers.shutdown()
        self.meters.shutdown()

    def points(self, metric: str, policy: str = "") -> dict[tuple[str, ...], float]:
        """Return the numbers of a metric by the values of its attributes but the policy; zeros are left out."""
        found: dict[tuple[str, ...], float] = {}
        for point in self._data_points(metric):
            attributes = dict(point.attributes or {})
            if attributes.pop("resilience.policy", "") == policy and isinstance(point, NumberDataPoint) and point.value:
                found[tuple(str(value) for value in attributes.values())] = point.value
        return found

    def histograms(self, metric: str) -> list[HistogramDataPoint]:
        """Return the points of a histogram, of one collection."""
        return [point for point in self._data_points(metric) if isinstance(point, HistogramDataPoint)]

    def _data_points(self, metric: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        scopes = [] if data is None else [scope for each in data.resource_metrics for scope in each.scope_metrics]
        wanted = [each for scope in scopes for each in scope.metrics if each.name == metric]
        return [point for each in wanted for point in each.data.data_points]

    def spans(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name that have ended."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def names(self) -> list[str]:
        """Return the names of all spans that have ended."""
        return [span.name for span in self.exporter.get_finished_spans()]


def parent_of(span: ReadableSpan) -> int | None:
    """Return the identifier of the parent of a span."""
    return None if span.parent is None else span.parent.span_id


def events_of(span: ReadableSpan) -> dict[str, dict[str, object]]:
    """Return the attributes of the events of a span, by name, in order."""
    return {event.name: dict(event.attributes or {}) for event in span.events}


def attribute(span: ReadableSpan, name: str) -> object:
    """Return an attribute of a span, None if it has none of this name."""
    return (span.attributes or {}).get(name)


def span_id_of(span: ReadableSpan) -> int | None:
    """Return the identifier of a span."""
    context = span.get_span_context()
    return None if context is None else context.span_id
