"""docs/howto/errors.md shows texts of refusals as the code makes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resilience import Bulkhead, CircuitBreaker, Keyed, Pipeline, RateLimit
from resilience.testing import ManualClock

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "errors.md").read_text()


def row(error: str) -> str:
    """Return the text of the row of an error."""
    (text,) = re.findall(rf"^\| `{error}` \| `(.+)` \|$", PAGE, re.MULTILINE)
    return str(text)


def test_the_texts_of_the_page_are_those_of_the_code() -> None:
    """Each text in the table is the text of such an error."""
    clock = ManualClock()

    def breaker(_host: str) -> CircuitBreaker:
        return CircuitBreaker(
            failure_rate_threshold=0.5, sliding_window=20, minimum_calls=20, reset_timeout=30, reset_timeout_jitter=0,
            clock=clock,
        )  # fmt: skip

    def call(_host: str, number: int) -> None:
        if number >= 8:
            raise TimeoutError

    payments = Pipeline("payments", Keyed(breaker, key=lambda host, *_: host))
    for number in range(8):
        payments.call(call, "api.bank.example", number)
    for number in range(8, 20):
        with pytest.raises(TimeoutError):
            payments.call(call, "api.bank.example", number)
    clock.advance(2)
    with pytest.raises(Exception, match="is open") as refused:
        payments.call(call, "api.bank.example", 0)
    assert str(refused.value) == row("CircuitOpenError")

    orders = Pipeline("orders", RateLimit("5/minute", burst=1, clock=clock))
    orders.call(int)
    with pytest.raises(Exception, match="exceeded") as refused:
        orders.call(int)
    assert str(refused.value) == row("RateLimitedError")

    full = Bulkhead(1, max_wait=0.01)
    places = Pipeline("orders", full)
    with places.guard(), pytest.raises(Exception, match="taken") as refused:
        Pipeline("orders", full).call(int)
    assert str(refused.value) == row("BulkheadFullError").replace("all 20", "all 1").replace("0.5 s", "0.01 s")
