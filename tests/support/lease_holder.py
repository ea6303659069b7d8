"""An instance that leases tokens and then waits for its end."""

from __future__ import annotations

import sys

from resilience.ratelimit import RedisStore, TokenBucket
from resilience.redis import RedisConnection


def main(url: str) -> None:
    """Spend two tokens, say how many are at hand, and wait until the input ends."""
    connection = RedisConnection.from_url(url, timeout=2)
    limiter = TokenBucket("10/second", 1000, RedisStore(connection), name="held", lease=20)
    for _ in range(12):
        limiter.acquire("k")
    sys.stdout.write("leased\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
