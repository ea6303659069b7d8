"""Tasks that ask Redis in the same turn of their loop share one round trip, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_process import RedisProcess

from resilience.errors import ConfigurationError
from resilience.ratelimit import RateLimit, RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = pytest.mark.redis


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[RedisStore]:
    """Yield a store whose server is given time to answer."""
    connection = RedisConnection.from_url(url, **{"timeout": 2, "outage": "deny"} | options)
    yield RedisStore(connection)
    await connection.aclose()


def commands(client: Any) -> dict[str, int]:
    """Return how often each command was run, those inside of scripts left out."""
    stats = client.info("commandstats")
    wanted = ("cmdstat_evalsha", "cmdstat_eval")
    return {name.removeprefix("cmdstat_"): stats[name]["calls"] for name in wanted if name in stats}


async def test_one_command_for_one_bucket(redis_server: RedisProcess) -> None:
    """Callers that want the same payment of one bucket ask once, and get it in the order in which they came."""
    async with connected(redis_server.url) as store:
        limiter = TokenBucket("50/hour", 50, store)
        await limiter.aacquire("warm-up")
        with contextlib.closing(redis_server.client()) as client:
            client.config_resetstat()
            decisions = await asyncio.gather(*[limiter.aacquire("k") for _ in range(60)])
            assert commands(client) == {"evalsha": 1}
    assert [each.allowed for each in decisions] == [True] * 50 + [False] * 10
    assert [each.remaining for each in decisions] == [*range(49, -1, -1), *[0] * 10]
    assert {round(each.retry_after or 0) for each in decisions[50:]} == {72}


async def test_one_round_trip_for_many_buckets(redis_server: RedisProcess) -> None:
    """Different keys, costs and quotas are asked for side by side, on one connection, and each gets its own answer."""
    async with connected(redis_server.url, max_connections=1) as store:
        orders, prices = (
            TokenBucket("10/hour", 10, store, name="orders"),
            TokenBucket("5/hour", 5, store, name="prices"),
        )
        asked = [orders.aacquire("a"), prices.aacquire("a", 2), orders.aacquire("b", 10), orders.aacquire("b")]
        decisions = await asyncio.gather(*asked, prices.aacquire("a", 2), prices.aacquire("a", 2))
    assert [each.allowed for each in decisions] == [True, True, True, False, True, False]
    assert [each.remaining for each in decisions] == [9, 3, 0, 0, 1, 1]
    assert [each.limit for each in decisions] == [10, 5, 10, 10, 5, 5]


async def test_each_caller_has_an_answer_of_its_own(redis_server: RedisProcess) -> None:
    """A bucket in shadow turns its own refusals into admissions, and no refusal of another caller."""
    async with connected(redis_server.url) as store:
        strict = TokenBucket("1/hour", 1, store, name="shared")
        shadow = TokenBucket("1/hour", 1, store, name="shared", shadow=True)
        assert await strict.aacquire("k")
        asked = [shadow.aacquire("k"), strict.aacquire("k"), shadow.aacquire("k"), strict.aacquire("k")]
        decisions = await asyncio.gather(*asked)
    assert [each.allowed for each in decisions] == [True, False, True, False]


async def test_a_forgotten_script_is_sent_once_more(redis_server: RedisProcess) -> None:
    """After SCRIPT FLUSH all buckets of a shared round trip are asked again, and no caller notices."""
    async with connected(redis_server.url) as store:
        limiter = TokenBucket("10/hour", 10, store)
        await limiter.aacquire("0")
        with contextlib.closing(redis_server.client()) as client:
            client.script_flush()
        decisions = await asyncio.gather(*[limiter.aacquire(str(number % 3)) for number in range(6)])
        assert [each.remaining for each in decisions] == [8, 9, 9, 7, 8, 8]
        assert not store.outage.is_down


async def test_who_left_before_the_trip_is_not_charged(redis_server: RedisProcess) -> None:
    """A caller that is cancelled before anything was sent pays nothing; the first in line too."""
    async with connected(redis_server.url) as store:
        limiter = TokenBucket("10/hour", 10, store)
        gone, also, stays = (asyncio.create_task(limiter.aacquire(key)) for key in ("k", "alone", "k"))
        asyncio.get_running_loop().call_soon(gone.cancel)
        asyncio.get_running_loop().call_soon(also.cancel)
        assert (await stays).remaining == 9
        assert (gone.cancelled(), also.cancelled()) == (True, True)
        assert (await limiter.aacquire("alone")).remaining == 9


async def test_a_caller_that_leaves_takes_no_other_along(redis_server: RedisProcess) -> None:
    """The first caller may be cancelled, or time out, while Redis is asked: the others get their answers."""
    async with connected(redis_server.url) as store:
        limiter = TokenBucket("1000/hour", 1000, store)
        for ticks in range(12):
            first, second = (asyncio.create_task(limiter.aacquire("k")) for _ in range(2))
            for _ in range(ticks):
                await asyncio.sleep(0)
            first.cancel()
            assert await second
        assert not store.outage.is_down


async def test_a_loop_swept_clean_can_go_on(redis_server: RedisProcess) -> None:
    """If every task is cancelled, the shared round trip among them, no later caller waits for it."""
    async with connected(redis_server.url) as store:
        limiter = TokenBucket("10/hour", 10, store)
        me = asyncio.current_task()
        for ticks in range(8):
            asking = asyncio.create_task(limiter.aacquire("swept"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {me}:
                task.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            async with asyncio.timeout(3):
                await limiter.aacquire(f"fresh {ticks}")
            assert len(store._runner.task_batches) == 0


async def test_a_cancelled_batch_wakes_its_callers(redis_server: RedisProcess) -> None:
    """If only the shared task is cancelled, its callers decide as if Redis were down."""
    async with connected(redis_server.url, outage="allow") as store:
        limiter = TokenBucket("1/hour", 1, store)
        await limiter.aacquire("k")
        mine = asyncio.all_tasks()
        asking = [asyncio.create_task(limiter.aacquire("k")) for _ in range(3)]
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - mine - set(asking):
            task.cancel()
        async with asyncio.timeout(3):
            assert all(await asyncio.gather(*asking))
        assert not await limiter.aacquire("k")


def test_loops_share_nothing(redis_server: RedisProcess) -> None:
    """A loop that ended in the midst of asking leaves nothing to the next one."""
    store = RedisStore(RedisConnection.from_url(redis_server.url, timeout=2, outage="deny"))
    limiter = TokenBucket("10/hour", 10, store)

    async def leave() -> None:
        asking = asyncio.ensure_future(limiter.aacquire("left"))
        await asyncio.sleep(0)
        assert not asking.done()

    for _ in range(3):
        asyncio.run(leave())
        assert asyncio.run(limiter.aacquire("k"))
    assert len(store._runner.task_batches) == 0


async def test_waiting_calls_line_up(redis_server: RedisProcess) -> None:
    """Calls that may wait get turns one after the other, as Redis hears of them; the one too many is refused."""
    async with connected(redis_server.url) as store:
        buckets = RateLimit("1/second", 1, store=store, name="turns")._buckets
        decisions = await asyncio.gather(*[buckets.atake("", 1, 3.5) for _ in range(5)])
    # They book on several connections if the first one is slow, so their order is not the one in which they began.
    assert [each.allowed for each in decisions].count(True) == 4
    assert sorted(each.wait for each in decisions if each.allowed) == pytest.approx([0, 1, 2, 3], abs=0.4)


async def test_eager_tasks(redis_server: RedisProcess) -> None:
    """If tasks run as soon as they are made, Redis decides all the same, and callers share round trips as usual."""
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python has them from 3.12 on")
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        async with connected(redis_server.url) as store:
            limiter = TokenBucket("10/hour", 10, store)
            with contextlib.closing(redis_server.client()) as client:
                client.config_resetstat()
                assert sum([bool(await limiter.aacquire("k")) for _ in range(12)]) == 10
                together = await asyncio.gather(*[limiter.aacquire("other") for _ in range(12)])
                assert commands(client)["evalsha"] + commands(client).get("eval", 0) in {13, 14}
            assert sum(map(bool, together)) == 10
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("key", [3, None, [], b"k"])
async def test_bad_keys(redis_server: RedisProcess, key: Any) -> None:
    """A key that is not text is the caller's mistake, also a key that has no hash."""
    async with connected(redis_server.url) as store:
        with pytest.raises(ConfigurationError, match="key"):
            await TokenBucket("1/minute", store=store).aacquire(key)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(burst=st.integers(1, 12), rounds=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), max_size=5))
async def test_together_is_as_one_by_one(redis_server: RedisProcess, burst: int, rounds: list[list[int]]) -> None:
    """Callers that ask together get the same tokens as one after the other, each cost in an entry of its own."""
    async with connected(redis_server.url) as store:
        limiter = TokenBucket("1/day", burst, store)
        with contextlib.closing(redis_server.client()) as client:
            client.flushall()
        left = burst
        for costs in rounds:
            decisions = await asyncio.gather(*[limiter.aacquire("k", cost) for cost in costs])
            for cost in dict.fromkeys(costs):
                line = [each for each in decisions if each.cost == cost]
                admitted = min(len(line), left // cost)
                left -= admitted * cost
                assert [each.allowed for each in line] == [True] * admitted + [False] * (len(line) - admitted)
            assert min(each.remaining for each in decisions) == left
