"""The strategy `token-bucket` for the limits package, and so for Flask-Limiter and slowapi. An import registers it.

limits, Flask-Limiter and slowapi find a strategy by its name in the tables `limits.strategies.STRATEGIES` and
`limits.aio.strategies.STRATEGIES`. Import this module before you build the extension:

>>> import resilience.limits_strategy
>>> from limits import parse, storage, strategies
>>> limiter = strategies.STRATEGIES["token-bucket"](storage.MemoryStorage())
>>> [limiter.hit(parse("2/minute"), "client-42") for _ in range(3)]
[True, True, False]

The buckets are in the storage that limits was given: `memory://`, and each `redis` and `valkey` URL of limits, blocking
and asynchronous, with its cluster and Sentinel forms. The strategy refuses the other storages of limits, because they
cannot run a script on their server.
"""

from limits.aio.strategies import STRATEGIES as AIO_STRATEGIES
from limits.strategies import STRATEGIES

from resilience.limits_strategy._awaiting import AsyncTokenBucketRateLimiter
from resilience.limits_strategy._blocking import TokenBucketRateLimiter
from resilience.limits_strategy._items import STRATEGY

__all__ = ("STRATEGY", "AsyncTokenBucketRateLimiter", "TokenBucketRateLimiter")

STRATEGIES[STRATEGY] = TokenBucketRateLimiter  # type: ignore[assignment]  # limits types the table by its own classes
AIO_STRATEGIES[STRATEGY] = AsyncTokenBucketRateLimiter  # type: ignore[assignment]  # as above
