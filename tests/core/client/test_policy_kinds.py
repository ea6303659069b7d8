"""How the policies of a pipeline fit the calls of a client."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import Bulkhead, CircuitBreaker, Hedge, Keyed, Resilience, Retry, ThreadPoolBulkhead
from resilience.client import hedge_named, may_call_again


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
