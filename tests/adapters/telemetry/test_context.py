"""The trace context reaches the calls that our policies make in other threads and tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from opentelemetry.trace import get_current_span
from telemetry_sdk import Telemetry, attribute, parent_of

from resilience import (
    Cache,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    SingleFlight,
    ThreadPoolBulkhead,
    Timeout,
    idempotent,
)
from resilience._engine._steps import Member

POLICIES: dict[str, Callable[[], Member]] = {
    "timeout": lambda: Timeout(10),
    "thread_pool": lambda: ThreadPoolBulkhead(2),
    "hedge": lambda: Hedge(delay=5),
    "single_flight": SingleFlight,
    "retry": lambda: Retry(2),
    "cache": lambda: Cache(10),
    "fallback": lambda: Fallback(None),
    "breaker": CircuitBreaker,
}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_blocking_call_keeps_its_parent(telemetry: Telemetry, kind: str) -> None:
    """The span that a guarded blocking function begins is a child of its caller's, in whatever thread it runs."""
    telemetry.instrument()

    @Pipeline(f"context-{kind}", POLICIES[kind]())
    @idempotent
    def ask() -> None:
        with telemetry.tracer.start_as_current_span("query"):
            pass

    with telemetry.tracer.start_as_current_span("request") as request:
        ask()
    (query,) = telemetry.spans("query")
    assert parent_of(query) == request.get_span_context().span_id


@pytest.mark.parametrize("kind", [kind for kind in POLICIES if kind != "thread_pool"])
async def test_an_awaited_call_keeps_its_parent(telemetry: Telemetry, kind: str) -> None:
    """The span that a guarded coroutine begins is a child of its caller's, in whatever task it runs."""
    telemetry.instrument()

    @Pipeline(f"context-{kind}", POLICIES[kind]())
    @idempotent
    async def ask() -> None:
        with telemetry.tracer.start_as_current_span("query"):
            await asyncio.sleep(0)

    with telemetry.tracer.start_as_current_span("request") as request:
        await ask()
    (query,) = telemetry.spans("query")
    assert parent_of(query) == request.get_span_context().span_id


async def test_a_thread_pool_keeps_the_parent_of_an_awaiting_caller(telemetry: Telemetry) -> None:
    """A blocking function in a thread of the pool sees the span of the task that awaits it."""
    telemetry.instrument()
    pipeline = Pipeline("context-pool", ThreadPoolBulkhead(2), Retry(2))
    with telemetry.tracer.start_as_current_span("request") as request:
        inside = await pipeline.acall(lambda: get_current_span().get_span_context().span_id)
    assert inside == request.get_span_context().span_id


def test_hedged_attempts_are_siblings(telemetry: Telemetry) -> None:
    """Each attempt of a hedge, in a thread of its own, has a numbered span below the caller's."""
    telemetry.instrument(attempt_spans=True)
    has_begun = threading.Event()

    @Pipeline("context-hedge", Hedge(delay=0.01))
    @idempotent
    def ask() -> str:
        if not has_begun.is_set():
            has_begun.set()
            time.sleep(0.2)
        return "answer"

    with telemetry.tracer.start_as_current_span("request") as request:
        ask()
    (span,) = telemetry.spans("request")
    assert "resilience.hedge.started" in [event.name for event in span.events]
    attempts = telemetry.spans("context-hedge.hedge attempt")
    assert {parent_of(attempt) for attempt in attempts} == {request.get_span_context().span_id}
    assert 2 in {attribute(attempt, "resilience.attempt") for attempt in attempts}


def test_the_event_goes_to_the_span_of_its_call(telemetry: Telemetry) -> None:
    """While one thread delivers the events of two calls, each event is added to the span of its own call."""
    telemetry.instrument()
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    is_delivering, may_go_on = threading.Event(), threading.Event()

    def listen(event: object) -> None:
        if not is_delivering.is_set():
            is_delivering.set()
            may_go_on.wait(10)

    breaker.events.subscribe(listen)
    pipeline = Pipeline("context-two", Fallback(None), breaker)

    def call(name: str) -> None:
        with telemetry.tracer.start_as_current_span(name):
            pipeline.call(lambda: 1 / 0)
            if name == "second":
                may_go_on.set()
                first.join(10)

    first = threading.Thread(target=call, args=("first",))
    first.start()
    assert is_delivering.wait(10)
    call("second")
    names = {name: [event.name for event in telemetry.spans(name)[0].events] for name in ("first", "second")}
    assert "resilience.breaker.opened" in names["first"]
    assert "resilience.breaker.rejected" in names["second"]
    assert "resilience.breaker.rejected" not in names["first"]
