"""Rate limits: one decision in this process's memory, and one on a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import harness
import samples
from harness import Case, Contender, Sample, Session, Unit

from resilience import Pipeline, RateLimit, TokenBucket

__all__ = ("CASES",)

_PLENTY = "1000000000/second"
_SLOW, _BURST = "1000000/day", 1_000_000
"""A bucket that is never empty and never full again: a client in the middle of spending."""
_KEYS = [f"client-{number}" for number in range(1000)]
_TASKS = 64


def work(order: int) -> int:
    """Do as little as a function can."""
    return order


def _limits(strategy: str) -> Callable[[Session], Sample]:
    def build(_session: Session) -> Sample:
        limits = harness.peer("limits")
        storage = limits.storage.MemoryStorage()
        limiter = getattr(harness.peer("limits.strategies"), strategy)(storage)
        sample = samples.keyed(limiter.hit, _KEYS, limits.parse(_PLENTY))

        def fresh(number: int) -> float:
            storage.reset()  # the moving window keeps an entry a call: let it not grow from sample to sample
            return sample(number)

        return fresh

    return build


def _pyresilience(_session: Session) -> Sample:
    module = harness.peer("pyresilience._rate_limiter", "pyresilience")
    config = harness.peer("pyresilience").RateLimiterConfig(max_calls=10**9, period=1)
    return samples.calls(module.RateLimiter(config).acquire)


def _pyresilience_policy(_session: Session) -> Sample:
    module = harness.peer("pyresilience")
    config = module.RateLimiterConfig(max_calls=10**9, period=1)
    return samples.calls(module.resilient(rate_limiter=config)(work), 1)


ACQUIRE = Case(
    "bucket",
    "One decision in memory",
    Contender("empty loop", lambda _session: samples.idle(_KEYS)),
    (
        Contender(
            "resilience, acquire(key), buckets in use",
            lambda _session: samples.keyed(TokenBucket(_SLOW, _BURST).acquire, _KEYS),
            "token bucket; the answer has the remaining tokens and the time until the next one",
            350,
        ),
        Contender(
            "resilience, acquire(key), buckets full again",
            lambda _session: samples.keyed(TokenBucket(_PLENTY).acquire, _KEYS),
            "the limiter has forgotten the bucket of each call, as for clients that stay below their rate",
        ),
        Contender("pyresilience", _pyresilience, "token bucket without keys; the answer is yes or no"),
        Contender("limits, fixed window", _limits("FixedWindowRateLimiter"), "the answer is yes or no"),
        Contender("limits, moving window", _limits("MovingWindowRateLimiter"), "emptied before each sample"),
    ),
    note=(
        "1,000 keys in turn, one thread, every call allowed. The time that limits spends in its timer threads is not "
        "counted."
    ),
)

POLICY = Case(
    "bucket-policy",
    "The same around a call",
    Contender("bare call", lambda _session: samples.calls(work, 1)),
    (
        Contender(
            "resilience, RateLimit in a pipeline",
            lambda _session: samples.calls(Pipeline("bench", RateLimit(_PLENTY))(work), 1),
            "one key",
            450,
        ),
        Contender("pyresilience", _pyresilience_policy, "its decorator; no keys"),
    ),
)


def _store(session: Session) -> Any:
    url = session.redis_url
    from resilience.ratelimit import RedisStore
    from resilience.redis import RedisConnection

    # The bound is for outages; a busy machine must not turn a slow reply into a decision made alone.
    connection = RedisConnection.from_url(url, timeout=5)
    session.stack.callback(connection.close)
    return RedisStore(connection)


def _client(session: Session) -> Any:
    client = harness.peer("redis").Redis.from_url(session.redis_url, socket_timeout=5)
    session.stack.callback(client.close)
    return client


def _ping(session: Session) -> Sample:
    client = _client(session)
    return samples.accounted(session, "PING", client, samples.calls(client.ping, clock=time.perf_counter_ns))


def _acquire(session: Session) -> Sample:
    bucket = TokenBucket(_PLENTY, store=_store(session))
    sample = samples.calls(bucket.acquire, "client-7", clock=time.perf_counter_ns)
    return samples.accounted(session, _ACQUIRE, _client(session), sample)


def _limits_redis(session: Session) -> Sample:
    limits = harness.peer("limits")
    storage = limits.storage.RedisStorage(session.redis_url)
    limiter = harness.peer("limits.strategies").FixedWindowRateLimiter(storage)
    return samples.calls(limiter.hit, limits.parse(_PLENTY), "client-7", clock=time.perf_counter_ns)


_ACQUIRE, _AACQUIRE = "resilience, TokenBucket.acquire(key)", "resilience, TokenBucket.aacquire(key)"
_MANY = "resilience, aacquire(key), 64 keys"

REDIS = Case(
    "redis-bucket",
    "One decision on Redis, blocking, one thread",
    Contender("PING", _ping, "redis-py, one connection"),
    (
        Contender(_ACQUIRE, _acquire, "one script for all callers of one turn", 0.85),
        Contender("limits, fixed window", _limits_redis, "redis-py; also a script"),
    ),
    unit=Unit.SHARE,
    note="A real server on loopback, in elapsed time.",
    largest=5000,
)


def _crowd(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[Any]]) -> Sample:
    """Time `await function()` in 64 tasks at once."""

    async def one(number: int) -> None:
        for _ in range(number):
            await function()

    async def all_of_them(number: int) -> float:
        begin = time.perf_counter_ns()
        await asyncio.gather(*(one(number) for _ in range(_TASKS)))
        return (time.perf_counter_ns() - begin) / (number * _TASKS)

    return lambda number: loop.run_until_complete(all_of_them(-(-number // _TASKS)))


def _aping(session: Session) -> Sample:
    loop, url = session.new_loop(), session.redis_url
    client = harness.peer("redis.asyncio", "redis").Redis.from_url(url, socket_timeout=5)
    session.stack.callback(lambda: loop.run_until_complete(client.aclose()))
    return samples.accounted(session, "PING", _client(session), _crowd(loop, client.ping), _TASKS)


def _aacquire(name: str, keys: int) -> Callable[[Session], Sample]:
    def build(session: Session) -> Sample:
        loop, store = session.new_loop(), _store(session)
        session.stack.callback(lambda: loop.run_until_complete(store.connection.aclose()))
        bucket = TokenBucket(_PLENTY, store=store)
        turn = itertools.cycle(_KEYS[:keys])
        sample = _crowd(loop, lambda: bucket.aacquire(next(turn)))
        return samples.accounted(session, name, _client(session), sample, _TASKS)

    return build


REDIS_AIO = Case(
    "aio-redis-bucket",
    "One decision on Redis, awaiting, 64 tasks",
    Contender("PING", _aping, "redis-py asyncio, a connection a task"),
    (
        Contender(_AACQUIRE, _aacquire(_AACQUIRE, 1), "one key: one script, one round trip"),
        Contender(_MANY, _aacquire(_MANY, 64), "64 keys, a task at a time each"),
    ),
    unit=Unit.SHARE,
    note=(
        "In elapsed time. Tasks that request a token in the same turn of their loop share a round trip. The goals are "
        "170,000 decisions a second on one key, and 100,000 on 64 keys at 9 us of client CPU."
    ),
    largest=20_000,
)


def _leased(lease: int | str) -> Callable[[Session], Sample]:
    def build(session: Session) -> Sample:
        return samples.calls(TokenBucket(_PLENTY, store=_store(session), lease=lease).acquire, "client-7")

    return build


def _leased_aio(session: Session) -> Sample:
    loop, store = session.new_loop(), _store(session)
    session.stack.callback(lambda: loop.run_until_complete(store.connection.aclose()))
    bucket = TokenBucket(_PLENTY, store=store, lease="auto")
    return samples.awaits(session, lambda _number: bucket.aacquire("client-7"), loop)


REDIS_LEASES = Case(
    "redis-leases",
    "One decision on Redis with leases",
    Contender("bare call", lambda _session: samples.calls(work, 1)),
    (
        Contender('resilience, acquire(key), lease="auto"', _leased("auto"), "a lease covers 10,000 calls", 1000),
        Contender('resilience, aacquire(key), lease="auto"', _leased_aio, "the same in one task", 1000),
        Contender(
            "resilience, acquire(key), lease=50", _leased(50), "one call in 38 asks for a lease, and waits for it"
        ),
    ),
    note=(
        "CPU time of the thread that calls, with its calls to the server. One key, one thread or one task. The server "
        "is on loopback."
    ),
)

CASES = (ACQUIRE, POLICY, REDIS, REDIS_AIO, REDIS_LEASES)
