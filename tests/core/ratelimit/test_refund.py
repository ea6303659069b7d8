"""A refund is the inverse of a payment: the bucket is as if the call had not come."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.ratelimit import Decision, MemoryStore, Quota, TokenBucket
from resilience.testing import ManualClock


def bucket(clock: ManualClock, rate: str = "1/second", burst: int = 10, **options: Any) -> TokenBucket:
    return TokenBucket(rate, burst, clock=clock, **options)


async def test_both_colours_pay_back() -> None:
    """After a refund the bucket has the tokens that it had before, in both colours and for any cost."""
    limiter = bucket(ManualClock())
    limiter.acquire("k", 4)
    limiter.refund("k", limiter.acquire("k", 3))
    await limiter.arefund("k", await limiter.aacquire("k", 2))
    assert limiter.snapshot("k")["remaining"] == 6


@given(
    steps=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 4), st.booleans()), min_size=1, max_size=40),
    rate=st.sampled_from(["1/second", "10/second"]),
)
def test_no_more_is_paid_than_the_rate_allows(steps: list[tuple[float, int, bool]], rate: str) -> None:
    """From the start on, at most rate x t + burst tokens are paid for good, whatever is paid and paid back between."""
    clock = ManualClock()
    limiter = bucket(clock, rate, 5)
    now, kept = 0.0, 0
    pending: list[Decision] = []
    for wait, cost, is_refused in steps:
        clock.advance(wait)
        now += wait
        for each in pending:
            limiter.refund("k", each)
        decision = limiter.acquire("k", cost)
        kept += cost if decision.allowed and not is_refused else 0
        pending = [decision] if decision.allowed and is_refused else []
        assert kept <= limiter.rate.amount * now + limiter.burst + 0.01
        assert limiter.snapshot("k")["remaining"] <= limiter.burst


def test_without_other_calls_it_is_exact() -> None:
    """Payment and refund leave nothing behind, however much time is between them."""
    clock = ManualClock()
    limiter = bucket(clock)
    limiter.acquire("k", 8)
    decision = limiter.acquire("k", 2)
    clock.advance(3.0)
    limiter.refund("k", decision)
    assert limiter.snapshot("k")["remaining"] == 5
    assert [limiter.acquire("k").allowed for _ in range(6)] == [True] * 5 + [False]


def test_later_payments_stand() -> None:
    """A refund is not refused because another call has paid meanwhile, and leaves that payment as it is."""
    limiter = bucket(ManualClock())
    first = limiter.acquire("k", 5)
    limiter.acquire("k", 2)
    limiter.refund("k", first)
    assert limiter.snapshot("k")["remaining"] == 8


def test_a_bucket_that_is_full_or_gone_stays_full() -> None:
    """A refund never makes a bucket larger than its burst."""
    clock = ManualClock()
    limiter = TokenBucket("1/second", 2, MemoryStore(max_keys=1), clock=clock)
    decision = limiter.acquire("k")
    clock.advance(60)
    limiter.acquire("other")  # the table has room for one bucket
    limiter.refund("k", decision)
    assert [limiter.acquire("k").allowed for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("is_shadow", [True, False])
def test_only_payments_are_paid_back(*, is_shadow: bool) -> None:
    """A refusal paid nothing, and neither did an admission in shadow: a refund of it would be a gift."""
    limiter = bucket(ManualClock(), burst=1, shadow=is_shadow)
    limiter.acquire("k")
    limiter.refund("k", limiter.acquire("k"))
    assert limiter.snapshot("k")["remaining"] == 0


def test_a_decision_knows_its_state_after_the_refund() -> None:
    """`undone()` is the state of the bucket after the refund, for headers; of a refusal, it is the refusal."""
    limiter = bucket(ManualClock(5.0))
    decision = limiter.acquire("k", 3)
    assert (decision.undone().remaining, decision.undone().reset_after, decision.undone().is_paid) == (10, 0, False)
    refusal = limiter.acquire("k", 8)
    assert refusal.undone() is refusal


def test_an_admission_without_a_bucket_is_not_paid() -> None:
    """During an outage with `allow`, nothing was taken, so nothing is paid back when Redis is there again."""
    quota = Quota("q", TokenBucket("1/second").rate, 1)
    assert not Decision.of(quota, 1, allowed=True, full_at=0.0, made_at=0.0).is_paid
