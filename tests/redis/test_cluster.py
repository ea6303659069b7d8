"""A cluster of three masters, named by `redis+cluster://`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from limits import aio, parse, storage
from redis_groups import RedisCluster

from resilience.clock import monotonic
from resilience.errors import ConfigurationError
from resilience.limits_strategy import AsyncTokenBucketRateLimiter, TokenBucketRateLimiter
from resilience.ratelimit import Quota, Rate, RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.servers]

TIMEOUT = "2s"  # no test here is about a server that is away
KEYS = [f"caller-{number}" for number in range(30)]


@contextlib.contextmanager
def connected(cluster: RedisCluster, outage: str = "local") -> Iterator[RedisConnection]:
    """Provide a connection whose URL names two of the nodes."""
    with contextlib.closing(RedisConnection.from_url(cluster.url, timeout=TIMEOUT, outage=outage)) as connection:
        yield connection


def reads(cluster: RedisCluster) -> list[int]:
    """Return how often each master has read from a client since the last call of this function by the test."""
    found = []
    for number in range(len(cluster.servers)):
        with contextlib.closing(cluster.servers[number].client()) as client:
            client.ping()  # connecting takes reads as well
            found.append(int(client.info("stats")["total_reads_processed"]))
    return found


def calls(cluster: RedisCluster, command: str) -> int:
    """Return how often the masters ran a command."""
    found = 0
    for server in cluster.servers:
        with contextlib.closing(server.client()) as client:
            rows: Any = client.info("commandstats")
            found += int(rows.get(f"cmdstat_{command}", {}).get("calls", 0))
    return found


def test_two_instances_share_each_limit(redis_cluster: RedisCluster) -> None:
    """On every master, two instances, one blocking and one on an event loop, admit exactly the limit of each key."""
    assert {redis_cluster.owner_of(f"{{resilience:ratelimit:shared:{key}}}") for key in KEYS} == {0, 1, 2}
    with connected(redis_cluster) as one, connected(redis_cluster) as other:
        blocking = TokenBucket("7/hour", store=RedisStore(one), name="shared")
        awaiting = TokenBucket("7/hour", store=RedisStore(other), name="shared")

        async def ask() -> list[bool]:
            found = [bool(decision) for decision in await asyncio.gather(*map(awaiting.aacquire, KEYS * 3))]
            found += [bool(await awaiting.aacquire(key)) for key in KEYS]
            await other.aclose()
            return found

        admitted = [bool(blocking.acquire(key)) for key in KEYS * 4]
        admitted += asyncio.run(ask())
        assert sum(admitted) == 7 * len(KEYS)
        assert not blocking.acquire(KEYS[0])


def test_keys_of_one_turn_take_one_round_trip_to_each_master(redis_cluster: RedisCluster) -> None:
    """64 keys asked for in one turn are 64 script calls, in one read of each master."""
    keys = [f"caller-{number}" for number in range(64)]
    with connected(redis_cluster, outage="allow") as connection:  # no fleet, whose rounds would be counted
        bucket = TokenBucket("1000/hour", store=RedisStore(connection), name="turn")

        async def turn() -> list[int]:
            """Return how often each master has read for one turn of 64 keys."""
            before = reads(redis_cluster)
            own = [after - first for first, after in zip(before, reads(redis_cluster), strict=True)]
            before = reads(redis_cluster)
            await asyncio.gather(*map(bucket.aacquire, keys))
            after = reads(redis_cluster)
            return [last - first - each for first, last, each in zip(before, after, own, strict=True)]

        async def ask() -> tuple[list[int], int]:
            for _ in range(2):  # the connections and the scripts are there then
                await asyncio.gather(*map(bucket.aacquire, keys))
            ran = calls(redis_cluster, "evalsha")
            turns = [await turn() for _ in range(5)]
            ran = calls(redis_cluster, "evalsha") - ran
            assert {(await bucket.apeek(key)).remaining for key in keys} == {1000 - 7}
            await connection.aclose()
            return [min(column) for column in zip(*turns, strict=True)], ran  # a client of the test may add reads

        spent, ran = asyncio.run(ask())
    assert spent == [1, 1, 1]
    assert ran == 5 * 64


@pytest.mark.parametrize("is_awaiting", [False, True], ids=["blocking", "awaiting"])
def test_every_operation_finds_the_master_of_its_key(redis_cluster: RedisCluster, *, is_awaiting: bool) -> None:
    """Looks, refunds, waits, resets and several rates work on each master, by calls that name another one first."""
    with connected(redis_cluster) as connection, asyncio.Runner() as runner:
        store = RedisStore(connection)
        bucket = TokenBucket("20/second", burst=2, store=store, name="operations")
        several = TokenBucket("100/second;3/hour", store=store, name="several")

        def run(blocking: Callable[..., Any], awaiting: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            return runner.run(awaiting(*arguments, **named)) if is_awaiting else blocking(*arguments, **named)

        for key in KEYS[:8]:
            assert run(bucket.peek, bucket.apeek, key).remaining == 2
            paid = run(bucket.acquire, bucket.aacquire, key, 2)
            assert paid.remaining == 0
            run(bucket.refund, bucket.arefund, key, paid)
            assert run(bucket.peek, bucket.apeek, key).remaining == 2
            run(bucket.acquire, bucket.aacquire, key, 2)
            assert run(bucket.acquire, bucket.aacquire, key, 2, wait=5).allowed
            assert [bool(run(several.acquire, several.aacquire, key)) for _ in range(4)] == [True, True, True, False]
            bucket.reset(key)
            several.reset(key)
            assert run(bucket.peek, bucket.apeek, key).remaining == 2
            assert run(several.peek, several.apeek, key).remaining == 3
        runner.run(connection.aclose())


def test_the_diagnosis_of_a_cluster(redis_cluster: RedisCluster) -> None:
    """A cluster whose masters serve all slots has nothing wrong with it, whichever node is named."""
    for server in redis_cluster.servers:
        with contextlib.closing(
            RedisConnection.from_url(f"redis+cluster://127.0.0.1:{server.port}", timeout=TIMEOUT)
        ) as connection:
            assert connection.diagnose() is None
            assert connection.cluster is not None
            assert [shard.endpoint.port for shard in connection.cluster.shards if shard.endpoint] == sorted(
                each.port for each in redis_cluster.servers
            )


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window", "sliding-window-counter"])
async def test_windows_are_on_the_master_of_their_key(redis_cluster: RedisCluster, strategy: str) -> None:
    """Calls of both colours count in the windows of each key, on whichever master it is."""
    with connected(redis_cluster, outage="deny") as connection:
        store = RedisStore(connection)
        opened = store.open_windows(strategy, Quota("windows", Rate(2, 3600), 2), monotonic)
        for key in KEYS:
            found = [opened.take(key), await opened.atake(key), opened.take(key), await opened.apeek(key)]
            assert [each.allowed for each in found] == [True, True, False, False]
            opened.reset(key)
            assert opened.peek(key).remaining == 2
        await connection.aclose()


def test_leases_need_one_server(redis_cluster: RedisCluster) -> None:
    """The error names the option: a key, and what was leased from it, may move to another master."""
    with connected(redis_cluster) as connection, pytest.raises(ConfigurationError, match=r"lease=10.*redis\+cluster"):
        TokenBucket("100/second", store=RedisStore(connection), lease=10)


def test_the_strategy_of_limits_on_its_own_cluster_storage(redis_cluster: RedisCluster) -> None:
    """The strategy `token-bucket` admits exactly the limit of each key on limits' own storage of a cluster."""
    item = parse("3/hour")
    kept = storage.RedisClusterStorage(redis_cluster.url)
    blocking = TokenBucketRateLimiter(kept)
    for key in KEYS[:6]:
        assert [blocking.hit(item, key) for _ in range(4)] == [True, True, True, False]
    assert kept.storage is not None
    kept.storage.close()

    async def ask() -> None:
        kept = aio.storage.RedisClusterStorage(f"async+{redis_cluster.url}", implementation="redispy")
        awaiting = AsyncTokenBucketRateLimiter(kept)
        for key in KEYS[6:12]:
            assert [await awaiting.hit(item, key) for _ in range(4)] == [True, True, True, False]
        bridge: Any = kept.bridge  # limits has no public close
        await bridge.storage.aclose()

    asyncio.run(ask())


def test_a_cluster_with_a_password(redis_cluster: RedisCluster) -> None:
    """The password of the URL is that of every node; a wrong one is named by the diagnosis, without its text."""
    where = redis_cluster.url.removeprefix("redis+cluster://")
    with contextlib.ExitStack() as stack:
        for server in redis_cluster.servers:
            # One connection, which stays authenticated.
            client = stack.enter_context(server.client().client())  # type: ignore[no-untyped-call]  # redis-py
            client.config_set("requirepass", "hunter2")
            stack.callback(client.config_set, "requirepass", "")
        for password, reason in (("hunter2", None), ("hunter3", "password")):
            connection = RedisConnection.from_url(f"redis+cluster://:{password}@{where}", timeout=TIMEOUT)
            with contextlib.closing(connection):
                found = connection.diagnose()
                assert found is None if reason is None else reason in (found or "")
                assert "hunter" not in (found or "") + repr(connection)
                bucket = TokenBucket("5/hour", store=RedisStore(connection), name="guarded")
                assert [bucket.acquire(key).remaining for key in KEYS[:6]] == [4] * 6
