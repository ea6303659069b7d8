"""Callers of different buckets share one script call, and neither an error nor a time to live of another bucket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis_process import RedisProcess

from resilience.ratelimit import Decision, RedisStore, TokenBucket
from resilience.ratelimit.on_redis._batch import MAX_BATCH
from resilience.ratelimit.on_redis._codec import ScriptUnits
from resilience.redis import RedisConnection

pytestmark = pytest.mark.redis


@pytest.fixture(params=["redis_server", "oldest_redis_server"])
def any_server(request: pytest.FixtureRequest) -> RedisProcess:
    """Provide the current and the oldest server in turn."""
    server: RedisProcess = request.getfixturevalue(request.param)
    return server


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisStore]:
    connection = RedisConnection.from_url(url, timeout=5, outage="deny")
    yield RedisStore(connection)
    await connection.aclose()


def scripts_of(server: RedisProcess) -> int:
    """Return how many script calls the server has run."""
    with contextlib.closing(server.client()) as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_one_script_call_for_all_keys(any_server: RedisProcess) -> None:
    """The keys of a turn go in one script call, up to a bound, and each caller gets the decision of its own key."""
    async with connected(any_server.url) as store:
        limiter = TokenBucket("10/hour", 10, store)
        await limiter.aacquire("warm-up")
        before = scripts_of(any_server)
        keys = [str(number) for number in range(MAX_BATCH - 1)]
        decisions = await asyncio.gather(*[limiter.aacquire(key) for key in keys for _ in range(1 + int(key) % 3)])
        assert scripts_of(any_server) - before == 1
        expected = [9 - turn for key in keys for turn in range(1 + int(key) % 3)]
        assert [each.remaining for each in decisions] == expected
        await asyncio.gather(*[limiter.aacquire(f"more {number}") for number in range(2 * MAX_BATCH + 1)])
        assert scripts_of(any_server) - before == 1 + 3


async def test_one_bucket_with_several_demands(any_server: RedisProcess) -> None:
    """Callers of one key that want different payments are served in the order in which they came."""
    async with connected(any_server.url) as store:
        limiter = TokenBucket("10/hour", 10, store)
        asked = [limiter.aacquire(key, cost) for key, cost in (("a", 1), ("b", 9), ("a", 9), ("b", 1), ("a", 1))]
        decisions = await asyncio.gather(*asked)
    # The two callers that want one token of "a" are one entry, at the place of the first.
    assert [(each.allowed, each.remaining) for each in decisions] == [
        (True, 9), (True, 1), (False, 8), (True, 0), (True, 8),
    ]  # fmt: skip


async def test_every_key_has_its_own_time_to_live(any_server: RedisProcess) -> None:
    """A key of a shared call lives until its own bucket is full again, and a moment more."""
    async with connected(any_server.url) as store:
        limiter = TokenBucket("1/minute", 100, store, name="n")
        costs = range(1, 60, 7)
        decisions = await asyncio.gather(*[limiter.aacquire(str(cost), cost) for cost in costs])
        with contextlib.closing(any_server.client()) as client:
            lives = [client.pttl(f"{{resilience:ratelimit:n:{cost}}}") for cost in costs]
    assert [each.reset_after for each in decisions] == [pytest.approx(60 * cost) for cost in costs]
    assert all(0 < life <= 60_000 * cost + 1 for cost, life in zip(costs, lives, strict=True))
    assert all(life > 60_000 * (cost - 1) for cost, life in zip(costs, lives, strict=True))


async def test_a_key_of_another_program(any_server: RedisProcess) -> None:
    """A key of another type reads as a full bucket and is overwritten, and its neighbours keep their state."""
    async with connected(any_server.url) as store:
        limiter = TokenBucket("10/hour", 10, store, name="n")
        await asyncio.gather(*[limiter.aacquire(key) for key in "abc"])
        with contextlib.closing(any_server.client()) as client:
            client.delete("{resilience:ratelimit:n:b}")
            client.hset("{resilience:ratelimit:n:b}", "another", "program's")
        decisions = await asyncio.gather(*[limiter.aacquire(key) for key in "abc"])
        assert [each.remaining for each in decisions] == [8, 9, 8]


async def test_an_error_of_one_bucket(any_server: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """A bucket that the server cannot write fails its own callers, and is no outage for the others."""
    async with connected(any_server.url) as store:
        good, bad = TokenBucket("10/hour", 10, store, name="good"), TokenBucket("10/hour", 10, store, name="bad")
        await good.aacquire("warm-up")
        before = scripts_of(any_server)
        too_large = ScriptUnits(10**30, 1, 10**30)  # the server refuses the time to live
        bad._buckets._codec._units = too_large  # type: ignore[attr-defined]  # white box: no valid quota causes an error

        def ask(names: str) -> list[asyncio.Task[Decision]]:
            limiters = {"g": good, "b": bad}
            return [asyncio.ensure_future(limiters[name].aacquire(str(at))) for at, name in enumerate(names)]

        decisions = await asyncio.gather(*ask("gbgbg"))
        assert scripts_of(any_server) - before == 1
        assert [each.allowed for each in decisions] == [True, False, True, False, True]
        assert [each.remaining for each in decisions[::2]] == [9, 9, 9]
        assert not store.outage.is_down
        assert bad.acquire("alone").allowed is False
        assert not store.outage.is_down
    assert [record.getMessage() for record in caplog.records] == [
        "Redis answered SCRIPT for a key; the decision was made without it"
    ]


async def test_an_error_of_all_buckets(any_server: RedisProcess) -> None:
    """A server that refuses every write is an outage, once, for all callers of a shared call."""
    async with connected(any_server.url) as store:
        events: list[str] = []
        store.events.subscribe(lambda event: events.append(f"{event.kind} {event.facts.get('code')}"))
        limiter = TokenBucket("10/hour", 10, store)
        await limiter.aacquire("warm-up")
        with contextlib.closing(any_server.client()) as client:
            client.config_set("maxmemory", 1)
            decisions = await asyncio.gather(*[limiter.aacquire(str(number)) for number in range(5)])
            client.config_set("maxmemory", 0)
    assert not any(decisions)
    assert events == ["ratelimit.outage OOM"]
