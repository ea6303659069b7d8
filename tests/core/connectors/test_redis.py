"""Pools of redis-py clients, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

import pytest
import redis
import redis.asyncio
from redis_process import RedisProcess

from resilience import AsyncPool, ConfigurationError, Pool, PoolTimeoutError
from resilience.connectors import aio_redis_client, redis_client

pytestmark = pytest.mark.redis


def connections(server: RedisProcess) -> int:
    """Return the number of connections that the server has received."""
    with redis.Redis.from_url(server.url) as client:
        found: dict[str, Any] = client.info("stats")
        return int(found["total_connections_received"])


def test_a_client_is_lent_again_with_its_one_connection(redis_server: RedisProcess) -> None:
    """Commands, a pipeline and a check use the one connection of the client."""
    before = connections(redis_server)
    with Pool(redis_client(redis_server.url), alive_bypass=0) as pool:
        for _ in range(3):
            with pool.connection() as client:
                client.set("stock", 4)
                with client.pipeline() as pipeline:
                    pipeline.incr("stock")
                    pipeline.get("stock")
                    assert pipeline.execute() == [5, b"5"]
        assert connections(redis_server) == before + 2  # one of these counts


def test_nothing_is_retried(own_redis_server: RedisProcess) -> None:
    """A reply that does not come costs one timeout, and the next borrower gets its own reply."""
    with Pool(redis_client(own_redis_server.url, timeout="50ms")) as pool:
        with pytest.raises(redis.TimeoutError), pool.connection() as client:
            client.blpop(["nothing"], timeout=0.3)
        with pool.connection() as client:
            client.set("stock", 4)
            assert client.get("stock") == b"4"


def test_a_client_that_is_still_in_use_is_closed(redis_server: RedisProcess) -> None:
    """A borrower that keeps a subscription open has its client closed, not lent to another."""
    with Pool(redis_client(redis_server.url)) as pool:
        with pool.connection() as first:
            subscription: Any = first.pubsub()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            subscription.subscribe("news")
        assert pool.snapshot()["closed"] == {"reset failed": 1}
        with pool.connection() as second:
            assert second is not first
            assert second.ping()
        subscription.close()


def test_a_server_that_comes_back_is_used_again(own_redis_server: RedisProcess) -> None:
    """While the server is down borrowers get errors with its refusal; then the pool connects again."""
    with Pool(redis_client(own_redis_server.url), connection_timeout="300ms", alive_bypass=0) as pool:
        with pool.connection() as client:
            client.ping()
        own_redis_server.kill()
        with pytest.raises(PoolTimeoutError) as caught:
            pool.acquire()
        assert isinstance(caught.value.__cause__, redis.ConnectionError)
        own_redis_server.start()
        with pool.connection(timeout=20) as client:
            assert client.ping()


def test_a_cancelled_command_leaves_no_reply_behind(redis_server: RedisProcess) -> None:
    """After a cancellation the next borrower gets its own reply (CVE-2023-28858)."""

    async def main() -> None:
        async with AsyncPool(aio_redis_client(redis_server.url), maximum_pool_size=1) as pool:
            for number in range(20):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.001), pool.connection() as client:
                        await client.blpop(["nothing"], timeout=0.5)
                async with pool.connection() as client:
                    await client.set("stock", number)
                    assert await client.get("stock") == b"%d" % number
            assert pool.snapshot()["in_use"] == 0

    asyncio.run(main())


def test_an_async_client_that_is_still_in_use_is_closed(redis_server: RedisProcess) -> None:
    """A task that keeps a subscription open has its client closed; others are lent again."""

    async def main() -> None:
        async with AsyncPool(aio_redis_client(redis_server.url), alive_bypass=0) as pool:
            async with pool.connection() as first:
                subscription: Any = first.pubsub()
                await subscription.subscribe("news")
            assert pool.snapshot()["closed"] == {"reset failed": 1}
            async with pool.connection() as second:
                assert await second.ping()
            async with pool.connection() as third:
                assert third is second
            await subscription.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("make", [redis_client, aio_redis_client])
@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        ("http://:secret@ledger", {}, "url="),
        ("redis://:secret@ledger:port", {}, "url="),
        ("redis://:secret@ledger?colour=blue", {}, "url="),
        ("redis://:secret@ledger", {"timeout": 0}, "timeout="),
        ("redis://:secret@ledger", {"connect_timeout": "soon"}, "connect_timeout="),
    ],
)
def test_wrong_arguments_are_refused(make: Any, url: str, arguments: dict[str, Any], message: str) -> None:
    """An argument that cannot work is named when the connector is made, and no text shows the password."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        make(url, **arguments)
    assert not re.search("secret", str(caught.value))
