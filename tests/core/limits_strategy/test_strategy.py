from __future__ import annotations

import asyncio
import contextvars
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from limits import RateLimitItemPerMinute, RateLimitItemPerYear, aio, parse, storage, strategies

from resilience import ConfigurationError
from resilience.limits_strategy import STRATEGY, AsyncTokenBucketRateLimiter, TokenBucketRateLimiter


class Awaited:
    """The asynchronous strategy, with blocking methods."""

    def __init__(self, kept: Any) -> None:
        self.limiter = AsyncTokenBucketRateLimiter(kept)

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any, **options: Any) -> Any:
            # In this context, and not in that of a task, as for two awaits of one task.
            coroutine = getattr(self.limiter, name)(*arguments, **options)
            with pytest.raises(StopIteration) as done:
                coroutine.send(None)
            return done.value.value

        return method


BOTH = pytest.mark.parametrize(
    "limiter",
    [
        pytest.param(lambda: TokenBucketRateLimiter(storage.MemoryStorage()), id="blocking"),
        pytest.param(lambda: Awaited(aio.storage.MemoryStorage()), id="awaiting"),
    ],
)
TEN = parse("10/minute")


def test_import_registers_both_colours() -> None:
    """The strategy is in both tables of limits, beside the others."""
    blocking: object = strategies.STRATEGIES[STRATEGY]
    assert blocking is TokenBucketRateLimiter
    assert aio.strategies.STRATEGIES[STRATEGY] is AsyncTokenBucketRateLimiter
    assert {"fixed-window", "moving-window"} < set(strategies.STRATEGIES)


@BOTH
def test_hits_take_tokens(limiter: Any) -> None:
    """The amount of hits is admitted at once, the next one is refused, and other identifiers have their own bucket."""
    limiter = limiter()
    assert [limiter.hit(TEN, "ada") for _ in range(11)] == [True] * 10 + [False]
    assert limiter.hit(TEN, "ada", "other route")
    assert limiter.hit(TEN, "bob")


@BOTH
def test_costs(limiter: Any) -> None:
    """A hit pays its cost or nothing, a cost above the amount never fits, and a cost of 0 is admitted for nothing."""
    limiter = limiter()
    assert not limiter.hit(TEN, "ada", cost=11)
    assert limiter.hit(TEN, "ada", cost=8)
    assert not limiter.hit(TEN, "ada", cost=3)
    assert limiter.hit(TEN, "ada", cost=2)
    assert limiter.hit(TEN, "ada", cost=0)
    assert limiter.get_window_stats(TEN, "ada").remaining == 0


@BOTH
def test_test_takes_nothing(limiter: Any) -> None:
    """`test` answers as `hit` would, and leaves the bucket as it was."""
    limiter = limiter()
    assert [limiter.test(TEN, "ada", cost=10) for _ in range(3)] == [True] * 3
    assert not limiter.test(TEN, "ada", cost=11)
    assert limiter.hit(TEN, "ada", cost=10)
    assert not limiter.test(TEN, "ada")
    assert limiter.test(TEN, "ada", cost=0)


@BOTH
def test_stats_name_the_next_token(limiter: Any) -> None:
    """The reset time is that of the next token; after a refusal, that at which the same hit fits."""
    limiter, before = limiter(), time.time()
    assert limiter.get_window_stats(TEN, "ada") == (pytest.approx(before, abs=5), 10)
    limiter.hit(TEN, "ada", cost=10)
    assert limiter.get_window_stats(TEN, "ada") == (pytest.approx(before + 6, abs=5), 0)
    limiter.hit(TEN, "ada", cost=4)
    assert limiter.get_window_stats(TEN, "ada") == (pytest.approx(before + 24, abs=5), 0)
    assert limiter.get_window_stats(TEN, "ada") == (pytest.approx(before + 6, abs=5), 0)


@BOTH
def test_a_hit_answers_the_next_question_once(limiter: Any) -> None:
    """After a hit the stats are those of this hit, once; then those of the bucket, and after `clear` those too."""
    limiter = limiter()
    limiter.hit(TEN, "ada")
    other = contextvars.Context()
    other.run(limiter.hit, TEN, "ada")
    assert limiter.get_window_stats(TEN, "ada").remaining == 9
    assert limiter.get_window_stats(TEN, "ada").remaining == 8
    limiter.hit(TEN, "ada")
    limiter.clear(TEN, "ada")
    assert limiter.get_window_stats(TEN, "ada").remaining == 10


@BOTH
def test_clear_fills_one_bucket(limiter: Any) -> None:
    """`clear` fills the bucket of its identifiers, and no other."""
    limiter = limiter()
    for client in ("ada", "bob"):
        limiter.hit(TEN, client, cost=10)
    limiter.clear(TEN, "ada")
    assert limiter.hit(TEN, "ada", cost=10)
    assert not limiter.hit(TEN, "bob")


@BOTH
def test_a_limit_of_zero_admits_nothing(limiter: Any) -> None:
    """`0/minute`, with which limits blocks a route, admits no hit, and has no bucket."""
    limiter, nothing = limiter(), RateLimitItemPerMinute(0)
    assert not limiter.hit(nothing, "ada")
    assert not limiter.test(nothing, "ada")
    assert limiter.get_window_stats(nothing, "ada") == (pytest.approx(time.time() + 60, abs=5), 0)
    limiter.clear(nothing, "ada")


@BOTH
@pytest.mark.parametrize("cost", [-1, 1.5, True, "1"])
def test_bad_costs(limiter: Any, cost: object) -> None:
    """A cost that is not a whole number from 0 on is refused, and named."""
    for method in ("hit", "test"):
        with pytest.raises(ConfigurationError, match="a whole number from 0 on"):
            getattr(limiter(), method)(TEN, "ada", cost=cost)


@BOTH
def test_bad_rates(limiter: Any) -> None:
    """A rate that no bucket can have is refused at the hit, and named."""
    with pytest.raises(ConfigurationError, match="rate="):
        limiter().hit(RateLimitItemPerYear(1, 1000), "ada")


def test_storages_without_scripts_are_refused() -> None:
    """A storage that cannot keep buckets is refused when the limiter is built, with the storages that can."""
    with pytest.raises(ConfigurationError) as refused:
        TokenBucketRateLimiter(aio.storage.MemoryStorage())
    assert "storage='MemoryStorage'" in str(refused.value)
    assert "blocking" in str(refused.value)

    class MemcachedStorage(storage.MemcachedStorage):
        def __init__(self) -> None:
            """Connect to nothing."""

    with pytest.raises(ConfigurationError, match="memory:// or a redis or valkey URL"):
        TokenBucketRateLimiter(MemcachedStorage())
    with pytest.raises(ConfigurationError, match="asynchronous"):
        AsyncTokenBucketRateLimiter(storage.MemoryStorage())  # type: ignore[arg-type]  # the mistake under test


@BOTH
def test_keys_of_clients_are_bounded(limiter: Any) -> None:
    """Identifiers of any length and with any character have a bucket of their own."""
    limiter = limiter()
    for name in ("x" * 1_000_000, "x" * 1_000_001, "new\nline", "{brace}", "\ud800", ""):
        assert limiter.hit(TEN, name, cost=10)
        assert not limiter.hit(TEN, name)


def test_reset_of_the_storage_fills_all_buckets() -> None:
    """`storage.reset()`, which Flask-Limiter and slowapi offer as `limiter.reset()`, fills all buckets."""
    kept = storage.MemoryStorage()
    limiter = TokenBucketRateLimiter(kept)
    limiter.hit(TEN, "ada", cost=10)
    kept.reset()
    assert limiter.hit(TEN, "ada", cost=10)
    assert not limiter.hit(TEN, "ada")


def test_limiters_of_one_storage_share_buckets() -> None:
    """Two limiters over one storage count together, and two storages do not."""
    kept = storage.MemoryStorage()
    assert TokenBucketRateLimiter(kept).hit(TEN, "ada", cost=10)
    assert not TokenBucketRateLimiter(kept).hit(TEN, "ada")
    assert TokenBucketRateLimiter(storage.MemoryStorage()).hit(TEN, "ada")


def test_burst_of_a_subclass() -> None:
    """A subclass that overrides `burst` chooses the size of the bucket; a size that is no size is named."""

    class Small(TokenBucketRateLimiter):
        size: Any = 2

        def burst(self, item: Any) -> int:
            return int(self.size)

    limiter = Small(storage.MemoryStorage())
    assert [limiter.hit(TEN, "ada") for _ in range(3)] == [True, True, False]
    limiter.size = 0
    with pytest.raises(ConfigurationError, match="burst=0"):
        limiter.hit(TEN, "bob")


def test_threads_get_no_token_twice() -> None:
    """Of 400 hits from 8 threads, exactly the amount is admitted: limits' own memory counter admits more at times."""
    limiter, item = TokenBucketRateLimiter(storage.MemoryStorage()), parse("100/day")
    with ThreadPoolExecutor(8) as pool:
        admitted = sum(pool.map(lambda _: limiter.hit(item, "ada"), range(400)))
    assert admitted == 100


async def test_tasks_keep_their_own_answers() -> None:
    """Each task reads the stats of its own hit, although all of them hit one bucket first."""
    limiter = AsyncTokenBucketRateLimiter(aio.storage.MemoryStorage())
    all_hit = asyncio.Barrier(5)

    async def request() -> int:
        await limiter.hit(TEN, "ada")
        await all_hit.wait()
        return (await limiter.get_window_stats(TEN, "ada")).remaining

    assert sorted(await asyncio.gather(*(request() for _ in range(5)))) == [5, 6, 7, 8, 9]
