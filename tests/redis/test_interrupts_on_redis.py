"""An interrupt at any point of a blocking decision leaves the limiter as good as new."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from interrupts import ShutdownRequested, every_interrupt, in_another_thread
from redis_process import RedisProcess

from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

pytestmark = [pytest.mark.redis, pytest.mark.realtime]


def test_interrupts(redis_server: RedisProcess) -> None:
    """No interrupt of a call that has its connection takes the connection away, or leaves a lock taken.

    A call that connects is left out: an exception that is set for this thread can hit the thread that it starts.
    """

    def make() -> tuple[Callable[[], object], Callable[[], object]]:
        # Two connections: while the exception is being handled, its traceback may hold the one that was in use.
        connection = RedisConnection.from_url(redis_server.url, outage="deny", timeout=2, max_connections=2)
        limiter = TokenBucket("1000000/second", store=RedisStore(connection))
        assert limiter.acquire("k")

        def check() -> None:
            with contextlib.closing(connection):
                start = time.monotonic()
                while not in_another_thread(lambda: limiter.acquire("k"), 5):
                    assert time.monotonic() - start < 1, "refused"
                assert time.monotonic() - start < 1, "waited"

        return (lambda: limiter.acquire("k")), check

    # About a hundred on 3.11; from 3.12 on fewer instructions are traced.
    assert list(every_interrupt(make, ShutdownRequested))
