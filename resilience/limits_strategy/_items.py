"""The terms of a limit as limits states them, read as those of a bucket. No I/O."""

from __future__ import annotations

import functools
import time

from limits import RateLimitItem, WindowStats

from resilience._support.keys import bounded_key
from resilience.errors import ConfigurationError, Problem
from resilience.ratelimit import Decision, Quota, Rate
from resilience.ratelimit._bucket import quota_of

__all__ = ("STRATEGY", "bucket_key", "checked_hits", "fits", "no_bucket", "quota_for", "unsupported", "window_stats")

STRATEGY = "token-bucket"
"""The name of the strategy."""

_QUOTA_NAME = "limits"
_SUPPORTED = (
    "memory:// or a redis or valkey URL of limits (also rediss, valkeys, +unix, +cluster and +sentinel), "
    "because the strategy token-bucket runs a script on the server"
)


def unsupported(storage: object, kind: str) -> ConfigurationError:
    """Return the error for a storage that cannot keep buckets.

    Args:
        storage: The storage.
        kind: `blocking` or `asynchronous`: the kind of storage that is needed.
    """
    return ConfigurationError(
        [Problem("storage", type(storage).__name__, f"a storage of the {kind} kind for {_SUPPORTED}")]
    )


@functools.lru_cache(1024)
def quota_for(amount: int, seconds: int, burst: int) -> Quota:
    """Return the quota of `amount` hits in `seconds`.

    Raises:
        ConfigurationError: The rate or the burst is out of range.
    """
    return quota_of(_QUOTA_NAME, Rate(amount, seconds), burst)


def bucket_key(item: RateLimitItem, identifiers: tuple[str, ...]) -> str:
    """Return the key of a bucket: limits' own key, with an end that no other strategy uses for a key.

    A change of the strategy then meets no value of another type. A long key is replaced by its hash.
    """
    return f"{bounded_key(item.key_for(*identifiers))}/{STRATEGY}"


def checked_hits(cost: object) -> int:
    """Return the cost. Raises `ConfigurationError` if it is not a whole number from 0 on."""
    if not isinstance(cost, int) or isinstance(cost, bool) or cost < 0:
        raise ConfigurationError([Problem("cost", cost, "a whole number from 0 on")])
    return cost


def fits(state: Decision, cost: int) -> bool:
    """Return whether a call of that cost fits into a bucket of this state."""
    return state.quota.spend(state.full_at, state.made_at, cost).is_paid


def window_stats(decision: Decision) -> WindowStats:
    """Return the remaining tokens, and the time at which there is one more.

    After a refusal it is the time at which the same call fits, so that Flask-Limiter and slowapi send it as
    `Retry-After`. A full bucket gets no more tokens: the time is now.
    """
    quota, remaining = decision.quota, decision.remaining
    if decision.allowed:
        beyond = decision.reset_after - quota.capacity + (remaining + 1) * quota.interval
        wait = min(decision.reset_after, max(0.0, beyond))
    else:
        wait = decision.reset_after if decision.retry_after is None else decision.retry_after
    return WindowStats(time.time() + wait, remaining)


def no_bucket(item: RateLimitItem) -> WindowStats:
    """Return the state of a limit of 0, which never admits a hit."""
    return WindowStats(time.time() + item.get_expiry(), 0)
