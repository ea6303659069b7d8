"""Telemetry: the cost of a call with the instrumentation off and on, and the cost of a scrape."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any

import harness
import samples
from harness import Case, Contender, Sample, Session, Unit

from resilience import Bulkhead, CircuitBreaker, CircuitOpenError, Keyed, Pipeline, RateLimit, Retry, TokenBucket
from resilience.events import Emitter, Observer
from resilience.telemetry import Readings

__all__ = ("CASES",)

_KEYS = 1000


def work(order: int) -> int:
    """Do as little as a function can."""
    return order


def fail(order: int) -> int:
    """Stand for a dependency that is down."""
    raise ConnectionError(order)


@functools.cache
def _sdk() -> tuple[Any, Any, Observer]:
    """Return a tracer, a reader of metrics and the observer that the instrumentation would set."""
    metrics = harness.peer("opentelemetry.sdk.metrics", "opentelemetry-sdk")
    export = harness.peer("opentelemetry.sdk.metrics.export", "opentelemetry-sdk")
    trace = harness.peer("opentelemetry.sdk.trace", "opentelemetry-sdk")
    otel = harness.peer("resilience.telemetry.otel", "opentelemetry-instrumentation")
    reader, tracers = export.InMemoryMetricReader(), trace.TracerProvider()
    instrumentor = otel.ResilienceInstrumentor()
    instrumentor.instrument(tracer_provider=tracers, meter_provider=metrics.MeterProvider([reader]))
    observer, Emitter.observer = Emitter.observer, None
    assert observer is not None
    return tracers.get_tracer("bench"), reader, observer


def _on(build: Callable[[Session], Sample], *, in_span: bool = False) -> Callable[[Session], Sample]:
    """Return `build`, with the instrumentation on while its samples run; in a span that is recorded, if asked."""

    def prepared(session: Session) -> Sample:
        tracer, _, observer = _sdk()
        sample = build(session)

        def run(times: int) -> float:
            Emitter.observer = observer
            try:
                with tracer.start_as_current_span("bench") if in_span else contextlib.nullcontext():
                    return sample(times)
            finally:
                Emitter.observer = None

        return run

    return prepared


def _window() -> CircuitBreaker:
    return CircuitBreaker(failure_rate_threshold=0.5, sliding_window=100, minimum_calls=20, reset_timeout=3600)


def _closed(_session: Session) -> Sample:
    return samples.calls(Pipeline("bench", _window())(work), 1)


def _refused(_session: Session) -> Sample:
    guarded = Pipeline("bench", _window())(fail)
    for _ in range(25):
        with contextlib.suppress(Exception):
            guarded(1)
    return samples.rejections(guarded, CircuitOpenError)


def _first(_session: Session) -> Sample:
    return samples.calls(Pipeline("bench", Retry())(work), 1)


def _second(_session: Session) -> Sample:
    turns = itertools.cycle((True, False))

    def flaky(order: int) -> int:
        if next(turns):
            raise ConnectionError(order)
        return order

    return samples.calls(Pipeline("bench", Retry(wait_initial=0))(flaky), 1)


def _bucket(_session: Session) -> Sample:
    return samples.calls(TokenBucket("1000000000/second", name="bench").acquire, "client")


def _chain(_session: Session) -> Sample:
    policies = Retry(), _window(), RateLimit("1000000000/second"), Bulkhead(20)
    return samples.calls(Pipeline("bench", *policies)(work), 1)


_ROWS: dict[str, Callable[[Session], Sample]] = {
    "breaker, closed": _closed,
    "breaker, open: the refusal raised and caught": _refused,
    "retry, first attempt succeeds": _first,
    "retry, one failure then success, no wait": _second,
    "token bucket in memory": _bucket,
    "retry, breaker, limit and bulkhead": _chain,
}


def _rows() -> tuple[Contender, ...]:
    rows = [
        row
        for name, build in _ROWS.items()
        for row in (Contender(f"{name}, off", build), Contender(f"{name}, on", _on(build)))
    ]
    in_span = Contender(
        "breaker, open, on, in a recorded span", _on(_refused, in_span=True), "adds an event to the span"
    )
    return (*rows, in_span)


def _collect_by_sdk() -> object:
    return _sdk()[1].get_metrics_data()


@functools.cache
def _thousand() -> Callable[..., Any]:
    """Return a function whose calls have used a breaker for each key. All contenders share it: a scrape reads all."""
    guarded = Pipeline("bench-scrape", Keyed(lambda _key: _window(), key=lambda order: order, max_keys=2 * _KEYS))(work)
    for key in range(_KEYS):
        guarded(key)
    return guarded


def _scrape(collect: Callable[[], object]) -> Callable[[Session], Sample]:
    def prepared(_session: Session) -> Sample:
        _thousand()
        return samples.calls(collect)

    return prepared


CASES = (
    Case(
        "telemetry",
        "Calls with OpenTelemetry off and on",
        Contender("bare call", lambda _session: samples.calls(work, 1)),
        _rows(),
        note="On: an SDK with metrics and span events, as by default; no span is open unless the row says so.",
    ),
    Case(
        "scrape",
        f"A scrape with {_KEYS:,} keyed breakers",
        Contender("an empty list", lambda _session: samples.calls(list)),
        (
            Contender("Readings.collect()", _scrape(Readings().collect), "as Prometheus asks"),
            Contender(
                "OpenTelemetry, all instruments",
                _scrape(_collect_by_sdk),
                "as a reader of the SDK asks",
            ),
        ),
        unit=Unit.MILLISECONDS,
        note="CPU time. Each scrape yields one series for each outcome and state, however many keys there are.",
        largest=20,
    ),
)
