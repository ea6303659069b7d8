"""One of several processes that ask one Redis for decisions: `python deciders.py URL KEYS [TASKS]`, then numbers.

Each line on the standard input is a number of decisions, made by 64 tasks, or by TASKS. The answer is the CPU time that
they took, in nanoseconds.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

from resilience import TokenBucket
from resilience.ratelimit import RedisStore
from resilience.redis import RedisConnection

__all__ = ("TASKS",)

TASKS = 64


async def decide(bucket: TokenBucket, keys: list[str], number: int, tasks: int) -> None:
    """Make that many decisions, at most `tasks` at a time."""
    turn, left = itertools.cycle(keys), itertools.repeat(None, number)

    async def one() -> None:
        for _ in left:
            await bucket.aacquire(next(turn))

    await asyncio.gather(*(one() for _ in range(tasks)))


def main(url: str, keys: int, tasks: int = TASKS) -> None:
    """Answer each line."""
    connection = RedisConnection.from_url(url, timeout=5)  # the bound is for outages, as in `cases_limiter.py`
    bucket = TokenBucket("1000000000/second", store=RedisStore(connection))
    named = [f"client-{number}" for number in range(keys)]
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            begin = time.process_time_ns()
            runner.run(decide(bucket, named, int(line), tasks))
            print(time.process_time_ns() - begin, flush=True)
        runner.run(connection.aclose())


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
