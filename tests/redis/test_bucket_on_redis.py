from __future__ import annotations

import pytest
from redis_process import RedisProcess

from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = pytest.mark.redis


def bucket(server: RedisProcess, rate: str, burst: int | None = None, **options: object) -> TokenBucket:
    options.setdefault("timeout", 1)
    return TokenBucket(rate, burst, RedisStore(RedisConnection.from_url(server.url, **options)), name="orders")


def test_burst_then_refusal(redis_server: RedisProcess) -> None:
    """A bucket gives its burst at once and then says when the next token comes."""
    limiter = bucket(redis_server, "100/minute", burst=5)
    decisions = [limiter.acquire("k") for _ in range(6)]
    assert [bool(each) for each in decisions] == [True] * 5 + [False]
    assert [each.remaining for each in decisions] == [4, 3, 2, 1, 0, 0]
    assert decisions[-1].retry_after == pytest.approx(0.6, abs=0.1)


async def test_awaiting(redis_server: RedisProcess) -> None:
    """Both colours spend from the same bucket."""
    limiter = bucket(redis_server, "100/minute", burst=2)
    assert (await limiter.aacquire("k")).remaining == 1
    assert limiter.acquire("k").remaining == 0
    assert not await limiter.aacquire("k")
