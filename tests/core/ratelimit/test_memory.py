from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigurationError
from resilience.events import Event
from resilience.ratelimit import Decision, MemoryStore, Rate, TokenBucket
from resilience.ratelimit._machine import Quota


class ManualClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_decision_has_all_figures() -> None:
    """A decision has the remaining tokens, the time until the same call fits and the time until the bucket is full."""
    clock = ManualClock()
    bucket = TokenBucket("10/second", burst=5, clock=clock)
    first = bucket.acquire("k", 2)
    assert first
    assert (first.allowed, first.limit, first.remaining, first.retry_after) == (True, 5, 3, 0.0)
    assert first.reset_after == pytest.approx(0.2)
    refused = bucket.acquire("k", 4)
    assert not refused
    assert (refused.allowed, refused.remaining) == (False, 3)
    assert refused.retry_after == pytest.approx(0.1)
    clock.now += 0.1
    assert bucket.acquire("k", 4).remaining == 0
    assert "allowed=False remaining=3/5, retry_after=0.1" in repr(refused)


def test_cost_beyond_the_burst_never_fits() -> None:
    """A call that costs more than the bucket holds is refused for good, and costs nothing."""
    bucket = TokenBucket("10/second", burst=5, clock=ManualClock())
    refused = bucket.acquire("k", 6)
    assert not refused.allowed
    assert refused.retry_after is None
    assert "retry_after" not in repr(refused)
    assert bucket.acquire("k", 5)


@given(st.integers(1, 50), st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=100))
def test_short_way_and_rule_agree(burst: int, steps: list[tuple[float, bool]]) -> None:
    """The written-out common case decides exactly as the machine does, with and without a decision to show."""
    clock = ManualClock()
    rate = Rate(10, 1)
    bucket = TokenBucket(rate, burst, clock=clock)
    buckets = MemoryStore().open(Quota("q", rate, burst), clock)
    quota, full_at = Quota("q", rate, burst), 0.0
    for pause, is_repeated in steps:
        clock.now += pause * quota.interval
        for _ in range(1 + is_repeated):
            paid = quota.spend(full_at, clock.now)
            decision, refusal = bucket.acquire("k"), buckets.spend("k")
            assert (refusal is None) is decision.allowed
            assert refusal is None or (refusal.full_at, refusal.made_at) == (decision.full_at, decision.made_at)
            assert (decision.allowed, decision.full_at if decision.allowed else full_at) == (
                paid.is_paid,
                paid.full_at if paid.is_paid else full_at,
            )
            full_at = paid.full_at


def test_keys_are_apart_and_names_share() -> None:
    """Each key has its own bucket; two limiters of one name on one store have the same ones."""
    store, clock = MemoryStore(), ManualClock()
    one = TokenBucket("1/minute", store=store, name="n", clock=clock)
    same = TokenBucket("1/minute", store=store, name="n", clock=clock)
    other = TokenBucket("1/minute", store=store, name="m", clock=clock)
    assert one.acquire("a")
    assert one.acquire("b")
    assert not same.acquire("a")
    assert other.acquire("a")
    assert len(store) == 3


def test_reset_fills_the_bucket() -> None:
    """A bucket that was reset is full; resetting the bucket of an unknown key does nothing."""
    bucket = TokenBucket("1/minute", clock=ManualClock())
    bucket.acquire("a")
    bucket.reset("a")
    bucket.reset("never seen")
    assert bucket.acquire("a")
    assert not bucket.acquire("a")


def test_long_keys_are_hashed() -> None:
    """A client cannot make us keep a megabyte, and two long keys stay two."""
    store = MemoryStore()
    bucket = TokenBucket("1/minute", store=store, clock=ManualClock())
    long = "x" * 1_000_000
    assert bucket.acquire(long + "1")
    assert bucket.acquire(long + "2\udc80")
    assert not bucket.acquire(long + "1")
    assert max(len(key) for shelf in store._tables.values() for key in shelf.table.cells) <= 256


@pytest.mark.parametrize("cost", [0, -1, 1.5, float("nan"), "1", None, 10**10])
def test_bad_cost(cost: object) -> None:
    """A cost that is no whole number from 1 on is refused: a negative one would be a gift."""
    with pytest.raises(ConfigurationError, match="cost="):
        TokenBucket("5/second").acquire("k", cost)  # type: ignore[arg-type]  # what the test is about


def test_bad_arguments() -> None:
    """Every bad argument is refused with its name."""
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"burst": 0}, "burst"),
        ({"burst": 1.5}, "burst"),
        ({"burst": 10**10}, "burst"),
        ({"name": "a:b"}, "name"),
        ({"name": None}, "name"),
        ({"store": "redis://"}, "store"),
    )
    for options, name in bad:
        with pytest.raises(ConfigurationError, match=f"^{name}="):
            TokenBucket("5/second", **options)
    with pytest.raises(ConfigurationError, match="max_keys="):
        MemoryStore(0)
    with pytest.raises(ConfigurationError, match="key="):
        TokenBucket("5/second").acquire(7)  # type: ignore[arg-type]  # what the test is about


def test_properties() -> None:
    """A limiter knows its name and size; the burst is the rate's amount unless given."""
    bucket = TokenBucket("5 per 2 minutes", name="n")
    assert (bucket.name, bucket.rate, bucket.burst, bucket.limit) == ("n", Rate(5, 120), 5, 5)
    assert repr(bucket) == "<TokenBucket 'n' 5 per 2 minutes burst=5>"


async def test_awaiting_in_memory() -> None:
    """In memory an awaited decision is a coroutine, good for a task, a gather and a plain await."""
    bucket = TokenBucket("3/minute", clock=ManualClock())
    first = await bucket.aacquire("k")
    second = await asyncio.create_task(bucket.aacquire("k"))
    third, fourth = await asyncio.gather(bucket.aacquire("k"), bucket.aacquire("k"))
    assert [each.allowed for each in (first, second, third, fourth)] == [True, True, True, False]
    assert isinstance(first, Decision)


@pytest.fixture
def _restless_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless_threads")
def test_exact_under_threads() -> None:
    """Eight threads that switch every 10 us are admitted exactly as often as one would be."""
    for _ in range(20):
        bucket = TokenBucket("50/second", clock=ManualClock())
        admitted: list[int] = []
        start = threading.Barrier(8)

        def work(bucket: TokenBucket = bucket, start: threading.Barrier = start, seen: list[int] = admitted) -> None:
            start.wait()
            seen.append(sum(1 for turn in range(40) if bucket.acquire("k" if turn % 2 else "j")))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(admitted) == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_locked() -> None:
    """A child forked while another thread held the lock still gets decisions, from the state at the fork."""
    store = MemoryStore()
    bucket = TokenBucket("2/hour", store=store)
    bucket.acquire("k")
    (shelf,) = store._tables.values()
    with shelf.lock:
        child = os.fork()
        if child == 0:
            os._exit(int(bucket.acquire("k").allowed) + 2 * int(bucket.acquire("k").allowed))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_another_rate_over_the_same_buckets() -> None:
    """`with_rate` shares buckets, mode and events with the limiter it came from."""
    told: list[Event] = []
    limiter = TokenBucket("1/minute", name="orders", shadow=True, clock=lambda: 0.0)
    limiter.events.subscribe(told.append)
    other = limiter.with_rate("1/hour", 3)
    assert (other.name, str(other.rate), other.burst, other.shadow) == ("orders", "1/hour", 3, True)
    limiter.acquire("k")
    assert other.snapshot("k")["remaining"] == 2
    assert other.acquire("k", 3).allowed
    assert [event.kind for event in told] == ["ratelimit.rejected"]
