"""The policies of a client: the default ones, and the configured ones of a client that calls many hosts."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Hedge,
    Keyed,
    Pipeline,
    Resilience,
    Retry,
    ThreadPoolBulkhead,
)
from resilience.client import configured_policies, default_policies, hedge_named, may_call_again
from resilience.retry import no_waits

CONFIGURED = {
    "RESILIENCE_PIPELINE__SHOP__RETRY__ATTEMPTS": "2",
    "RESILIENCE_PIPELINE__SHOP__BREAKER__FAIL_MAX": "3",
    "RESILIENCE_PIPELINE__SHOP__BULKHEAD__MAX_CONCURRENT_CALLS": "4",
    "RESILIENCE_PIPELINE__SHOP__TIMEOUT__SECONDS": "5",
}


class OwnMistakeError(Exception):
    """An error that says nothing about the other side."""


class Failing:
    """A call to a host that raises `error`, and counts how often it is made."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, list[str]()

    def __call__(self, host: str) -> None:
        self.calls.append(host)
        raise self.error


def by_host(host: str) -> str:
    return host


def test_three_attempts_for_the_errors_named() -> None:
    """The default retry makes 3 attempts, and only after errors of `retry_on`."""
    pipeline = Pipeline("shop", *default_policies(ConnectionError))
    for error, attempts in ((ConnectionError(), 3), (ValueError(), 1)):
        call = Failing(error)
        with no_waits(), pytest.raises(type(error)):
            pipeline.call(call, "a")
        assert len(call.calls) == attempts


def test_one_circuit_per_key() -> None:
    """With `breaker_key`, the circuit of one host opens when half of its calls have failed; another stays closed."""
    policies = default_policies(ZeroDivisionError, breaker_key=by_host, breaker_name="http.breaker")
    pipeline = Pipeline("shop", *policies)
    assert policies[1].name == "http.breaker"
    for _ in range(100):
        with pytest.raises((ConnectionError, CircuitOpenError)):
            pipeline.call(Failing(ConnectionError()), "a")
    with pytest.raises(CircuitOpenError):
        pipeline.call(Failing(ConnectionError()), "a")
    with pytest.raises(ConnectionError):
        pipeline.call(Failing(ConnectionError()), "b")


def test_excluded_errors_open_no_circuit() -> None:
    """Errors of `exclude` are never counted, with one circuit and with one per key."""
    for key in (None, by_host):
        policies = default_policies(ZeroDivisionError, exclude=[OwnMistakeError], breaker_key=key)
        pipeline = Pipeline("shop", *policies)
        for _ in range(150):
            with pytest.raises(OwnMistakeError):
                pipeline.call(Failing(OwnMistakeError()), "a")


def test_configured_policies_are_adapted() -> None:
    """A configured retry gets `retry_on`, state is kept per key, and each policy keeps its options and sources."""
    toolkit = Resilience.from_env(CONFIGURED)
    policies = configured_policies(toolkit, "shop", retry_on=ConnectionError, exclude=[OwnMistakeError], key=by_host)
    by_kind = {policy.kind: policy for policy in policies}
    assert {kind for kind, policy in by_kind.items() if isinstance(policy, Keyed)} == {"breaker", "bulkhead"}
    assert by_kind["retry"].options.attempts == 2
    assert by_kind["retry"].sources["attempts"] == "RESILIENCE_PIPELINE__SHOP__RETRY__ATTEMPTS"
    assert by_kind["breaker"].name == "shop.breaker"
    pipeline = Pipeline("shop", *policies)
    for error, attempts in ((OwnMistakeError(), 1), (ConnectionError(), 2)):
        call = Failing(error)
        with no_waits(), pytest.raises(type(error)):
            pipeline.call(call, "a")
        assert len(call.calls) == attempts
    breaker = by_kind["breaker"].slot("a").policy
    assert breaker.fail_counter == 2  # of ConnectionError alone


def test_a_configured_hedge_is_made_anew_under_a_name() -> None:
    """A hedge made by configuration learns its delay for each name; a hedge of the user's code stays the same."""
    toolkit = Resilience.from_env({"RESILIENCE_PIPELINE__SHOP__HEDGE__DELAY": "20ms"})
    configured: Any = toolkit.pipeline("shop").policies[0]
    hedge = hedge_named(configured, "shop.Orders/Get.hedge")
    assert isinstance(hedge, Hedge)
    assert hedge is not configured
    assert (hedge.name, hedge.options, hedge.sources) == (
        "shop.Orders/Get.hedge",
        configured.options,
        configured.sources,
    )
    own, breaker = Hedge("20ms"), CircuitBreaker()
    assert hedge_named(own, "other") is own
    assert hedge_named(breaker, "other") is breaker


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Retry(), True),
        (Retry(idempotent_only=True), True),
        (Hedge("20ms"), True),
        (Keyed(lambda _key: Retry(), str, name="keyed"), True),
        (CircuitBreaker(), False),
        (Bulkhead(), False),
        (ThreadPoolBulkhead(2), False),
    ],
)
def test_which_policies_may_call_again(policy: Any, expected: bool) -> None:  # noqa: FBT001 - a table
    """Retries and hedges may make a call more than once. A pool of threads chooses functions, but calls them once."""
    assert may_call_again(policy) is expected
