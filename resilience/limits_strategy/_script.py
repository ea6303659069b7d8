"""The script `lease.lua` as the Redis clients of limits run it: its key, its arguments and its reply. No I/O."""

from __future__ import annotations

import functools

from resilience.ratelimit import Decision, Quota
from resilience.ratelimit.on_redis._lease_codec import LeaseCodec

__all__ = ("arguments_for", "decision_from", "script_key")

_NO_CLOCK = 0.0
_codec = functools.lru_cache(1024)(LeaseCodec)


def script_key(key: str) -> bytes:
    """Return a key of limits as Redis stores it."""
    return key.encode("utf-8", "surrogatepass")


def arguments_for(quota: Quota, cost: int) -> tuple[int, ...]:
    """Return the arguments for a payment of all of `cost` or nothing. A cost of 0 takes nothing."""
    return _codec(quota).encode(cost, cost)


def decision_from(reply: object, quota: Quota, cost: int) -> Decision:
    """Return the decision of a reply. Raises redis-py's `InvalidResponse` for a reply that the script does not give."""
    grant = _codec(quota).decode(reply)
    return Decision.of(quota, cost, allowed=grant.tokens == cost, full_at=grant.missing, made_at=_NO_CLOCK)
