"""The signals on the wire: a collector of ours decodes what the OTLP exporter sends."""

from __future__ import annotations

import time

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from otlp_collector import collecting, plain
from telemetry_sdk import Telemetry

from resilience import CircuitBreaker, Fallback, Pipeline, Retry

pytestmark = pytest.mark.servers


def fail() -> None:
    raise ConnectionError("down")


def test_an_outage_arrives_as_metrics_and_spans(telemetry: Telemetry) -> None:
    """Counts, buckets, events and attempts of an outage arrive over gRPC as they were."""
    with collecting() as collector:
        tracers, reader = (
            TracerProvider(),
            PeriodicExportingMetricReader(
                OTLPMetricExporter(endpoint=collector.address, insecure=True), export_interval_millis=3_600_000
            ),
        )
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector.address, insecure=True)))
        meters = MeterProvider([reader])
        telemetry.instrumentor.instrument(
            tracer_provider=tracers, meter_provider=meters, attempt_spans=True, histograms=True
        )
        guarded = Pipeline(
            "otlp", Fallback(0), Retry(2, wait_initial="1ms", wait_jitter="none"), CircuitBreaker(fail_max=2)
        )(fail)
        with tracers.get_tracer("shop").start_as_current_span("request"):
            guarded()
        with tracers.get_tracer("shop").start_as_current_span("request"):
            guarded()
        meters.force_flush()
        tracers.force_flush()
        metrics = {name: metric for (_, name), metric in collector.metrics.items()}
        calls = {
            plain(point.attributes)["resilience.outcome"]: point.as_int
            for point in metrics["resilience.breaker.calls"].sum.data_points
            if plain(point.attributes)["resilience.policy"] == "otlp.breaker"
        }
        (waits,) = metrics["resilience.retry.wait"].histogram.data_points
        meters.shutdown()
        tracers.shutdown()
    assert calls == {"success": 0, "failure": 2, "refused": 1, "shadow": 0}
    assert metrics["resilience.breaker.calls"].sum.is_monotonic
    assert not metrics["resilience.breaker.circuits"].sum.is_monotonic
    assert waits.count == 1  # the exporter of 1.30 has buckets of its own
    assert waits.sum == pytest.approx(0.001)
    spans = [span for _, span in collector.spans]
    assert sorted(span.name for span in spans) == ["otlp.retry attempt"] * 3 + ["request"] * 2
    names = {span.span_id: [event.name.removeprefix("resilience.") for event in span.events] for span in spans}
    requests = [names[span.span_id] for span in spans if span.name == "request"]
    assert requests == [
        ["retry.scheduled", "retry.exhausted", "fallback.used"],
        ["fallback.used"],
    ]
    attempts = [event.name for span in spans if "attempt" in span.name for event in span.events]
    assert attempts == ["resilience.breaker.opened", "resilience.breaker.rejected"]


def test_a_collector_that_hangs_costs_no_call(telemetry: Telemetry) -> None:
    """While each export takes half a second, calls take no longer than without."""
    with collecting(pause=0.5) as collector:
        exporter = OTLPSpanExporter(endpoint=collector.address, insecure=True)
        tracers = TracerProvider()
        tracers.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1, max_export_batch_size=1))
        telemetry.instrumentor.instrument(tracer_provider=tracers, meter_provider=telemetry.meters, attempt_spans=True)
        guarded = Pipeline("otlp-hangs", Retry(2, wait_initial=0))(int)
        longest = 0.0
        for _ in range(200):
            began = time.monotonic()
            assert guarded() == 0
            longest = max(longest, time.monotonic() - began)
        exporter.shutdown()
    assert longest < 0.4


def test_an_exporter_that_raises_costs_no_call(telemetry: Telemetry) -> None:
    """An exporter that raises in the thread of the SDK is the SDK's matter."""

    class Broken(SpanExporter):
        def export(self, spans: object) -> object:  # type: ignore[override]  # it returns nothing
            raise RuntimeError(spans)

    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Broken(), schedule_delay_millis=1))
    telemetry.instrumentor.instrument(tracer_provider=tracers, meter_provider=telemetry.meters, attempt_spans=True)
    guarded = Pipeline("otlp-raises", Retry(2, wait_initial=0))(int)
    assert [guarded() for _ in range(50)] == [0] * 50
