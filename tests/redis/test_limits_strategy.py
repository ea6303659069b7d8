"""The strategy `token-bucket` on the Redis storages of limits."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from limits import aio, parse, storage
from limits.errors import StorageError
from redis_process import RedisProcess

from resilience.limits_strategy import AsyncTokenBucketRateLimiter, TokenBucketRateLimiter

pytestmark = pytest.mark.redis

TEN = parse("10/minute")


def commands(server: RedisProcess, name: str) -> int:
    with contextlib.closing(server.client()) as client:
        found: Any = client.info("commandstats")
        return int(found.get(f"cmdstat_{name}", {"calls": 0})["calls"])


SCHEMES = pytest.mark.parametrize("scheme", ["redis", "valkey"])


def url_of(server: RedisProcess, scheme: str) -> str:
    """Return the URL in limits' words. valkey-py speaks to either server."""
    if scheme == "valkey":
        pytest.importorskip("valkey", reason="it is in the group `peers`")
    return server.url.replace("redis://", f"{scheme}://")


def blocking(url: str, **options: Any) -> TokenBucketRateLimiter:
    return TokenBucketRateLimiter(storage.RedisStorage(url, **options))


def awaiting(url: str, **options: Any) -> AsyncTokenBucketRateLimiter:
    return AsyncTokenBucketRateLimiter(aio.storage.RedisStorage(f"async+{url}", implementation="redispy", **options))


@SCHEMES
@pytest.mark.parametrize("options", [{}, {"decode_responses": True}], ids=["bytes", "decoding"])
def test_blocking(redis_server: RedisProcess, scheme: str, options: dict[str, Any]) -> None:
    """Hits, tests, stats and `clear` work through the client that limits holds, also if it decodes replies."""
    limiter = blocking(url_of(redis_server, scheme), **options)
    assert [limiter.hit(TEN, "ada", cost=5) for _ in range(3)] == [True, True, False]
    assert (limiter.test(TEN, "ada"), limiter.test(TEN, "bob", cost=10)) == (False, True)
    assert limiter.get_window_stats(TEN, "bob").remaining == 10
    limiter.clear(TEN, "ada")
    assert limiter.hit(TEN, "ada", cost=10)
    limiter.storage.reset()
    assert limiter.get_window_stats(TEN, "ada").remaining == 0, "the answer of the hit, once"
    assert limiter.get_window_stats(TEN, "ada").remaining == 10


@SCHEMES
async def test_awaiting(redis_server: RedisProcess, scheme: str) -> None:
    """The asynchronous strategy does the same through redis-py and valkey-py."""
    limiter = awaiting(url_of(redis_server, scheme))
    assert [await limiter.hit(TEN, "ada", cost=5) for _ in range(3)] == [True, True, False]
    assert not await limiter.test(TEN, "ada")
    await limiter.clear(TEN, "ada")
    assert await limiter.test(TEN, "ada", cost=10)
    assert (await limiter.get_window_stats(TEN, "ada")).remaining == 10
    await limiter.storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]  # the storage of Redis has one


async def test_awaiting_on_coredis(redis_server: RedisProcess) -> None:
    """The same through coredis, which limits uses if no implementation is named."""
    pytest.importorskip("coredis")
    limiter = AsyncTokenBucketRateLimiter(aio.storage.RedisStorage(f"async+{redis_server.url}"))
    assert [await limiter.hit(TEN, "ada", cost=5) for _ in range(3)] == [True, True, False]


def test_one_round_trip_for_a_hit_and_its_headers(redis_server: RedisProcess) -> None:
    """A hit and the stats that follow it are one command, and every key has an expiry."""
    limiter = blocking(redis_server.url)
    limiter.hit(TEN, "warm")
    before = commands(redis_server, "evalsha")
    for _ in range(5):
        limiter.hit(TEN, "ada")
        limiter.get_window_stats(TEN, "ada")
    assert commands(redis_server, "evalsha") - before == 5
    with contextlib.closing(redis_server.client()) as client:
        keys: Any = client.keys("*")
        assert len(keys) == 2
        assert all(0 < int(str(client.pttl(key))) <= 60_001 for key in keys)


def test_threads_of_two_processes_worth_of_clients(redis_server: RedisProcess) -> None:
    """Of 400 hits by 8 threads over two clients, exactly the amount is admitted."""
    limiters, item = [blocking(redis_server.url) for _ in range(2)], parse("100/day")
    with ThreadPoolExecutor(8) as pool:
        admitted = sum(pool.map(lambda number: limiters[number % 2].hit(item, "ada"), range(400)))
    assert admitted == 100


def test_script_flush(redis_server: RedisProcess) -> None:
    """A server that forgot its scripts is sent the script again."""
    limiter = blocking(redis_server.url)
    limiter.hit(TEN, "ada", cost=4)
    with contextlib.closing(redis_server.client()) as client:
        client.script_flush()
    assert not limiter.hit(TEN, "ada", cost=7)


def test_a_change_of_strategy_meets_no_foreign_value(redis_server: RedisProcess) -> None:
    """Over live keys of another strategy the bucket begins full, and the other strategy goes on afterwards."""
    from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415 - the strategy before

    kept = storage.RedisStorage(redis_server.url)
    before, now = FixedWindowRateLimiter(kept), TokenBucketRateLimiter(kept)
    assert before.hit(TEN, "ada", cost=10)
    assert now.hit(TEN, "ada", cost=10)
    assert not before.hit(TEN, "ada")


@pytest.mark.parametrize(("wraps", "error"), [(False, redis.ConnectionError), (True, StorageError)])
async def test_errors_are_those_of_limits(*, wraps: bool, error: type[Exception]) -> None:
    """An error of Redis reaches the caller as limits' own strategies raise it: as it is, or as a `StorageError`."""
    with pytest.raises(error):
        blocking("redis://127.0.0.1:1", wrap_exceptions=wraps).hit(TEN, "ada")
    with pytest.raises(error):
        await awaiting("redis://127.0.0.1:1", wrap_exceptions=wraps).hit(TEN, "ada")
