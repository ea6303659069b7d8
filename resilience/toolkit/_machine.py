"""Which policies a pipeline gets when some are configured and some are given in code, and in what order. Pure."""

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

    One given in code replaces the configured one of its kind. Code keeps the order it chose; every configured policy
    takes the place right inside the last one that the recommended order puts outside of it.
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


def _rank(policy: Any) -> int:
    """Return the place in the recommended order, -1 for a kind of somebody else's making."""
    kind = _kind(policy)
    return _RECOMMENDED.index(kind) if kind in _RECOMMENDED else -1


def _kind(policy: Any) -> str:
    return str(getattr(policy, "kind", "")).replace("_", "")
