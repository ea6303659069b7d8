"""One of several processes that spend from one bucket; in a module of its own, which a spawned process can import."""

from __future__ import annotations

import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

__all__ = ("spend",)


def spend(url: str, skew: float, together: Barrier, admitted: Queue[int]) -> None:
    """Take all tokens for two seconds, with a clock that is `skew` seconds off, and print their number."""
    real = time.time
    time.time = lambda: real() + skew
    connection = RedisConnection.from_url(url, timeout=2, outage="deny")
    limiter = TokenBucket("500/second", 1000, RedisStore(connection), name="shared")
    limiter.acquire("warm-up")
    count = 0
    together.wait(60)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        if limiter.acquire("k"):
            count += 1
        else:
            time.sleep(0.002)
    admitted.put(count)
    connection.close()
