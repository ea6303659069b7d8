"""Asking Redis and awaiting the answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resilience.redis._script_aio import run_awaiting

if TYPE_CHECKING:
    from resilience.ratelimit._decision import Decision
    from resilience.ratelimit._redis import RedisLedger

__all__ = ("take",)


async def take(ledger: RedisLedger, key: str, cost: int, allowance: float) -> Decision:
    """Pay `cost` tokens on Redis, or decide alone while it is away. Never raises because of Redis."""
    store = ledger.store
    redis_key, arguments = ledger.question(key, cost, allowance)
    with store.outage.attempt() as attempt:
        if attempt.may_try:
            # Redis answers a command at a time: connecting, waiting for a connection and the reply share one bound.
            async with asyncio.timeout(store.connection.options.timeout):
                reply = await run_awaiting(store.script, store.connection.aio, redis_key, arguments)
            return ledger.answer(reply, cost)
    return ledger.alone(key, cost, allowance)
