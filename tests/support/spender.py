"""One of several processes that spend from one bucket; in a module of its own, which a spawned process can import."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection

__all__ = ("Spent", "spend")


@dataclass(frozen=True)
class Spent:
    """The tokens that a process got, and its moments before and after its first decision, by the monotonic clock."""

    tokens: int
    asked: float
    answered: float


def spend(url: str, seconds: float, skew: float, together: Barrier, admitted: Queue[Spent]) -> None:
    """Take all tokens for some seconds, with a clock that is `skew` seconds off, and put their number in the queue."""
    real = time.time
    time.time = lambda: real() + skew
    connection = RedisConnection.from_url(url, timeout=2, outage="deny")
    limiter = TokenBucket("500/second", 1000, RedisStore(connection), name="shared")
    limiter.acquire("warm-up")
    together.wait(60)
    asked = time.monotonic()
    count = int(limiter.acquire("k").allowed)
    answered = time.monotonic()
    while time.monotonic() < asked + seconds:
        if limiter.acquire("k"):
            count += 1
        else:
            time.sleep(0.002)
    admitted.put(Spent(count, asked, answered))
    connection.close()
