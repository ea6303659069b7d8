from __future__ import annotations

import json

from resilience import CircuitBreaker, Pipeline, RateLimit, Resilience, Retry, Timeout
from resilience.testing import ManualClock


def failing() -> None:
    raise ConnectionError


def test_a_pipeline_says_what_it_is_made_of() -> None:
    """`describe()` lists the policies in order with kind, name and options, as data that JSON can hold."""
    pipeline = Pipeline("payments", Retry(attempts=4), CircuitBreaker(fail_max=3), Timeout("800ms", name="cut"))
    described = json.loads(json.dumps(pipeline.describe()))
    assert described["name"] == "payments"
    assert [(each["kind"], each["name"]) for each in described["policies"]] == [
        ("retry", "payments.retry"),
        ("breaker", "payments.breaker"),
        ("timeout", "cut"),
    ]
    assert [each["options"][name] for each, name in zip(
        described["policies"], ("attempts", "fail_max", "seconds"), strict=True
    )] == [4, 3, 0.8]  # fmt: skip


def test_a_configured_pipeline_says_where_its_options_come_from() -> None:
    """The sources name the variable an option was set by."""
    variable = "RESILIENCE_PIPELINE__PAYMENTS__RETRY__ATTEMPTS"
    with Resilience.from_env({variable: "4"}) as resilience:
        (retry,) = resilience.pipeline("payments").describe()["policies"]
    assert retry["options"]["attempts"] == 4
    assert variable in retry["sources"]["attempts"]


def test_a_pipeline_says_how_it_is() -> None:
    """`snapshot()` shows state, counts, rates and what is left of the open time, and looking changes nothing."""
    clock = ManualClock()
    breaker = CircuitBreaker(fail_max=2, reset_timeout=30, reset_timeout_jitter=0, clock=clock)
    pipeline = Pipeline("payments", breaker, RateLimit("10/second", burst=5, clock=clock))
    for _ in range(2):
        try:
            pipeline.call(failing)
        except ConnectionError:
            clock.advance(0.0)
    clock.advance(10)
    circuit, limit = json.loads(json.dumps(pipeline.snapshot()))["policies"]
    assert (circuit["state"], circuit["failures"], circuit["retry_after"]) == ("open", 2, 20)
    assert (limit["remaining"], limit["rejected"]) == (5, 0)
    assert pipeline.snapshot() == pipeline.snapshot()
