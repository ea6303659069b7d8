"""The script `token_bucket.lua` as the Redis clients of limits run it: its key, its arguments and its reply. No I/O."""

from __future__ import annotations

import functools

from resilience.ratelimit import Decision, Quota
from resilience.ratelimit.on_redis._codec import BucketCodec, units_of

__all__ = ("arguments_for", "decision_from", "script_key")

_units = functools.lru_cache(1024)(units_of)


@functools.lru_cache(1024)
def _codec(quota: Quota) -> BucketCodec:
    return BucketCodec(quota, prefix="")  # the keys are those of limits


def script_key(key: str) -> bytes:
    """Return a key of limits as Redis stores it."""
    return key.encode("utf-8", "surrogatepass")


def arguments_for(quota: Quota, cost: int) -> tuple[int, ...]:
    """Return the arguments for a payment of all of `cost` or nothing. A cost of 0 takes nothing."""
    return (*_units(quota), cost)


def decision_from(reply: object, quota: Quota, cost: int) -> Decision:
    """Return the decision of a reply. Raises redis-py's `InvalidResponse` for a reply that the script does not give."""
    return _codec(quota).decode(reply, cost)
