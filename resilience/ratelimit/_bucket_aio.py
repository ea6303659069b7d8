"""Awaiting a bucket that only tells what it would refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.ratelimit._bucket import TokenBucket
    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._store import Ledger

__all__ = ("acquire_in_shadow",)


async def acquire_in_shadow(bucket: TokenBucket, ledger: Ledger, key: str, cost: int) -> Decision:
    """Take `cost` tokens, or none; the answer is yes either way."""
    decision = await ledger.atake(key, cost)
    return decision if decision.allowed else bucket.let_through(decision)
