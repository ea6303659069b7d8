from __future__ import annotations

import math
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.ratelimit import Decision, Rate
from resilience.ratelimit._machine import _EARLY, Quota, Withdrawal
from resilience.testing import ManualClock

MICROSECOND = 1e-6


class BucketStates(RuleBasedStateMachine):
    """One bucket, paid from, waited for, refunded and drained in any order, under a clock that may step back."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(1000.0)
        self.quota = Quota("q", Rate(1, 1), 1)
        self.full_at = self.clock.now
        self.starts: list[tuple[float, int]] = []
        """When each admitted call may start by the clock it was admitted by, and what it paid."""
        self.last: tuple[float, float, int] | None = None
        """Of the last payment, unless something happened since: the bucket before, after, and the cost."""

    @initialize(
        amount=st.integers(1, 1000), period=st.sampled_from([1, 2, 7, 60]), burst=st.integers(1, 20), full=st.booleans()
    )
    def make(self, *, amount: int, period: int, burst: int, full: bool) -> None:
        self.quota = Quota("q", Rate(amount, period), burst)
        self.full_at = float("-inf") if full else self.clock.now

    @rule(intervals=st.floats(0, 30))
    def time_passes(self, intervals: float) -> None:
        self.clock.advance(intervals * self.quota.interval)

    @rule(intervals=st.floats(0, 5))
    def clock_steps_back(self, intervals: float) -> None:
        self.clock.advance(-intervals * self.quota.interval)

    @rule(cost=st.integers(1, 25), turns=st.sampled_from([0.0, 0.0, 0.5, 3.0]))
    def pay(self, cost: int, turns: float) -> None:
        now, before, allowance = self.clock.now, self.full_at, turns * self.quota.interval
        paid = self.quota.spend(before, now, cost, allowance)
        if not paid.is_paid:
            assert paid.full_at == before, "a refusal costs nothing"
            return
        wait = Decision.of(self.quota, cost, allowed=True, full_at=paid.full_at, made_at=now).wait
        assert wait <= allowance + self.quota.interval * _EARLY * 1.01
        self.full_at, self.last = paid.full_at, (before, paid.full_at, cost)
        self.starts.append((now + wait, cost))

    @rule(cost=st.integers(1, 25))
    def a_refusal_says_when(self, cost: int) -> None:
        """Wait for `retry_after` and be admitted; a microsecond less, rounding apart, and not."""
        now = self.clock.now
        if self.quota.spend(self.full_at, now, cost).is_paid:
            return
        refusal = Decision.of(self.quota, cost, allowed=False, full_at=self.full_at, made_at=now)
        if refusal.retry_after is None:
            assert cost > self.quota.burst
            assert not self.quota.spend(self.full_at, now + 1e9, cost).is_paid
            return
        assert self.quota.spend(self.full_at, now + refusal.retry_after, cost).is_paid
        too_early = refusal.retry_after - self.quota.interval * _EARLY - MICROSECOND
        assert not self.quota.spend(self.full_at, now + too_early, cost).is_paid

    @precondition(lambda self: self.last is not None)
    @rule()
    def give_back_the_last(self) -> None:
        before, after, cost = self.last  # type: ignore[misc]  # the precondition
        self.full_at = self.quota.withdrawn(self.full_at, self.clock.now, after, cost, [])
        assert self.full_at >= before - MICROSECOND or before == float("-inf"), "no fuller than it was"
        self.starts.pop()
        self.last = None

    @precondition(lambda self: self.full_at - self.clock.now > self.quota.room)
    @rule(cost=st.integers(1, 5))
    def give_back_an_earlier_one(self, cost: int) -> None:
        """Another call has paid since, and waits: nothing comes back yet."""
        earlier, notes = self.full_at - self.quota.interval, list[Withdrawal]()
        assert self.quota.withdrawn(self.full_at, self.clock.now, earlier, cost, notes) == self.full_at
        assert notes == [(earlier, cost)]

    @rule(intervals=st.floats(0, 10))
    def drain(self, intervals: float) -> None:
        now, wait = self.clock.now, intervals * self.quota.interval
        before = self.full_at
        self.full_at, self.last = self.quota.drained(before, now, wait), None
        assert self.full_at >= before
        answer = Decision.of(self.quota, 1, allowed=False, full_at=self.full_at, made_at=now)
        assert answer.remaining == 0
        assert (answer.retry_after or 0.0) >= max(wait, self.quota.interval) - MICROSECOND

    @invariant()
    def never_more_than_rate_times_time_and_burst(self) -> None:
        """Of every stretch of time, from each start to the last one."""
        total = 0
        end = self.starts[-1][0] if self.starts else 0.0
        for begin, cost in reversed(self.starts):
            total += cost
            assert total <= (end - begin) / self.quota.interval + self.quota.burst + 2 * _EARLY

    @invariant()
    def what_remains_is_within_the_bucket(self) -> None:
        answer = Decision.of(self.quota, 1, allowed=True, full_at=self.full_at, made_at=self.clock.now)
        assert 0 <= answer.remaining <= self.quota.burst


TestBucketStates = BucketStates.TestCase
TestBucketStates.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(
    costs=st.lists(st.integers(1, 3), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    gone=st.integers(0, 12),
    amount=st.sampled_from([1, 3, 7, 1000]),
)
def test_cancelled_waiters(costs: list[int], order: Random, gone: int, amount: int) -> None:
    """If all calls in line are cancelled, in any order, the bucket is as before; else those left keep their turns."""
    quota, now = Quota("q", Rate(amount, 1), 3), 1000.0
    empty = full_at = now + quota.capacity
    paid: list[tuple[float, int]] = []
    for cost in costs:
        full_at = quota.spend(full_at, now, cost, 1e6).full_at
        paid.append((full_at, cost))
    order.shuffle(paid)
    notes: list[Withdrawal] = []
    for mark, cost in paid[:gone]:
        full_at = quota.withdrawn(full_at, now, mark, cost, notes)
    left = paid[gone:]
    assert math.isclose(full_at, max([mark for mark, _ in left], default=empty), rel_tol=1e-9)
    assert bool(left) or not notes
