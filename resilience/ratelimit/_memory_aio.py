"""Awaiting what is already here: a coroutine, so that a forgotten `await` is reported instead of taken for a yes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._memory import MemoryLedger

__all__ = ("take",)


async def take(ledger: MemoryLedger, key: str, cost: int, allowance: float) -> Decision:
    """Pay `cost` tokens."""
    return ledger.take(key, cost, allowance)
