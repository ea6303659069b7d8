"""The state on the server, and replies, after faults: no reply reaches another caller, and keys stay bounded."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest
import redis
from redis_process import RedisProcess
from tcp_proxy import TcpProxy

from resilience.errors import ConfigurationError
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.realtime, pytest.mark.once]
KEYS = 10_000


def store_of(url: str, **options: Any) -> RedisStore:
    return RedisStore(RedisConnection.from_url(url, **{"outage": "deny"} | options))


def test_a_late_reply_reaches_no_later_thread(redis_server: RedisProcess) -> None:
    """A reply that comes after its caller has gone is never the answer of the next caller."""
    with TcpProxy(redis_server.port) as proxy:
        store = store_of(proxy.url, max_connections=1, timeout=0.2)
        wide, tight = (TokenBucket("1/hour", burst, store, name=f"b{burst}") for burst in (1000, 10))
        deadline = time.monotonic() + 10
        while not wide.acquire("warm-up"):
            assert time.monotonic() < deadline
        for number in range(3):
            proxy.latency = 0.3
            assert not wide.acquire("late")  # the reply says 999 or so, and comes 0.1 s after the caller has gone
            proxy.latency = 0.0
            while store.outage.is_down:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            assert [tight.acquire(f"k{number}").remaining for _ in range(3)] == [9, 8, 7]
        store.connection.close()


async def test_a_late_reply_reaches_no_later_task(redis_server: RedisProcess) -> None:
    """The same for tasks, whose callers are cancelled by a time limit of their own."""
    with TcpProxy(redis_server.port) as proxy:
        store = store_of(proxy.url, max_connections=1, timeout=1)
        wide, tight = (TokenBucket("1/hour", burst, store, name=f"b{burst}") for burst in (1000, 10))
        assert await wide.aacquire("warm-up")
        for number in range(5):
            proxy.latency = 0.05
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await wide.aacquire("late")
            proxy.latency = 0.0
            assert [(await tight.aacquire(f"k{number}")).remaining for _ in range(3)] == [9, 8, 7]
        await store.connection.aclose()


def test_ten_thousand_keys(own_redis_server: RedisProcess) -> None:
    """10,000 keys take less than 250 bytes each on the server, and each of them expires."""
    store = store_of(own_redis_server.url, timeout=2)
    bucket = TokenBucket("100/day", store=store)
    with contextlib.closing(own_redis_server.client()) as client:
        before = client.info("memory")["used_memory"]

        async def ask() -> None:
            for first in range(0, KEYS, 500):
                assert all(await asyncio.gather(*[bucket.aacquire(f"client-{first + each}") for each in range(500)]))
            await store.connection.aclose()

        asyncio.run(ask())
        after = client.info("memory")["used_memory"]
        keyspace = client.info("keyspace")["db0"]
    assert keyspace["keys"] == keyspace["expires"] == KEYS
    assert (after - before) / KEYS < 250
    assert 0 < keyspace["avg_ttl"] <= 865_000


@pytest.mark.parametrize("parameter", ["decode_responses=true", "decode_responses=True&protocol=3"])
async def test_decoded_replies(redis_server: RedisProcess, parameter: str) -> None:
    """A URL that asks for decoded replies, or for another protocol, changes no decision, in either colour."""
    store = store_of(f"{redis_server.url}?{parameter}", timeout=2)
    bucket = TokenBucket("10/hour", store=store)
    assert [bucket.acquire("k").remaining, (await bucket.aacquire("k")).remaining] == [9, 8]
    refund = bucket.acquire("k")
    bucket.refund("k", refund)
    assert bucket.acquire("k").remaining == 7
    assert await asyncio.to_thread(store._runner.outage._trial)
    await store.connection.aclose()


@pytest.mark.parametrize("decode", [True, False])
def test_a_client_handed_in(redis_server: RedisProcess, *, decode: bool) -> None:
    """A client of redis-py is refused at once, with the class to use: its bounds and retries are not ours."""
    client: Any = redis_server.client(decode=decode)
    with contextlib.closing(client), pytest.raises(ConfigurationError, match="a RedisConnection"):
        RedisStore(client)
    with pytest.raises(ConfigurationError, match="a RedisConnection"):
        RedisStore(redis.asyncio.Redis())  # type: ignore[arg-type]  # the mistake


def test_threads_during_a_flush_of_scripts(redis_server: RedisProcess) -> None:
    """Scripts that are flushed again and again cost threads no decision, and the limit stays exact."""
    store = store_of(redis_server.url, timeout=2)
    bucket, admitted = TokenBucket("1/hour", 300, store), list[bool]()

    def work() -> None:
        admitted.extend(bool(bucket.acquire("k")) for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(4)]
    with contextlib.closing(redis_server.client()) as client:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            client.script_flush()
        for thread in threads:
            thread.join()
    assert sum(admitted) == 300
    assert not store.outage.is_down
    store.connection.close()
