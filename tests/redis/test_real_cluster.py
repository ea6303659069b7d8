"""A cluster of three masters, of which the URL names one node."""

from __future__ import annotations

import contextlib
import time

import pytest
from redis_groups import RedisCluster

from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.servers]
TIMEOUT = 0.5
SLACK = 1.0  # a busy machine may keep a call for longer than its bound


def test_a_limiter_on_one_node_of_a_cluster(redis_cluster: RedisCluster) -> None:
    """Keys of all nodes get their decision in time, by the node or without it, and the diagnosis names the cause."""
    url = f"redis://127.0.0.1:{redis_cluster.servers[0].port}/0"
    keys = [f"caller-{number}" for number in range(30)]
    with contextlib.closing(RedisConnection.from_url(url, timeout=TIMEOUT)) as connection:
        bucket = TokenBucket("1000000/hour", store=RedisStore(connection))
        for key in keys:
            since = time.monotonic()
            assert bucket.acquire(key)
            assert time.monotonic() - since < TIMEOUT + SLACK
        assert "a node of a Redis Cluster" in (connection.diagnose() or "")
    assert {redis_cluster.owner_of(f"{{resilience:ratelimit:default:{key}}}") for key in keys} == {0, 1, 2}
