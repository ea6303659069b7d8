"""Rate limits on a real Redis with many callers in one process: threads, and tasks with keys of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from harness import Case, Contender, Sample, Session, Unit

from resilience import TokenBucket

__all__ = ("CASES",)

_PLENTY = "1000000000/second"
_CALLERS = 64
_KEYS = [f"client-{number}" for number in range(_CALLERS)]
_CLOCKS = {"elapsed": time.perf_counter_ns, "CPU": time.process_time_ns}


def _bucket(session: Session) -> TokenBucket:
    from resilience.ratelimit import RedisStore
    from resilience.redis import RedisConnection

    connection = RedisConnection.from_url(session.redis_url, timeout=5, outage="deny")
    session.stack.callback(connection.close)
    return TokenBucket(_PLENTY, store=RedisStore(connection))


def _threads(callers: int, clock: str) -> Callable[[Session], Sample]:
    """Time decisions in `callers` threads at once, each with a key of its own."""

    def build(session: Session) -> Sample:
        acquire, now = _bucket(session).acquire, _CLOCKS[clock]

        def sample(number: int) -> float:
            each = -(-number // callers)
            start = threading.Barrier(callers + 1)

            def work(key: str) -> None:
                start.wait()
                for _ in range(each):
                    acquire(key)

            threads = [threading.Thread(target=work, args=(key,)) for key in _KEYS[:callers]]
            for thread in threads:
                thread.start()
            begin = now()
            start.wait()
            for thread in threads:
                thread.join()
            return (now() - begin) / (each * callers)

        return sample

    return build


def _tasks(keys: int, clock: str) -> Callable[[Session], Sample]:
    """Time decisions in 64 tasks at once, which share `keys` keys."""

    def build(session: Session) -> Sample:
        loop, bucket, now = session.new_loop(), _bucket(session), _CLOCKS[clock]

        async def one(key: str, number: int) -> None:
            for _ in range(number):
                await bucket.aacquire(key)

        async def all_of_them(each: int) -> float:
            begin = now()
            await asyncio.gather(*(one(_KEYS[task % keys], each) for task in range(_CALLERS)))
            return (now() - begin) / (each * _CALLERS)

        return lambda number: loop.run_until_complete(all_of_them(-(-number // _CALLERS)))

    return build


THROUGHPUT = Case(
    "redis-callers",
    "One decision on Redis, many callers in one process",
    Contender("one thread", _threads(1, "elapsed"), "a command each"),
    (
        Contender("8 threads, 8 keys", _threads(8, "elapsed"), "4 connections"),
        Contender("64 threads, 64 keys", _threads(64, "elapsed"), "one thread asks for all that wait", 3),
        Contender("64 tasks, one key", _tasks(1, "elapsed"), "one command for 64 decisions"),
        Contender("64 tasks, 64 keys", _tasks(64, "elapsed"), "one command for 64 decisions"),
    ),
    unit=Unit.SHARE,
    note="In elapsed time. A share of 3 means three times the decisions that one thread makes.",
    smallest=50 * _CALLERS,
    largest=20_000,
)

CLIENT_CPU = Case(
    "redis-client-cpu",
    "Processor time of the client for one decision on Redis",
    Contender("one thread", _threads(1, "CPU"), "a command each"),
    (
        Contender("64 threads, 64 keys", _threads(64, "CPU"), "one thread asks for all that wait"),
        Contender("64 tasks, one key", _tasks(1, "CPU"), "one command for 64 decisions"),
        Contender("64 tasks, 64 keys", _tasks(64, "CPU"), "one command for 64 decisions"),
    ),
    unit=Unit.SHARE,
    note="In processor time of all threads of the process, which a busy machine disturbs least.",
    smallest=50 * _CALLERS,
    largest=20_000,
)

CASES = (THROUGHPUT, CLIENT_CPU)
