"""Decide which policies a pipeline has, and in which order. Pure.

Policies come from settings and from code. The recommended order, outermost first, is fallback, cache, single flight,
retry, hedge, breaker, rate limit, bulkhead, thread pool, timeout: an attempt of a retry passes the breaker and the
limits again, a refused call starts no timeout, and the fallback sees the outcome of all other policies. The order of
policies from code is the user's own and is never changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ("compose",)

_RECOMMENDED = (
    "fallback",
    "cache",
    "singleflight",
    "retry",
    "hedge",
    "breaker",
    "ratelimit",
    "bulkhead",
    "threadpool",
    "timeout",
)


def compose(given: Iterable[Any], configured: Iterable[Any]) -> tuple[Any, ...]:
    """Return all policies, outermost first.

    A policy from code replaces the configured policy of its kind. Policies from code keep their order. Each configured
    policy goes directly inside the last policy that the recommended order puts outside of it.
    """
    policies = list(given)
    kinds = {_kind(policy) for policy in policies}
    for policy in configured:
        if _kind(policy) not in kinds:
            policies.insert(_place(policies, _rank(policy)), policy)
    return tuple(policies)


def _place(policies: list[Any], rank: int) -> int:
    outside = [position for position, policy in enumerate(policies) if 0 <= _rank(policy) < rank]
    return outside[-1] + 1 if outside else 0


def _rank(policy: object) -> int:
    """Return the place in the recommended order, -1 for a kind of a third party."""
    kind = _kind(policy)
    return _RECOMMENDED.index(kind) if kind in _RECOMMENDED else -1


def _kind(policy: object) -> str:
    return str(getattr(policy, "kind", "")).replace("_", "")
