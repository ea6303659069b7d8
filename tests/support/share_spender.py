"""One of several processes that spend from one bucket while Redis is killed; it reads its orders from its input."""

from __future__ import annotations

import sys
import time

from resilience.fleet import Fleet
from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection


def main(url: str, instances: int) -> None:
    """Say when all instances are counted; then spend for each number of seconds that comes in, and say how much."""
    connection = RedisConnection.from_url(url, timeout=0.5)
    limiter = TokenBucket("200/second", 200, RedisStore(connection), name="shared")
    while Fleet.of(connection).instances < instances:
        limiter.acquire("k")
        time.sleep(0.005)
    sys.stdout.write("counted\n")
    sys.stdout.flush()
    for line in sys.stdin:
        begun, admitted = time.monotonic(), 0
        while time.monotonic() < begun + float(line):
            admitted += limiter.acquire("k").allowed
            time.sleep(0.001)
        sys.stdout.write(f"{admitted} {time.monotonic() - begun}\n")
        sys.stdout.flush()
    Fleet.of(connection).close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
