from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_process import RedisProcess

from resilience.ratelimit import MemoryStore, RedisStore, Store
from resilience.redis import RedisConnection


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Provide a store in this process, and one on a real server: they keep the same laws."""
    if request.param == "memory":
        yield MemoryStore()
        return
    server: RedisProcess = request.getfixturevalue("redis_server")
    connection = RedisConnection.from_url(server.url, timeout=5, outage="deny")
    yield RedisStore(connection)
    connection.close()
