"""Rate limits: token buckets in this process, or on a Redis that several processes share."""

from resilience.ratelimit._bucket import TokenBucket
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._memory import MemoryStore
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._policy import RateLimit
from resilience.ratelimit._rate import Rate
from resilience.ratelimit._store import Buckets, LocalBuckets, RefundingBuckets, SpendingBuckets, Store
from resilience.ratelimit.on_redis._store import RedisStore

__all__ = (
    "Buckets",
    "Decision",
    "LocalBuckets",
    "MemoryStore",
    "Quota",
    "Rate",
    "RateLimit",
    "RateLimitOptions",
    "RedisStore",
    "RefundingBuckets",
    "SpendingBuckets",
    "Store",
    "TokenBucket",
)
