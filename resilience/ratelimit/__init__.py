"""Rate limits: token buckets in this process or shared through Redis."""

from resilience.ratelimit._bucket import TokenBucket
from resilience.ratelimit._decision import Decision
from resilience.ratelimit._machine import Quota
from resilience.ratelimit._memory import MemoryStore
from resilience.ratelimit._options import RateLimitOptions
from resilience.ratelimit._policy import RateLimit
from resilience.ratelimit._rate import Rate
from resilience.ratelimit._redis import RedisStore
from resilience.ratelimit._store import Ledger, LocalLedger, SpendingLedger, Store

__all__ = (
    "Decision",
    "Ledger",
    "LocalLedger",
    "MemoryStore",
    "Quota",
    "Rate",
    "RateLimit",
    "RateLimitOptions",
    "RedisStore",
    "SpendingLedger",
    "Store",
    "TokenBucket",
)
