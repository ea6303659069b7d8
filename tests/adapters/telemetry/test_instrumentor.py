from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics.export import Sum
from opentelemetry.sdk.trace import TracerProvider
from telemetry_sdk import Telemetry, attribute, events_of, parent_of, span_id_of

from resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    ConfigurationError,
    Fallback,
    Keyed,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Retry,
)
from resilience.events import Emitter
from resilience.telemetry import METRICS, MetricKind
from resilience.telemetry.otel import ResilienceInstrumentor


class DependencyError(Exception):
    """The dependency fails."""


def fail() -> None:
    raise DependencyError("secret-in-the-text")


# Metrics


def test_all_rows_are_instruments_with_unit_and_description(telemetry: Telemetry) -> None:
    """Each row of the table that has points arrives with its unit, its description and its kind."""
    telemetry.instrument(histograms=True)
    pipeline = Pipeline("otel-rows", Fallback(0), Retry(2, wait_initial="1ms"), CircuitBreaker(), Bulkhead(3))
    pipeline.call(fail)
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    (scope,) = [scope for each in data.resource_metrics for scope in each.scope_metrics]
    assert scope.scope.name == "resilience"
    rows = {metric.name: metric for metric in METRICS}
    seen = {each.name: each for each in scope.metrics}
    assert {"resilience.breaker.calls", "resilience.bulkhead.limit", "resilience.retry.wait"} <= seen.keys()
    for name, each in seen.items():
        assert (each.unit, each.description) == (rows[name].unit, rows[name].description)
        if rows[name].kind is not MetricKind.HISTOGRAM:
            assert isinstance(each.data, Sum)
            assert each.data.is_monotonic == (rows[name].kind is MetricKind.COUNTER)


def test_counts_arrive_exactly(telemetry: Telemetry) -> None:
    """The exported numbers are those of the policies, in each of two collections."""
    telemetry.instrument()
    breaker = CircuitBreaker(fail_max=2)
    pipeline = Pipeline("otel-counts", breaker)
    pipeline.call(int)
    for _ in range(2):
        with pytest.raises(DependencyError):
            pipeline.call(fail)
    assert telemetry.points("resilience.breaker.calls", breaker.name) == {("success",): 1, ("failure",): 2}
    with pytest.raises(CircuitOpenError):
        pipeline.call(int)
    calls = telemetry.points("resilience.breaker.calls", breaker.name)
    assert calls == {("success",): 1, ("failure",): 2, ("refused",): 1}
    assert telemetry.points("resilience.breaker.circuits", breaker.name) == {("open",): 1}


def test_a_thousand_keys_are_few_points(telemetry: Telemetry) -> None:
    """Keys are no attributes: the points of a keyed breaker are those of one breaker."""
    telemetry.instrument()
    keyed = Keyed(lambda _key: CircuitBreaker(), key=str, max_keys=2000)
    pipeline = Pipeline("otel-keys", keyed)
    for key in range(1000):
        pipeline.call(str, key)
    assert telemetry.points("resilience.breaker.calls", keyed.name) == {("success",): 1000}


def test_durations_have_the_buckets_of_the_table(telemetry: Telemetry) -> None:
    """A wait is recorded in the buckets that the table names; without histograms it is not."""
    telemetry.instrument(histograms=True)
    retry = Retry(2, wait_initial="2ms", wait_jitter="none")
    with pytest.raises(DependencyError):
        Pipeline("otel-wait", retry).call(fail)
    (point,) = telemetry.histograms("resilience.retry.wait")
    row = next(metric for metric in METRICS if metric.name == "resilience.retry.wait")
    assert (point.count, tuple(point.explicit_bounds)) == (1, row.buckets)
    assert point.sum == pytest.approx(0.002)
    telemetry.instrumentor.uninstrument()
    telemetry.instrument()
    with pytest.raises(DependencyError):
        Pipeline("otel-no-wait", retry).call(fail)
    assert sum(point.count for point in telemetry.histograms("resilience.retry.wait")) == 1


# Spans


def test_what_the_toolkit_did_is_in_the_present_span(telemetry: Telemetry) -> None:
    """Retries, the opening of the circuit, refusals and the fallback are events and attributes of the span."""
    telemetry.instrument()
    pipeline = Pipeline(
        "otel-events", Fallback(0), Retry(3, on=DependencyError, wait_initial=0), CircuitBreaker(fail_max=2)
    )
    with telemetry.tracer.start_as_current_span("request"):
        pipeline.call(fail)
    (span,) = telemetry.spans("request")
    names = [event.name for event in span.events]
    assert names == [
        "resilience.retry.scheduled",
        "resilience.breaker.opened",
        "resilience.retry.scheduled",
        "resilience.breaker.rejected",
        "resilience.retry.exhausted",
        "resilience.fallback.used",
    ]
    attributes = events_of(span)
    assert attributes["resilience.breaker.opened"]["resilience.reason"] == "consecutive failures"
    assert attributes["resilience.retry.scheduled"]["error.type"] == "DependencyError"
    assert attribute(span, "resilience.refused_by") == "otel-events.breaker"
    assert attribute(span, "resilience.answered_by") == "otel-events.fallback"
    assert attribute(span, "resilience.retries") == 2
    assert "secret-in-the-text" not in span.to_json()


def test_refusals_of_a_quiet_policy_are_in_each_span(telemetry: Telemetry) -> None:
    """The log samples refusals; a span has its own refusal all the same."""
    telemetry.instrument()
    breaker, limit = CircuitBreaker(fail_max=1, reset_timeout=60), RateLimit("1/hour")
    refusing, limited = Pipeline("otel-quiet", breaker), Pipeline("otel-limited", limit)
    breaker.open()
    limited.call(int)
    for _ in range(3):
        with telemetry.tracer.start_as_current_span("request"):
            with pytest.raises(CircuitOpenError):
                refusing.call(int)
            with pytest.raises(RateLimitedError):
                limited.call(int)
    for span in telemetry.spans("request"):
        assert list(events_of(span)) == ["resilience.breaker.rejected", "resilience.ratelimit.rejected"]


def test_a_key_is_in_no_span(telemetry: Telemetry) -> None:
    """An event of a keyed policy does not export the key, which may be a user."""
    telemetry.instrument()
    keyed = Keyed(lambda _key: CircuitBreaker(fail_max=1), key=lambda user: user)
    pipeline = Pipeline("otel-key", keyed)
    with telemetry.tracer.start_as_current_span("request"), pytest.raises(DependencyError):
        pipeline.call(lambda _user: fail(), "user-visa-x")
    (span,) = telemetry.spans("request")
    assert "resilience.breaker.opened" in events_of(span)
    assert "visa-x" not in span.to_json()


def test_a_span_that_is_not_recorded_gets_nothing(telemetry: Telemetry) -> None:
    """Without a span, or with one that is not sampled, no event is built."""
    telemetry.instrument()
    observer = Emitter.observer
    assert observer is not None
    assert observer.span() is None
    with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)):
        assert observer.span() is None


def test_each_attempt_can_have_a_span(telemetry: Telemetry) -> None:
    """With `attempt_spans`, the attempts of a call are numbered children of the present span, and parents of theirs."""
    telemetry.instrument(attempt_spans=True)
    answers = iter([DependencyError(), DependencyError(), None])

    @Pipeline("otel-attempts", Retry(3, wait_initial=0))
    def ask() -> None:
        with telemetry.tracer.start_as_current_span("query"):
            if (error := next(answers)) is not None:
                raise error

    with telemetry.tracer.start_as_current_span("request") as request:
        ask()
    attempts = telemetry.spans("otel-attempts.retry attempt")
    assert [attribute(span, "resilience.attempt") for span in attempts] == [1, 2, 3]
    assert [span.status.status_code.name for span in attempts] == ["ERROR", "ERROR", "UNSET"]
    assert {parent_of(span) for span in attempts} == {request.get_span_context().span_id}
    assert [parent_of(span) for span in telemetry.spans("query")] == [span_id_of(span) for span in attempts]


async def test_each_awaited_attempt_can_have_a_span(telemetry: Telemetry) -> None:
    """Attempts of coroutine functions have spans, too; each call numbers its own."""
    telemetry.instrument(attempt_spans=True)
    answers = iter([DependencyError(), None, None])

    @Pipeline("otel-awaited", Retry(3, wait_initial=0))
    async def ask() -> None:
        if (error := next(answers)) is not None:
            raise error

    await ask()
    await ask()
    attempts = telemetry.spans("otel-awaited.retry attempt")
    assert [attribute(span, "resilience.attempt") for span in attempts] == [1, 2, 1]


# On and off


def test_uninstrument_undoes_all(telemetry: Telemetry) -> None:
    """After `uninstrument` no metric, event or span comes, also from functions that were wrapped meanwhile."""
    telemetry.instrument(attempt_spans=True)
    breaker = CircuitBreaker()
    guarded = Pipeline("otel-off", Retry(2, wait_initial=0), breaker)(fail)
    with pytest.raises(DependencyError):
        guarded()
    assert telemetry.points("resilience.breaker.calls", breaker.name)
    telemetry.instrumentor.uninstrument()
    telemetry.exporter.clear()
    with telemetry.tracer.start_as_current_span("request"), pytest.raises(DependencyError):
        guarded()
    assert Emitter.observer is None
    assert telemetry.points("resilience.breaker.calls", breaker.name) == {}
    assert telemetry.names() == ["request"]
    assert events_of(telemetry.spans("request")[0]) == {}


def test_instrument_twice_is_harmless(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A second call changes nothing, and a new beginning makes no second set of instruments."""
    telemetry.instrument()
    telemetry.instrument()
    observer = Emitter.observer
    telemetry.instrumentor.uninstrument()
    caplog.clear()
    telemetry.instrument()
    assert Emitter.observer is not observer
    breaker = CircuitBreaker()
    Pipeline("otel-twice", breaker).call(int)
    assert telemetry.points("resilience.breaker.calls", breaker.name) == {("success",): 1}
    assert "already" not in caplog.text


def test_no_provider_is_made_or_set(telemetry: Telemetry) -> None:
    """The instrumentation leaves the global providers as they are."""
    before = trace.get_tracer_provider(), metrics.get_meter_provider()
    telemetry.instrumentor.instrument()
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before
    Pipeline("otel-unset", CircuitBreaker()).call(int)


def test_settings_come_from_variables_and_arguments_win(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each switch has a variable; an argument of `instrument` comes first."""
    monkeypatch.setenv("RESILIENCE_TELEMETRY__SPAN_EVENTS", "false")
    monkeypatch.setenv("RESILIENCE_TELEMETRY__METRICS", "false")
    telemetry.instrument(metrics=True)
    with telemetry.tracer.start_as_current_span("request"), pytest.raises(DependencyError):
        Pipeline("otel-settings", CircuitBreaker(fail_max=1)).call(fail)
    assert events_of(telemetry.spans("request")[0]) == {}
    assert telemetry.points("resilience.breaker.calls", "otel-settings.breaker") == {("failure",): 1}


def test_a_wrong_argument_is_named(telemetry: Telemetry) -> None:
    """An unknown or wrong argument is refused by name, and nothing is switched on."""
    with pytest.raises(ConfigurationError, match=r"instrument\(attempt_span=\.\.\.\).*attempt_spans"):
        telemetry.instrument(attempt_span=True)
    with pytest.raises(ConfigurationError, match="histograms"):
        telemetry.instrument(histograms="sometimes")
    assert Emitter.observer is None


def test_a_wrong_setting_does_not_stop_the_start(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The start by `opentelemetry-instrument` goes on: a wrong variable is logged, and the toolkit refuses it later."""
    monkeypatch.setenv("RESILIENCE_TELEMETRY__ATTEMPT_SPANS", "perhaps")
    telemetry.instrument()
    assert "RESILIENCE_TELEMETRY__ATTEMPT_SPANS" in caplog.text
    assert Emitter.observer is not None


# Faults


def test_a_processor_that_raises_costs_no_call(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A span processor of the application that raises is logged once; the calls go on."""

    class Broken:
        def on_start(self, *_args: object, **_kwargs: object) -> None:
            raise RuntimeError("broken processor")

        on_end = _on_ending = on_start

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 0) -> bool:
            return timeout_millis >= 0

    broken = TracerProvider()
    broken.add_span_processor(Broken())  # type: ignore[arg-type]  # it has the methods
    telemetry.instrumentor.instrument(tracer_provider=broken, meter_provider=telemetry.meters, attempt_spans=True)
    guarded = Pipeline("otel-broken", Retry(3, wait_initial=0))(int)
    with caplog.at_level(logging.ERROR, "resilience"):
        assert [guarded() for _ in range(5)] == [0] * 5
    assert caplog.text.count("OpenTelemetry failed") == 1


def test_an_import_of_the_toolkit_leaves_opentelemetry_out() -> None:
    """A process without telemetry imports no instrumentation. The API and SDK come with redis-py in any case."""
    code = (
        "import sys, resilience, resilience.telemetry\n"
        "from resilience import Pipeline, Retry, CircuitBreaker, Resilience\n"
        "Resilience.from_env({}).pipeline('p', Retry(), CircuitBreaker()).call(int)\n"
        "unwanted = {'resilience.telemetry.otel', 'opentelemetry.instrumentation'}\n"
        "assert not unwanted & sys.modules.keys(), unwanted & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_instrumentor_is_one_per_process() -> None:
    """As all instrumentors of OpenTelemetry, it is a singleton."""
    assert ResilienceInstrumentor() is ResilienceInstrumentor()
