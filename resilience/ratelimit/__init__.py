"""Rate limits: token buckets in this process, or on a Redis that several processes share."""

from resilience.ratelimit._bucket import TokenBucket
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._memory import MemoryStore
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._policy import RateLimit
from resilience.ratelimit._rate import Rate
from resilience.ratelimit._reservation import Reservation
from resilience.ratelimit._store import (
    AcquiringBuckets,
    Buckets,
    LocalBuckets,
    PeekingBuckets,
    RefundingBuckets,
    SpendingBuckets,
    Store,
)
from resilience.ratelimit.on_redis._store import RedisStore

__all__ = (
    "AcquiringBuckets",
    "Buckets",
    "Decision",
    "LocalBuckets",
    "MemoryStore",
    "PeekingBuckets",
    "Quota",
    "Rate",
    "RateLimit",
    "RateLimitOptions",
    "RedisStore",
    "RefundingBuckets",
    "Reservation",
    "SpendingBuckets",
    "Store",
    "TokenBucket",
)
